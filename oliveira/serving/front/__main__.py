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
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from oliveira import terminal
from oliveira.errors import OliveiraError, UserError
from oliveira.files import write_json_atomic
from oliveira.serving import logs
from oliveira.serving.address import is_loopback, listen
from oliveira.serving.front.app import make_app
from oliveira.serving.front.served import Served
from oliveira.serving.front.server import make_server


async def serve(service: Served, opened: socket.socket, *, die_with_parent: bool) -> None:
    """Serves until asked to stop, then drains."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if die_with_parent:
        threading.Thread(target=_watch_parent, args=(loop, stop), daemon=True).start()
    server = make_server(make_app(service), connections=service.settings.connections)
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
    parser.add_argument("--listening", type=int, help="inherited descriptor of a socket that listens already")
    parser.add_argument("--die-with-parent", action="store_true")
    given = parser.parse_args(arguments)
    logs.set_up()
    try:
        service = Served.open(given.home)
        host = given.host or service.settings.host
        opened = listen(host, given.port) if given.listening is None else socket.socket(fileno=given.listening)
        if not is_loopback(host) and not any(found.revoked is None for found in list(service.ledger.keys())):
            raise UserError(f"serve.host = {host} is open to the network without a key. Make one with `oliveira keys`.")
        asyncio.run(serve(service, opened, die_with_parent=given.die_with_parent))
    except OliveiraError as error:
        terminal.say_error(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
