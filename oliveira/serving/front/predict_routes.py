"""The routes of a served task: a request and its answer, what was true, and what the task is.

Who serves a task is asked as a language model is: same keys, queue, deadline and swap; an engine that dies is replaced
and the next one asked again, once. An answer is kept for drift, and for the truth that may come for it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse

from oliveira.ledger import AnswerRow, Key
from oliveira.ledger.lives import OWN
from oliveira.serving.front.client import EngineProcess
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.questions import ask_all, check_model, check_task, model_header, while_connected
from oliveira.serving.front.schemas import FeedbackRequest
from oliveira.serving.front.served import Served
from oliveira.serving.front.service import Service
from oliveira.serving.protocol import Judge, Judged, Predict, PredictAll, Predicted, Question, Result

MOST_NAMED = 128  # characters of a model's name
MOST_REQUESTS = 64  # in one body

R = TypeVar("R", bound=Result)


def make_predict_router(service: Served) -> APIRouter:
    router = APIRouter()
    deadline = service.settings.deadline

    async def ask(
        request: Request, model: str, life: Service, message: Question, kind: type[R]
    ) -> tuple[EngineProcess, R]:
        """One question to the engine."""

        def check(engine: EngineProcess) -> None:
            check_task(engine)
            check_model(model, life, engine)

        engine, [answer] = await while_connected(request, deadline, ask_all(life, [message], kind, check))
        return engine, answer

    @router.post("/v1/predict")
    async def predict(request: Request, body: Annotated[Any, Body()]) -> JSONResponse:
        """Answers a request of the task; GET /v1/task shows one. `model` may stand beside its fields.

        `{"requests": [ … ]}` asks at most 64 at once and gives `{"answers": [ … ]}`, each with its id; where one is
        refused all are, and the error names its place.
        """
        service.check_open()
        model, asked = split(body)
        life = service.of(model)
        metrics, begun = life.metrics, time.monotonic()
        bodies = several(asked)
        by: dict[str, str] = {"request": request.state.id, "tenant": request.state.key.id}
        message = PredictAll(bodies=bodies, **by) if bodies else Predict(body=asked, **by)
        permit = service.admission.take(len(bodies or [asked]), request.state.key.id)
        try:
            engine, found = await ask(request, model, life, message, Predicted)
        except BaseException:
            metrics.request_success_total.labels(finished_reason="abort").inc()
            raise
        finally:
            permit.release()
        seconds = time.monotonic() - begun
        metrics.request_success_total.labels(finished_reason="stop").inc()
        metrics.request_queue_time_seconds.observe(found.queue_seconds)
        metrics.time_to_first_token_seconds.observe(seconds)  # the whole answer is its first part
        metrics.e2e_request_latency_seconds.observe(seconds)
        answers = []
        for place, (one, given) in enumerate(zip(bodies or [asked], found.answers, strict=True)):
            number = f"pred-{request.state.id}" + (f"-{place}" if bodies else "")
            answers.append({**given.answer, "id": number})
            if life.answers is not None and request.headers.get("x-oliveira-no-traffic") != "1":
                kept = {"answer": given.answer, "observed": given.observed}
                kept |= {"key": request.state.key.id, "request": one}
                life.answers.append({"number": number, "time": time.time(), "digest": engine.digest, **kept})
        whole = {"answers": answers} if bodies else answers[0]
        return JSONResponse({**whole, "model": model}, headers=model_header(engine.digest))

    @router.post("/v1/feedback")
    async def feedback(request: Request, body: FeedbackRequest) -> JSONResponse:
        """What was true after all, for an answer of /v1/predict to the same key. It is kept before this is answered."""
        service.check_open()
        if len(service.lives) == 1:
            check_task(await service.main.fleet.engine())
        life, row = await _kept(service, body.id, request.state.key)
        by: dict[str, str] = {"request": request.state.id, "tenant": request.state.key.id}
        message = Judge(body=row.request, answer=row.answer, truth=body.truth, **by)
        permit = service.admission.take(1, request.state.key.id)
        try:
            engine, found = await ask(request, life.name, life, message, Judged)
        finally:
            permit.release()
        if not await life.write(lambda ledger: ledger.add_truth(body.id, body.truth, found.error)):
            raise unknown(body.id)
        return JSONResponse({"id": body.id, "error": found.error}, headers=model_header(engine.digest))

    @router.get("/v1/task")
    async def task(model: Annotated[str | None, Query(max_length=MOST_NAMED)] = None) -> JSONResponse:
        """What is served: what it eats and gives, how it is measured, and a request that runs as it stands."""
        engine = await service.told(model).fleet.engine()
        return JSONResponse(check_task(engine), headers=model_header(engine.digest))

    return router


async def _kept(service: Served, number: str, key: Key) -> tuple[Service, AnswerRow]:
    """The answer of this id, and the life that gave it. To somebody else it is unknown: an id tells nothing."""
    for life in service.lives.values():
        row = await life.write(lambda ledger: ledger.get_answer(number))
        if row is not None and may_tell(key, row):
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


def several(asked: dict[str, Any]) -> list[Any] | None:
    """The requests of a body that asks more than one; None where it is a request itself."""
    if "requests" not in asked:
        return None
    bodies, beside = asked["requests"], [name for name in asked if name != "requests"]
    if beside:
        said = f"{beside[0][:60]} stands beside requests. Put it into each of them, or leave it out."
        raise ApiError(400, said, code="invalid_value", param="requests")
    if not isinstance(bodies, list) or not 1 <= len(bodies) <= MOST_REQUESTS:
        said = f"requests is not a list of 1 to {MOST_REQUESTS} requests. Send more of them in further bodies."
        raise ApiError(400, said, code="invalid_value", param="requests")
    return bodies


def may_tell(key: Key, answer: AnswerRow) -> bool:
    """The key that asked, or one of an operator; of an answer so old that it does not say who asked, the latter."""
    return "admin" in key.scopes or key.id == answer.key


def unknown(number: str) -> ApiError:
    said = (
        f"answer {number!r} is not kept here for this key: it was never given to it, came with X-Oliveira-No-Traffic, "
        "is too old, or serve.keep_traffic is off. Send the id of a newer answer."
    )
    return ApiError(404, said, code="answer_not_found", param="id")
