"""The smallest application with the house's guards: what the tests of connections and odd bodies talk to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from oliveira.errors import UserError
from oliveira.serving.front.answers import Boundary, add_error_answers
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.limits import check_content_type, check_json, read_body

MAX_BODY = 1 << 20
CONNECTIONS = 256
AT_ONCE = 2  # predictions computed side by side; the others wait


def predict_app(predict: Callable[[Any], dict[str, Any]], about: dict[str, Any]) -> FastAPI:
    """`predict` answers a request or raises `UserError`; `about` is what GET /v1/task says."""
    app = FastAPI(title="Oliveira", docs_url=None, redoc_url=None)
    room = asyncio.Semaphore(AT_ONCE)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/task")
    async def describe() -> dict[str, Any]:
        return about

    @app.post("/v1/predict")
    async def answer(request: Request) -> JSONResponse:
        body = await read_body(request.scope, request.receive, MAX_BODY)
        check_content_type(request.scope)
        value = check_json(body)
        try:
            async with room:
                return JSONResponse(await run_in_threadpool(predict, value))
        except UserError as error:
            raise ApiError(400, str(error), code="invalid_request") from None

    add_error_answers(app)
    app.add_middleware(Boundary)
    return app
