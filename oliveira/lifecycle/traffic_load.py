"""A bounded load on our own server: counts what fails and which model answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int  # 0: no answer at all
    seconds: float
    model: str  # digest of the model that answered, from the response's header
    body: bytes = b""


class Client:
    """One keep-alive connection."""

    def __init__(self, address: str, key: str, *, traffic: bool) -> None:
        parts = urlsplit(address)
        self.connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=60)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        if not traffic:
            self.headers["X-Oliveira-No-Traffic"] = "1"

    def post(self, path: str, body: dict[str, object]) -> Answer:
        return self._ask("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        started = time.monotonic()
        try:
            self.connection.request(method, path, body, self.headers)
            response = self.connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return Answer(0, time.monotonic() - started, "")
        return Answer(response.status, time.monotonic() - started, response.headers.get("X-Oliveira-Model", ""), data)


@dataclass
class Load:
    """`workers` threads that ask one after the other while the context is open; at most `limit` requests."""

    address: str
    key: str
    ask: Callable[[Client, Any], Answer]
    requests: list[Any]
    workers: int = 4
    limit: int = 20_000
    pause: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(self.workers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        client, turn = Client(self.address, self.key, traffic=False), number
        while not self._stop.is_set() and len(self.answers) < self.limit:
            answer = self.ask(client, self.requests[turn % len(self.requests)])
            turn += self.workers
            with self._lock:
                self.answers.append(answer)
            if self.pause:
                self._stop.wait(self.pause)
        client.connection.close()

    @property
    def failed(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def models(self) -> Counter[str]:
        return Counter(answer.model for answer in self.answers if answer.status == 200)

    def quantile(self, q: float) -> float:
        """Seconds of the q-th quantile of whole requests."""
        times = sorted(answer.seconds for answer in self.answers if answer.status == 200)
        return times[min(len(times) - 1, int(q * len(times)))] if times else float("nan")
