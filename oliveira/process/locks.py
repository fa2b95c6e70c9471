"""A file that one process at a time holds. The lock goes with the process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOOK = 0.1  # seconds between two tries


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Waits for `path`, which stays: a lock on a file that somebody removed holds nobody off.

    `waiting` is called with the number of the process that has it before each further try, and raises to give up.
    """
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                waiting(file.read().strip() or "unknown")
                time.sleep(_LOOK)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
