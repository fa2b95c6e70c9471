"""One HTTP connection, and what it may cost before anybody has shown a key: bytes, headers, time, a place.

uvicorn's own protocol over httptools has no such bounds. Here a request's head has MAX_HEAD bytes, MAX_HEADERS headers
and HEAD_SECONDS; `Config.limit_concurrency` connections are open at once, and when all places are taken the one that
has waited longest without a whole request gives way. A refusal is the same JSON as any other error.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from oliveira.serving.front.errors import ApiError

MAX_HEAD = 1 << 16  # bytes of request line and headers; of trailers too
MAX_HEADERS = 128
MAX_PIPELINED = 32  # requests sent before the first of them is answered
HEAD_SECONDS = 10.0  # from its first byte to its last; of a new connection, from its beginning
LINGER_SECONDS = 2.0  # in which what still comes is read and dropped: an early close would cost the client our answer


class Connection(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = self.limit_concurrency or 1 << 30
        self.limit_concurrency = None  # uvicorn would answer after the head, and in plain text
        self._timer: asyncio.TimerHandle | None = None
        self._open: list[RequestResponseCycle] = []  # requests that are not answered yet
        self._since = self.loop.time()  # the head that we wait for
        self._in_head = self._deaf = False
        self._head = self._pending = self._count = 0
        self._reason: ApiError | None = None

    # A place ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(HEAD_SECONDS)
        if len(self.connections) > self._places and not self._somebody_gives_way():
            self._refuse(too_many(self._places))

    def _somebody_gives_way(self) -> bool:
        waiting = [c for c in self.connections if isinstance(c, Connection) and c is not self and not c._busy()]
        if waiting:
            min(waiting, key=lambda connection: connection._since).transport.abort()
        return bool(waiting)

    def _busy(self) -> bool:
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        return bool(self._open)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        for cycle in self._open:  # uvicorn tells the last of them only
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()

    # Time ---------------------------------------------------------------------------------------------------

    def _watch(self, seconds: float) -> None:
        if self._timer is None and not self._deaf:
            self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Is a head, or the first byte, overdue? Work in hand and idle connections have limits of their own."""
        self._timer = None
        left = self._since + HEAD_SECONDS - self.loop.time()
        if self._in_head and left <= 0:
            self._refuse(late_head())
        elif self._busy() or self._in_head:
            self._watch(max(left, 0.1) if self._in_head else HEAD_SECONDS)
        elif self.timeout_keep_alive_task is None:
            self.transport.close()  # nothing, or empty lines

    # The head -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        heads = self._count
        super().data_received(data)
        if self._deaf or self.transport.is_closing():
            return
        self._watch(HEAD_SECONDS)
        if self._in_head and heads == self._count:  # a single header may fill many reads
            self._pending += len(data)
            if self._pending > MAX_HEAD:
                self._refuse(large_head())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._since = True, self.loop.time()
        self._head = self._pending = 0
        self._count += 1

    def on_url(self, url: bytes) -> None:
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take(len(name) + len(value) + 4)
        if len(self.headers) >= MAX_HEADERS:
            self._reason = large_head()
            raise self._reason
        super().on_header(name, value)

    def _take(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._reason = large_head()
            raise self._reason  # ends the parser, which then calls `send_400_response`

    def on_headers_complete(self) -> None:
        if self._busy() and len(self._open) >= MAX_PIPELINED:
            raise ValueError("too many requests wait for their answers")
        super().on_headers_complete()
        self._in_head = False
        self._open.append(self.cycle)
        if self.scope["http_version"] == "1.0":
            _without_chunks(self.cycle)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is passed over, as HTTP allows; no line in the log for it."""

    # Refusals -----------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._reason or bad_request())

    def _refuse(self, error: ApiError) -> None:
        """Answers, unless another answer is on its way, which then is the last."""
        if self._busy():
            last = self._open[-1]
            if len(self._open) > 1 or last.response_started or not last.more_body:
                self._deaf = True
                return
            last.disconnected = True  # its body is broken: nobody else answers it
            last.message_event.set()
        body = json.dumps(error.body()).encode()
        head = [STATUS_LINE[error.status], b"content-type: application/json\r\n"]
        if error.retry_after is not None:
            head.append(b"retry-after: %d\r\n" % error.retry_after)
        head += [b"content-length: %d\r\n" % len(body), b"connection: close\r\n\r\n", body]
        self.transport.write(b"".join(head))
        self._linger()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._deaf:
            self.transport.close()
        elif self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._linger()  # refused before its body was read: nobody waits for the rest

    def _linger(self) -> None:
        self._deaf = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _without_chunks(cycle: RequestResponseCycle) -> None:
    """For HTTP/1.0, which knows no chunks: an answer without a length ends with the connection."""
    cycle.chunked_encoding = False
    send = cycle.send

    async def send_as_it_comes(message: Any) -> None:
        if message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_as_it_comes  # type: ignore[method-assign]


def large_head() -> ApiError:
    said = f"the request's head has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers. Send less of it."
    return ApiError(431, said, code="head_too_large")


def late_head() -> ApiError:
    return ApiError(408, f"the request's head did not arrive within {HEAD_SECONDS:g} seconds.", code="head_timeout")


def bad_request() -> ApiError:
    return ApiError(400, "this is not a valid HTTP/1.1 request. Correct it.", code="invalid_http")


def too_many(places: int) -> ApiError:
    said = f"all serve.connections = {places} connections are at work. Try again in a moment."
    return ApiError(503, said, code="too_many_connections", retry_after=1)
