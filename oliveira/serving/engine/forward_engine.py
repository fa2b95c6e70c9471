"""The engine of a task: a request through the artifact's own graph, one after the other, keys in turn.

What a request, an answer and a truth mean is the task's affair (`oliveira/tasks/base.py`). Its process: `__main__.py`.
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
from oliveira.serving.protocol import (
    Answer,
    Cancel,
    Judge,
    Judged,
    Predict,
    PredictAll,
    Predicted,
    Prediction,
    Question,
    Stats,
    TaskReady,
)
from oliveira.strict_json import all_finite, is_finite

log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    message: Question
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

    def ready(self) -> TaskReady:
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
        return TaskReady(
            digest=self.artifact.digest,
            weights=self.artifact.weights,
            task=described,
            engine=self.answerer.engine,
            base=self.artifact.files[WEIGHTS],
        )

    def stats(self) -> Stats:
        """A request is answered within a turn: between two of them none is running."""
        return Stats(waiting=len(self._waiting))

    def turn(self, messages: Iterable[Question]) -> list[Answer]:
        """Takes messages in and answers one that waits. Raises nothing: what goes wrong ends requests."""
        now = time.monotonic()
        for message in messages:
            if isinstance(message, Cancel):
                self.cancel(message.id)
            else:
                self._waiting.add(getattr(message, "tenant", ""), _Waiting(message, now))
        return [self._answered(self._waiting.take())] if self._waiting else []

    def cancel(self, number: str) -> None:
        self._waiting.remove(lambda waiting: waiting.message.id == number)

    def give_up(self, number: str, found: Exception) -> Answer:
        return self.failures.message(number, "", found)

    def close(self) -> None:
        """Nothing is held beside the process."""

    def _answered(self, waiting: _Waiting) -> Answer:
        message = waiting.message
        seconds = time.monotonic() - waiting.since
        try:
            return self._result(message, seconds)
        except UserError as refused:
            return error(message.id, 400, str(refused), "invalid_request")
        except Exception as found:
            return self.failures.message(message.id, message.request, found)

    def _result(self, message: Question, seconds: float) -> Answer:
        match message:
            case PredictAll():
                bodies, answers = message.bodies, self.answerer.all(message.bodies)
            case Predict():
                bodies, answers = [message.body], [self.answerer(message.body)]
            case Judge():
                return Judged(id=message.id, queue_seconds=seconds, error=self._error(message))
            case _:
                raise OliveiraError(f"{type(message).__name__} is no question for a task")
        found = [
            Prediction(answer=a, observed=self._observed(message, b, a)) for b, a in zip(bodies, answers, strict=True)
        ]
        return Predicted(id=message.id, queue_seconds=seconds, answers=found)

    def _observed(self, message: Question, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Only drift looks at it: what goes wrong with it costs nobody the answer."""
        try:
            observed = self.answerer.task.observe(self.answerer.state, body, answer)
        except Exception as found:
            self.failures.message(message.id, message.request, found)
            return {}
        return {name: float(value) for name, value in observed.items() if is_finite(value)}

    def _error(self, message: Judge) -> float:
        truth = message.truth
        if not all_finite(truth):
            raise UserError("truth holds a number that is not finite or too large for any float. Correct it.")
        found = self.answerer.task.error(self.answerer.state, message.body, message.answer, truth)
        if not is_finite(found):
            raise UserError("truth gives an error that is not a finite number: its numbers are too large.")
        return float(found)
