"""Every error of an application as OpenAI's envelope, and around it: request id, HEAD, and what nobody foresaw."""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.limits import Disconnected

log = logging.getLogger(__name__)
GONE = 499  # for the log alone: nothing was sent, the client has gone
# Kinds of pydantic's errors in the words of JSON.
WORDS = {
    "missing": "is missing",
    "string_type": "is not a text",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "is not a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "is not a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "is neither true nor false"),
    "finite_number": "is not a finite number",
    "list_type": "is not a list",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "is not a JSON object"),
    "literal_error": "is not {expected}",
    "string_too_short": "has fewer than {min_length} characters",
    "string_too_long": "has more than {max_length} characters",
    "too_short": "has fewer than {min_length} members",
    "too_long": "has more than {max_length} members",
    "greater_than_equal": "is below {ge}",
    "greater_than": "is not above {gt}",
    "less_than_equal": "is above {le}",
    "less_than": "is not below {lt}",
}
ENDLESS = ("/admin/events",)  # a GET that never ends is no HEAD


def add_error_answers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


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
    context = first.get("ctx", {})
    if first["type"] == "value_error":  # our own sentences name the field
        message = str(context["error"])
    elif first["type"] in WORDS:
        message = f"{where or 'the body'} {WORDS[first['type']].format(**context)}. Correct it."
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


class Boundary:
    """Names the request, answers HEAD as GET, and turns an exception that no route foresaw into a 500 of our form.

    `scope["state"]` then holds the request's `id` and the `status` that was sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["id"], state["status"] = uuid.uuid4().hex, GONE
        if scope["method"] == "HEAD" and scope["path"] not in ENDLESS:
            scope = {**scope, "method": "GET"}  # the connection, which has the other scope, sends no body

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["id"].encode())]
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except Disconnected:
            return
        except Exception:
            log.exception("unforeseen", extra={"id": state["id"], "method": scope["method"], "path": scope["path"]})
            if state["status"] != GONE:
                raise  # half an answer is out: the connection is cut
            await _unforeseen().response()(scope, receive, observed_send)


def _unforeseen() -> ApiError:
    said = "the server made a mistake; its log says more under this request's X-Request-Id."
    return ApiError(500, said, code="internal")
