"""The engine of a task: a request through the artifact's own graph, one after the other, keys in turn.

What a request, an answer and a truth mean is the task's affair (`oliveira/tasks/base.py`); `engine.py` is its process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from oliveira.artifact import WEIGHTS, Artifact
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.runs.predict import Answerer
from oliveira.serving.engine.failures import Failures, error
from oliveira.serving.engine.turns import Turns
from oliveira.serving.protocol import Message
from oliveira.strict_json import all_finite, is_finite

log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    message: Message
    since: float


class ForwardEngine:
    """Answers messages about one task. All of it is called by one thread."""

    def __init__(self, artifact: Artifact, *, threads: int = 0) -> None:
        self.artifact = artifact
        self.failures = Failures(artifact.digest)
        self.answerer = Answerer(artifact, threads=threads)
        self._waiting: Turns[_Waiting] = Turns()

    @property
    def busy(self) -> bool:
        return len(self._waiting) > 0

    def smoke(self) -> None:
        """The artifact's own example, answered twice alike. Raises `CorruptError`."""
        try:
            first, second = self.answerer(self.answerer.example), self.answerer(self.answerer.example)
        except Exception as found:
            said = f"artifact {self.artifact.digest[:12]} fails its own example: {found}"
            raise CorruptError(said) from found
        if first != second:
            raise CorruptError(f"artifact {self.artifact.digest[:12]} answers its own example in two ways")

    def ready(self) -> Message:
        task, metric = self.answerer.task, self.answerer.task.metric
        described = {
            "task": task.label,  # of a user's own file no folder
            "title": task.title,
            "eats": task.eats,
            "gives": task.gives,
            "metric": {
                "name": metric.name,
                "better": metric.better,
                "unit": metric.unit or str(self.answerer.state.get("unit", "")),
            },
            "example": self.answerer.example,
            "model": self.artifact.name,
        }
        return {
            "type": "ready",
            "digest": self.artifact.digest,
            "weights": self.artifact.weights,
            "task": described,
            "engine": self.answerer.engine,
            "base": self.artifact.files[WEIGHTS],
        }

    def stats(self) -> Message:
        """A request is answered within a turn: between two of them none is running."""
        waiting = len(self._waiting)
        return {"type": "stats", "running": 0, "waiting": waiting, "kv_usage": 0.0, "attention_cache": None}

    def turn(self, messages: Iterable[Message]) -> list[Message]:
        """Takes messages in and answers one that waits. Raises nothing: what goes wrong ends requests."""
        now = time.monotonic()
        for message in messages:
            if message.get("op") == "cancel":
                self.cancel(str(message.get("id")))
            else:
                self._waiting.add(str(message.get("tenant", "")), _Waiting(message, now))
        return [self._answered(self._waiting.take())] if self._waiting else []

    def cancel(self, number: str) -> None:
        self._waiting.remove(lambda waiting: str(waiting.message.get("id")) == number)

    def give_up(self, number: str, found: Exception) -> Message:
        return self.failures.message(number, "", found)

    def close(self) -> None:
        """Nothing is held beside the process."""

    def _answered(self, waiting: _Waiting) -> Message:
        message, number = waiting.message, str(waiting.message.get("id"))
        seconds = time.monotonic() - waiting.since
        try:
            return {"type": "result", "id": number, "queue_seconds": seconds, **self._result(message)}
        except UserError as refused:
            return error(number, 400, str(refused), "invalid_request")
        except Exception as found:
            return self.failures.message(number, str(message.get("request", "")), found)

    def _result(self, message: Message) -> dict[str, Any]:
        match message["op"]:
            case "predict" if "bodies" in message:
                answers = self.answerer.all(message["bodies"])
                pairs = zip(message["bodies"], answers, strict=True)
                return {"answers": [{"answer": a, "observed": self._observed(message, b, a)} for b, a in pairs]}
            case "predict":
                answer = self.answerer(message["body"])
                return {"answer": answer, "observed": self._observed(message, message["body"], answer)}
            case "judge":
                return {"error": self._error(message)}
        raise OliveiraError(f"message {message['op']!r} is unknown")

    def _observed(self, message: Message, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Only drift looks at it: what goes wrong with it costs nobody the answer."""
        try:
            observed = self.answerer.task.observe(self.answerer.state, body, answer)
        except Exception as found:
            self.failures.message(str(message.get("id")), str(message.get("request", "")), found)
            return {}
        return {name: float(value) for name, value in observed.items() if is_finite(value)}

    def _error(self, message: Message) -> float:
        truth = message["truth"]
        if not all_finite(truth):
            raise UserError("truth holds a number that is not finite or too large for any float. Correct it.")
        found = self.answerer.task.error(self.answerer.state, message["body"], message["answer"], truth)
        if not is_finite(found):
            raise UserError("truth gives an error that is not a finite number: its numbers are too large.")
        return float(found)
