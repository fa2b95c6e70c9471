"""Answers of a task on their way into the ledger: nobody waits for them, and a disk that is slow or full costs some."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from oliveira.ledger import Ledger

WAITING = 200  # at most; each may be as large as a body

log = logging.getLogger(__name__)


class AnswerLog:
    """`submit` runs something in the one thread that writes `ledger`: what is asked there later finds the answer."""

    def __init__(
        self, ledger: Ledger, submit: Callable[[Callable[[], None]], Any], *, megabytes: int, dropped: Counter
    ) -> None:
        self._ledger, self._submit, self._megabytes, self._dropped = ledger, submit, megabytes, dropped
        self._waiting: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()

    def append(self, answer: dict[str, Any]) -> None:
        """`answer`: the arguments of `Ledger.add_answer`."""
        with self._lock:
            begins = not self._waiting
            if len(self._waiting) >= WAITING:
                self._dropped.inc()
                return
            self._waiting.append(answer)
        if begins:
            self._submit(self._write)

    def _write(self) -> None:
        """All that wait in one transaction: one sync of the disk."""
        with self._lock:
            answers = list(self._waiting)
            self._waiting.clear()
        try:
            with self._ledger.transaction():
                for answer in answers:
                    self._ledger.add_answer(**answer, megabytes=self._megabytes)
        except Exception as error:
            self._dropped.inc(len(answers))
            log.error("answers not recorded", extra={"count": len(answers), "error": repr(error)})
