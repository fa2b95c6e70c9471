"""One process at a time holds a role in a home."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from oliveira.errors import UserError
from oliveira.files import check_writable
from oliveira.process.locks import held


@contextlib.contextmanager
def holder(home: Path, role: str, *, patience: float = 0.0) -> Iterator[None]:
    """Only one process holds `role` in a home; the lock goes with the process, however it ends."""
    check_writable(home)
    end = time.monotonic() + patience

    def waiting(pid: str) -> None:
        if time.monotonic() >= end:
            raise UserError(
                f"another `oliveira` ({role}, process {pid}) is using {home}. "
                "Stop it, or choose another folder with --home."
            )

    with held(home / f"{role}.lock", waiting):
        yield


def is_held(home: Path, role: str) -> bool:
    """Is a process holding `role` right now?"""
    path = home / f"{role}.lock"
    if not path.exists():
        return False
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
