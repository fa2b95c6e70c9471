"""A process stops when asked, and when its parent is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from oliveira.errors import Interrupted


class Stop:
    """True once SIGTERM or SIGINT came, or the parent died (end of file on standard input).

    `within`: who does not look for so many seconds is interrupted where it stands; files are whole all the same.
    """

    def __init__(self, *, watch_parent: bool = False, within: float = 0.0) -> None:
        self._event = threading.Event()
        self._within = within
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        if within:
            signal.signal(signal.SIGALRM, self._late)
        if watch_parent:
            threading.Thread(target=self._watch, daemon=True).start()

    def _asked(self, *_: object) -> None:
        self._event.set()
        if self._within:
            signal.setitimer(signal.ITIMER_REAL, self._within)

    def _late(self, *_: object) -> None:
        raise Interrupted("stopped at once: the same command goes on from the last checkpoint.")

    def _watch(self) -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    def __call__(self) -> bool:
        asked = self._event.is_set()
        if asked and self._within:  # it has been seen
            signal.setitimer(signal.ITIMER_REAL, 0)
        return asked

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds) and self()


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Asks a child to end, and kills one that does not within so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def low_priority() -> None:
    """This process gives way to the others.

    Linux with autogroups shares the processor between sessions first and looks at `nice` only inside one, so the
    session's own value is set too (sched(7), "The autogroup feature").
    """
    os.nice(19)
    with contextlib.suppress(OSError):  # no such file: no autogroups, `nice` is enough
        Path("/proc/self/autogroup").write_text("19")
