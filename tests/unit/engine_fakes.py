"""An engine of a few lines, for routes of a task."""

from __future__ import annotations

import asyncio
from typing import Any

from oliveira.serving.front.errors import ApiError, EngineDied

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
        self.described: dict[str, Any] = {"weights": "fp32"}
        self.stats = {"running": 0, "waiting": 0, "kv_usage": 0.0, "attention_cache": None}
        self.gone = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.deaths = 0

    def memory_mib(self) -> int:
        return 100

    def submit(self, messages: list[dict[str, Any]]) -> Job:
        self.asked += messages
        if self.deaths:
            self.deaths -= 1
            return Job([EngineDied("gone")])
        return Job([self.answer(message) for message in messages])

    def answer(self, message: dict[str, Any]) -> Any:
        if "bodies" in message:
            alone = [
                self.answer({"op": "predict", "body": body if isinstance(body, dict) else {}})
                for body in message["bodies"]
            ]
            for place, one in enumerate(alone):
                if isinstance(one, ApiError):
                    return ApiError(400, f"requests[{place}]: {one}", code="invalid_request")
            return {"queue_seconds": 0.0, "answers": alone}
        level = message["body"].get("level")
        if message["op"] == "judge":
            if not isinstance(message["truth"], int | float):
                return ApiError(400, "truth is not a number", code="invalid_request")
            return {"queue_seconds": 0.0, "error": abs(message["truth"] - message["answer"]["level"])}
        if level == "slow":
            return 30.0
        if not isinstance(level, int | float):
            return ApiError(400, "level is not a number", code="invalid_request")
        return {"queue_seconds": 0.0, "answer": {"level": 2 * level}, "observed": {"level": float(level)}}
