"""The FastAPI application: routes, and the guard that every request passes first."""

from __future__ import annotations

import importlib.util
import logging
import time
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from oliveira import __version__
from oliveira.monitoring.metrics import CONTENT_TYPE
from oliveira.serving.front.admin_routes import make_admin_router
from oliveira.serving.front.answers import GONE, Boundary, add_error_answers
from oliveira.serving.front.auth import authorise, log_in
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.limits import check_content_type, check_json, read_body, replay
from oliveira.serving.front.openai_routes import make_openai_router
from oliveira.serving.front.predict_routes import make_predict_router
from oliveira.serving.front.served import Served

log = logging.getLogger(__name__)


def make_app(service: Served) -> FastAPI:
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
    app.include_router(make_predict_router(service))
    app.include_router(make_admin_router(service))
    _add_plain_routes(app, service)
    if importlib.util.find_spec("oliveira.console.routes") is not None:
        from oliveira.console.figures import RequestFigures
        from oliveira.console.routes import Shown, make_router

        figures = {name: RequestFigures(life.metrics) for name, life in service.lives.items()}

        def shown(model: str | None) -> Shown:
            life = service.main if model is None else service.of(model)
            return Shown(life.ledger, life.home, lambda: service.state(life) | figures[life.name]())

        app.include_router(make_router(shown))
    add_error_answers(app)
    app.add_middleware(Guard, service=service)
    app.add_middleware(Boundary)
    if origins := service.settings.cors_origins:
        # Outermost: a browser asks before it sends a key. No credentials: the console's cookie stays at home.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Oliveira-Model", "Retry-After"],
        )
    _describe_errors(app)
    return app


def _add_plain_routes(app: FastAPI, service: Served) -> None:
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
    """Around every route: key, body limits, JSON sanity, counting and the log line."""

    def __init__(self, app: ASGIApp, service: Served) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        self.service.requests += 1
        try:
            try:
                response = log_in(scope, self.service.ledger)
                if response is None:
                    scope["state"]["key"] = authorise(scope, self.service.ledger)
                    receive = await self._checked(scope, receive)
            except ApiError as error:
                response = error.response()
            await (response or self.app)(scope, receive, send)
        except Exception:
            if scope["state"]["status"] == GONE:
                scope["state"]["status"] = 500  # what the boundary is about to answer
            raise
        finally:
            self.service.requests -= 1
            self._note(scope, time.monotonic() - begun)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` whose body is whole, small enough and sane."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        body = await read_body(scope, receive, self.service.settings.max_body)
        if body:
            check_content_type(scope)
            check_json(body)
        return replay(body, receive)

    def _note(self, scope: Scope, seconds: float) -> None:
        metrics, state = self.service.metrics, scope["state"]
        key, status = state.get("key"), state["status"]
        if status >= 400:
            metrics.request_errors_total.labels(code=str(status)).inc()
        if status == 401:
            metrics.auth_failures_total.inc()
        if status == 429:
            metrics.rejected_total.labels(reason="queue_full").inc()
        log.info(
            "request",
            extra={
                "id": state["id"],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "key": key.id if key else None,
            },
        )
