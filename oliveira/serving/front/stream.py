"""Server-sent events as OpenAI's clients read them: `data:` lines, comments as pings, `[DONE]` at the end.

An error after the first byte is a `data: {"error": …}` line, after which the connection closes without
`[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from oliveira.serving.front.errors import ApiError, EngineDied, engine_stopped, too_slow
from oliveira.serving.front.generation import Generation
from oliveira.serving.front.shapes import Shape
from oliveira.serving.protocol import Done, Echo, End, Token

PING_SECONDS = 15.0
LAST_WORDS_SECONDS = 1.0  # for a slow reader to take the error line


class EventStream(Response):
    """Sends a generation whose first message has come. Whatever happens, its slots are free in the end."""

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        first: tuple[int, Echo | Token | Done | End],
        shape: Shape,
        *,
        seconds: float,
        headers: dict[str, str],
    ) -> None:
        super().__init__(headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generation, self._first, self._shape = generation, first, shape
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(until_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._generation.close()
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        try:
            async with asyncio.timeout(self._seconds):
                await write(_lines(self._shape.opening()))
                number, message = self._first
                while True:
                    if lines := _lines(self._shape.chunks(number, message)):
                        await write(lines)
                    if self._generation.ended:
                        break
                    number, message = await self._next(write)
                closing = [self._shape.usage_chunk(self._generation.usage())] if self._shape.with_usage else []
                await write(_lines(closing) + "data: [DONE]\n\n", more=False)
            return
        except TimeoutError:
            error = too_slow(self._generation.service.settings.deadline)
        except EngineDied:
            error = engine_stopped()
        except ApiError as found:
            error = found
        self._generation.service.metrics.request_errors_total.labels(code=str(error.status)).inc()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await write(_lines([error.body()]), more=False)

    async def _next(self, write: Callable[[str], Any]) -> tuple[int, Echo | Token | Done | End]:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    return await self._generation.next()
            except TimeoutError:
                await write(": ping\n\n")


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _lines(values: list[dict[str, Any]]) -> str:
    return "".join(
        f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n\n" for value in values
    )
