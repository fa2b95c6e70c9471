"""The front: HTTP, server-sent events, metrics. One asyncio process that never imports torch.

`python -m oliveira.serving.front --home DIR [--host H] [--port N] [--die-with-parent]`

Port 0 takes a free one. HOME/front.json says {"host", "port", "pid"} once connections are taken. SIGTERM,
SIGINT, or the end of standard input with --die-with-parent: /ready says 503, streams get serve.drain seconds,
the rest is told, exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from oliveira import terminal
from oliveira.errors import OliveiraError, UserError
from oliveira.files import write_json_atomic
from oliveira.serving import logs
from oliveira.serving.app import make_app
from oliveira.serving.service import Service, read_world

SILENCE_MILLISECONDS = 30_000


class Server(uvicorn.Server):
    """uvicorn without its signal handling: ours drains first, and ends with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises `UserError` when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"serve.host = {host!r} is not an address of this machine. Use 127.0.0.1.") from None
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by every connection: who takes nothing for so long is gone
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)
    try:
        opened.bind(address)
        opened.listen(2048)
    except (OSError, OverflowError) as error:
        opened.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is taken by another program. Choose another --port, or 0 for any."
            ) from None
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}. Choose another --host or --port.") from None
    return opened


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def serve(service: Service, opened: socket.socket, *, die_with_parent: bool) -> None:
    """Serves until asked to stop, then drains."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if die_with_parent:
        threading.Thread(target=_watch_parent, args=(loop, stop), daemon=True).start()
    config = uvicorn.Config(
        make_app(service),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    place = service.home / "front.json"
    host, port = opened.getsockname()[:2]
    service.start()
    serving = asyncio.create_task(server.serve(sockets=[opened]))
    try:
        write_json_atomic(place, {"host": host, "port": port, "pid": os.getpid()})
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
        await service.drain()
    finally:
        server.should_exit = True
        await serving
        await service.stop()
        place.unlink(missing_ok=True)


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stop.set)


def main(arguments: list[str] | None = None) -> int:
    terminal.set_up()
    parser = argparse.ArgumentParser(prog="oliveira.serving.front", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", help="serve.host of the world if left out")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--die-with-parent", action="store_true")
    given = parser.parse_args(arguments)
    logs.set_up()
    try:
        world = read_world(given.home)
        host = given.host or world.serve.host
        opened = listen(host, given.port)
        service = Service(given.home, world)
        if not is_loopback(host) and not any(found.revoked is None for found in list(service.ledger.keys())):
            raise UserError(f"serve.host = {host} is open to the network without a key. Make one with `oliveira keys`.")
        asyncio.run(serve(service, opened, die_with_parent=given.die_with_parent))
    except OliveiraError as error:
        terminal.say_error(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
