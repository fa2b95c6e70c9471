"""Asking the engine of the moment: which model is meant, what it can answer, and an answer that comes in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from oliveira.serving.front.client import EngineProcess
from oliveira.serving.front.errors import ApiError, EngineDied, engine_stopped, too_slow
from oliveira.serving.front.served import SHORT
from oliveira.serving.front.service import Service
from oliveira.serving.front.stream import until_gone
from oliveira.serving.protocol import Question, Result

T = TypeVar("T")
R = TypeVar("R", bound=Result)


async def ask_all(
    service: Service, messages: Sequence[Question], kind: type[R], check: Callable[[EngineProcess], None]
) -> tuple[EngineProcess, list[R]]:
    """Every message to one engine, each answered by a `kind`; asked again of the next one if it dies. `check`
    may refuse an engine."""
    for again in (True, False):
        engine = await service.fleet.engine()
        check(engine)
        try:
            job = engine.submit(messages)
            try:
                answers = dict([await job.next() for _ in messages])
            finally:
                job.close()
            return engine, [_of(kind, answers[index]) for index in range(len(messages))]
        except EngineDied:
            if not again:
                raise engine_stopped() from None
    raise AssertionError


def _of(kind: type[R], answer: Any) -> R:
    assert isinstance(answer, kind), f"the engine answers with {type(answer).__name__}"
    return answer


async def while_connected(request: Request, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`; gives it up when the client hangs up (499, for the log only) or is late (504)."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(until_gone(request.receive))
    try:
        done, _ = await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if leaving in done:
            raise ApiError(499, "the client has gone.", code="client_gone")
        raise too_slow(seconds)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def check_model(model: str, life: Service, engine: EngineProcess, adapters: Sequence[str] = ()) -> None:
    if model not in (*life.names, engine.digest[:SHORT], engine.digest):
        known = " or ".join((life.name, engine.digest[:SHORT], *adapters[:8]))
        raise ApiError(
            404,
            f"model {model[:128]!r} is not served here. Use {known}.",
            code="model_not_found",
            param="model",
        )


def check_text(engine: EngineProcess) -> None:
    """Raises `ApiError` 404 where the model does not continue text."""
    if engine.task is not None:
        said = f"{engine.task['task']} is served here, which does not continue text. Send its requests to /v1/predict."
        raise ApiError(404, said, code="no_text_model")


def check_task(engine: EngineProcess) -> dict[str, Any]:
    """The served task. Raises `ApiError` 404 where there is none."""
    if engine.task is None:
        said = "a language model is served here, which has no task to predict. Send a prompt to /v1/completions."
        raise ApiError(404, said, code="no_task")
    return engine.task


def model_header(digest: str) -> dict[str, str]:
    return {"X-Oliveira-Model": digest[:SHORT]}
