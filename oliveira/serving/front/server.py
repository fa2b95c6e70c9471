"""The one way in which an application of this house is put behind a socket."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from oliveira.serving.front.connection import Connection

SPARE_FILES = 128  # for the ledger, logs, pipes to the engines
_WANTED_FILES = 1 << 16


class Server(uvicorn.Server):
    """uvicorn without its signal handling: the owner says when to stop, and the exit code is 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: ASGIApp, *, connections: int) -> Server:
    """`connections` may be open at once; fewer where the system allows fewer files."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=max(8, min(connections, _allowed_files() - SPARE_FILES)),
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def _allowed_files() -> int:
    """How many files this process may open, after asking for as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft
