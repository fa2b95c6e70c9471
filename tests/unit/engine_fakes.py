"""An engine of a few lines, for routes of a task."""

from __future__ import annotations

import asyncio
from typing import Any

from oliveira.serving.front.errors import ApiError, EngineDied
from oliveira.serving.protocol import Judge, Judged, Predict, PredictAll, Predicted, Prediction, Question, Ready, Stats

TASK = {"task": "forecast/x", "title": "x", "eats": "series", "gives": "one", "example": {"level": 1}, "model": "mlp"}


class Job:
    def __init__(self, answers: list[Any]) -> None:
        self._answers = enumerate(answers)

    async def next(self) -> tuple[int, Any]:
        number, answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        return number, answer

    def close(self) -> None: ...


class Engine:
    """Doubles a level; a truth is judged by its distance."""

    digest, started, max_len = "d" * 64, 1, 0

    def __init__(self, task: dict[str, Any] | None) -> None:
        self.task = task
        self.ready = Ready(digest=self.digest, weights="fp32")
        self.stats = Stats()
        self.gone = asyncio.Event()
        self.asked: list[Question] = []
        self.deaths = 0

    def memory_mib(self) -> int:
        return 100

    def submit(self, messages: list[Question]) -> Job:
        self.asked += messages
        if self.deaths:
            self.deaths -= 1
            return Job([EngineDied("gone")])
        return Job([self.answer(message) for message in messages])

    def answer(self, message: Question) -> Any:
        if isinstance(message, Judge):
            if not isinstance(message.truth, int | float):
                return ApiError(400, "truth is not a number", code="invalid_request")
            return Judged(id="", queue_seconds=0.0, error=abs(message.truth - message.answer["level"]))
        bodies = message.bodies if isinstance(message, PredictAll) else None
        assert bodies or isinstance(message, Predict)
        answers = [self._double(body) for body in bodies or [message.body]]
        for place, one in enumerate(answers):
            if isinstance(one, ApiError) and bodies:
                return ApiError(400, f"requests[{place}]: {one}", code="invalid_request")
            if not isinstance(one, Prediction):
                return one
        return Predicted(id="", queue_seconds=0.0, answers=answers)

    @staticmethod
    def _double(body: Any) -> Any:
        level = body.get("level") if isinstance(body, dict) else None
        if level == "slow":
            return 30.0
        if not isinstance(level, int | float):
            return ApiError(400, "level is not a number", code="invalid_request")
        return Prediction(answer={"level": 2 * level}, observed={"level": float(level)})
