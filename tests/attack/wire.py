"""What a stranger writes into a socket, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

SECONDS = 25.0  # for an answer

Address = tuple[str, int]


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=SECONDS)


def to_end(connection: socket.socket, most: int = 1 << 22) -> bytes:
    """Everything until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while len(received) < most and (piece := connection.recv(1 << 16)):
            received += piece
    return received


def exchange(address: Address, *pieces: bytes) -> bytes:
    """Writes the pieces, reads to the end."""
    with connect(address) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return to_end(connection)


def status(answer: bytes) -> int:
    """0 = closed without an answer."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def head(method: str = "GET", path: str = "/health", key: str = "", version: str = "1.1", **headers: str) -> bytes:
    """A request's head; `Content_Length` stands for Content-Length."""
    given = {"Host": "x", **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
    lines = [f"{method} {path} HTTP/{version}", *(f"{n.replace('_', '-')}: {v}" for n, v in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def post(key: str, body: bytes, path: str = "/v1/completions", version: str = "1.1", **headers: str) -> bytes:
    given = {"Content_Type": "application/json", "Content_Length": str(len(body)), "Connection": "close", **headers}
    return head("POST", path, key, version, **given) + body


def completion(**changes: Any) -> bytes:
    return json.dumps({"model": "oliveira", "prompt": "No princípio", "max_tokens": 4, **changes}).encode()
