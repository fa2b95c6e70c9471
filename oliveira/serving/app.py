"""The FastAPI application: routes, error envelope, and the guard that every request passes first."""

from __future__ import annotations

import importlib.util
import logging
import time
import uuid
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oliveira import __version__
from oliveira.monitoring.metrics import CONTENT_TYPE
from oliveira.serving.admin_routes import make_admin_router
from oliveira.serving.auth import authorise, log_in
from oliveira.serving.errors import ApiError
from oliveira.serving.limits import Disconnected, check_json, read_body, replay
from oliveira.serving.openai_routes import make_openai_router
from oliveira.serving.service import Service

log = logging.getLogger(__name__)


def make_app(service: Service) -> FastAPI:
    """The application over a running service. `Guard` asks for a key before any route is looked up."""
    app = FastAPI(
        title="Oliveira",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="a key of `oliveira keys`"))],
    )
    app.include_router(make_openai_router(service))
    app.include_router(make_admin_router(service))
    _add_plain_routes(app, service)
    if importlib.util.find_spec("oliveira.console.routes") is not None:
        from oliveira.console.figures import RequestFigures
        from oliveira.console.routes import make_router

        figures = RequestFigures(service.metrics)
        app.include_router(make_router(service.ledger, service.home, lambda: service.state() | figures()))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)
    app.add_middleware(Guard, service=service)
    _describe_errors(app)
    return app


def _add_plain_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers. The one path without a key."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"description": "no model, or shutting down"}})
    async def ready() -> Response:
        """A model is loaded and the server takes requests."""
        state = service.state()
        return JSONResponse(state, 200 if state["ready"] else 503, {} if state["ready"] else {"Retry-After": "2"})

    @app.get("/version")
    async def version() -> dict[str, Any]:
        return {"version": __version__, "digest": service.state()["digest"]}

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.render_metrics(), media_type=CONTENT_TYPE)


# Errors -----------------------------------------------------------------------------------------------------


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _validation_error(_: Request, error: Exception) -> Response:
    """FastAPI's own 422 as OpenAI's 400: the first thing that is wrong."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    # Where a field may be a text or a list, "not a text" is no help to someone whose list has one mistake.
    first = next((found for found in errors if not found["type"].endswith("_type")), errors[0])
    parts = [str(part) for part in first["loc"][1:]]
    where = ".".join(part for part in parts if part.replace("_", "").isalnum() and part != "str") or None
    if first["type"] == "value_error":  # our own sentences name the field
        message = str(first["ctx"]["error"])
    else:
        message = f"{where or 'the body'}: {first['msg']}. Correct it."
    return ApiError(400, message, code="invalid_value", param=where).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.url.path} is not a path of this server.",
        405: f"{request.method} is not a method of this path.",
    }
    detail = (
        error.detail
        if error.detail not in ("Not Found", "Method Not Allowed")
        else messages.get(error.status_code, error.detail)
    )
    codes = {404: "not_found", 405: "method_not_allowed"}
    response = ApiError(error.status_code, str(detail), code=codes.get(error.status_code, "invalid_request")).response()
    response.headers.update(error.headers or {})
    return response


async def _unforeseen(_: Request, __: Exception) -> Response:
    return ApiError(
        500,
        "the server made a mistake; its log says more under this request's X-Request-Id.",
        code="internal",
    ).response()


def _describe_errors(app: FastAPI) -> None:
    """The OpenAPI says what is true: 400 for a body that does not fit (never 422), 401 and 403 everywhere."""
    made = app.openapi()
    envelope = {"description": "an error, in OpenAI's envelope"}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].update({} if path == "/health" else {"4XX": envelope, "5XX": envelope})
            if path == "/health":
                operation.pop("security", None)
    app.openapi_schema = made


# The guard --------------------------------------------------------------------------------------------------


class Guard:
    """Around everything: request id, key, body limits, JSON sanity, counting and the log line."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, begun = uuid.uuid4().hex, time.monotonic()
        scope.setdefault("state", {})["id"] = request_id
        status = 499  # until something is sent: the client has gone

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self.service.requests += 1
        try:
            try:
                response = log_in(scope, self.service.ledger)
                if response is None:
                    scope["state"]["key"] = authorise(scope, self.service.ledger)
                    receive = await self._checked(scope, receive)
            except ApiError as error:
                response = error.response()
            except Disconnected:
                return
            await (response or self.app)(scope, receive, observed_send)
        finally:
            self.service.requests -= 1
            self._note(scope, request_id, status, time.monotonic() - begun)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` whose body is whole, small enough and sane."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        body = await read_body(scope, receive, self.service.world.serve.max_body)
        if body:
            check_json(body)
        return replay(body, receive)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        metrics, key = self.service.metrics, scope["state"].get("key")
        if status >= 400:
            metrics.request_errors_total.labels(code=str(status)).inc()
        if status == 401:
            metrics.auth_failures_total.inc()
        if status == 429:
            metrics.rejected_total.labels(reason="queue_full").inc()
        log.info(
            "request",
            extra={
                "id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "key": key.id if key else None,
            },
        )
