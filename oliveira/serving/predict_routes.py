"""The routes of a served task: a request and its answer, what was true, and what the task is.

Who serves a task is asked as a language model is: same keys, queue, deadline and swap; an engine that dies is replaced
and the next one asked again, once. An answer is kept for drift, and for the truth that may come for it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse

from oliveira.lifecycle.ledger import AnswerRow
from oliveira.lifecycle.lives import OWN
from oliveira.serving.client import EngineProcess
from oliveira.serving.errors import ApiError
from oliveira.serving.protocol import Message
from oliveira.serving.questions import ask_all, check_model, check_task, model_header, while_connected
from oliveira.serving.schemas import FeedbackRequest
from oliveira.serving.served import Served
from oliveira.serving.service import Service

MOST_NAMED = 128  # characters of a model's name


def make_predict_router(service: Served) -> APIRouter:
    router = APIRouter()
    deadline = service.world.serve.deadline

    async def ask(request: Request, model: str, life: Service, message: Message) -> tuple[EngineProcess, Message]:
        """One question to the engine."""

        def check(engine: EngineProcess) -> None:
            check_task(engine)
            check_model(model, life, engine)

        message = {**message, "request": request.state.id, "tenant": request.state.key.id}
        engine, [answer] = await while_connected(request, deadline, ask_all(life, [message], check))
        return engine, answer

    @router.post("/v1/predict")
    async def predict(request: Request, body: Annotated[Any, Body()]) -> JSONResponse:
        """Answers a request of the task; GET /v1/task shows one. `model` may stand beside its fields."""
        service.check_open()
        model, asked = split(body)
        life = service.of(model)
        metrics, begun = life.metrics, time.monotonic()
        permit = service.admission.take(1, request.state.key.id)
        try:
            engine, found = await ask(request, model, life, {"op": "predict", "body": asked})
        except BaseException:
            metrics.request_success_total.labels(finished_reason="abort").inc()
            raise
        finally:
            permit.release()
        seconds = time.monotonic() - begun
        metrics.request_success_total.labels(finished_reason="stop").inc()
        metrics.request_queue_time_seconds.observe(found["queue_seconds"])
        metrics.time_to_first_token_seconds.observe(seconds)  # the whole answer is its first part
        metrics.e2e_request_latency_seconds.observe(seconds)
        number = f"pred-{request.state.id}"
        if life.answers is not None and request.headers.get("x-oliveira-no-traffic") != "1":
            kept = {
                "key": request.state.key.id,
                "request": asked,
                "answer": found["answer"],
                "observed": found["observed"],
            }
            life.answers.append({"number": number, "time": time.time(), "digest": engine.digest, **kept})
        return JSONResponse({**found["answer"], "id": number, "model": model}, headers=model_header(engine.digest))

    @router.post("/v1/feedback")
    async def feedback(request: Request, body: FeedbackRequest) -> JSONResponse:
        """What was true after all, for an answer of /v1/predict. It is kept before this is answered."""
        service.check_open()
        if len(service.lives) == 1:
            check_task(await service.main.fleet.engine())
        life, row = await _kept(service, body.id)
        message = {"op": "judge", "body": row.request, "answer": row.answer, "truth": body.truth}
        permit = service.admission.take(1, request.state.key.id)
        try:
            engine, found = await ask(request, life.name, life, message)
        finally:
            permit.release()
        if not await life.write(lambda ledger: ledger.add_truth(body.id, body.truth, found["error"])):
            raise unknown(body.id)
        return JSONResponse({"id": body.id, "error": found["error"]}, headers=model_header(engine.digest))

    @router.get("/v1/task")
    async def task(model: Annotated[str | None, Query(max_length=MOST_NAMED)] = None) -> JSONResponse:
        """What is served: what it eats and gives, how it is measured, and a request that runs as it stands."""
        engine = await service.told(model).fleet.engine()
        return JSONResponse(check_task(engine), headers=model_header(engine.digest))

    return router


async def _kept(service: Served, number: str) -> tuple[Service, AnswerRow]:
    """The answer of this id, and the life that gave it."""
    for life in service.lives.values():
        if row := await life.write(lambda ledger: ledger.get_answer(number)):
            return life, row
    raise unknown(number)


def split(body: Any) -> tuple[str, dict[str, Any]]:
    """The name of the model, and the task's own request."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object. GET /v1/task shows an example.", code="invalid_request")
    model = body.get("model", OWN)
    if not isinstance(model, str) or len(model) > MOST_NAMED:
        said = f"model is not a text of at most {MOST_NAMED} characters. Leave it out, or see GET /v1/models."
        raise ApiError(400, said, code="invalid_value", param="model")
    return model, {name: value for name, value in body.items() if name != "model"}


def unknown(number: str) -> ApiError:
    said = (
        f"answer {number!r} is not kept here: it was never given, came with X-Oliveira-No-Traffic, is too old, or "
        "serve.keep_traffic is off. Send the id of a newer answer."
    )
    return ApiError(404, said, code="answer_not_found", param="id")
