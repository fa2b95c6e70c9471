"""Errors as the OpenAI clients expect them: one envelope for every status, streams included."""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse

from oliveira.errors import OliveiraError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


class ApiError(OliveiraError):
    """What a client is told. `retry_after` in seconds goes into the header of that name."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


class EngineDied(OliveiraError):
    """The engine process is gone; what it was doing may be asked of the next one."""


def engine_stopped() -> ApiError:
    message = "the engine stopped while it was answering; another one is being started. Send the request again."
    return ApiError(503, message, code="engine_stopped", retry_after=2)


def shutting_down() -> ApiError:
    return ApiError(
        503,
        "the server is shutting down. Send the request again in a moment.",
        code="draining",
        retry_after=5,
    )


def too_far_behind(size: int) -> ApiError:
    return ApiError(408, f"{size >> 10} KiB of the answer wait to be read. Read the stream faster.", code="slow_client")


def too_slow(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"the answer took longer than serve.deadline = {seconds:g} seconds. Ask for less at once.",
        code="deadline",
    )
