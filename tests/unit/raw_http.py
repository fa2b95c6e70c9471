"""A server in a thread, and what a stranger writes into its socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

from starlette.types import ASGIApp

from oliveira.serving.address import listen
from oliveira.serving.front.server import make_server

SECONDS = 20.0  # for an answer; nothing here measures time


@contextlib.contextmanager
def served(app: ASGIApp, *, connections: int = 64, host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """(host, port) of a running server."""
    opened = listen(host, 0)
    server = make_server(app, connections=connections)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])))
    thread.start()
    try:
        yield opened.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        opened.close()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=SECONDS)


def to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def exchange(address: tuple[str, int], *pieces: bytes, hang_up: bool = False) -> bytes:
    """Writes the pieces, reads to the end. `hang_up`: writes no more, which this server takes for gone."""
    with connect(address) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        return to_end(connection)


def status(answer: bytes) -> int:
    """0 = closed without an answer."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
