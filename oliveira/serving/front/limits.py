"""What a request may cost before any work is done for it: bytes, depth, time, a place in the queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from starlette.types import Message, Receive, Scope

from oliveira import strict_json
from oliveira.serving.front.errors import ApiError

BODY_SECONDS = 30.0  # for a body to arrive
# Bytes of a body that is too large which are read all the same: many clients send all before they read an answer.
DISCARDED = 16 << 20
MAX_CHOICES = 16  # answers of one request, all prompts together


class Disconnected(Exception):
    """The client has gone before its request was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it in memory. Raises `ApiError` 413 or 408.

    What is too large is read to its end and dropped, within DISCARDED and the time of any body: whoever closes before
    is not heard. A client that waits to be asked (Expect: 100-continue) is told at once.
    """
    too_large = ApiError(
        413, f"the body is larger than serve.max_body = {limit} bytes. Send less text.", code="body_too_large"
    )
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    told = int(length[:20]) if length.isdigit() else 0
    if told > DISCARDED or (told > limit and b"expect" in headers):
        raise too_large
    body, seen = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                piece, more = message.get("body", b""), message.get("more_body", False)
                seen += len(piece)
                if max(seen, told) <= limit:
                    body += piece
                elif not more or seen > DISCARDED:
                    raise too_large
                if not more:
                    return bytes(body)
    except TimeoutError:
        if max(seen, told) > limit:
            raise too_large from None
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds.", code="body_timeout") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` in one piece, then what the connection says (that the client is gone)."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def check_json(body: bytes) -> Any:
    """The body's value. Raises `ApiError` 400 unless it is JSON with finite numbers, Unicode text and bounded depth."""
    try:
        return strict_json.parse(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}. Correct the body.", code="invalid_json") from None


def check_content_type(scope: Scope) -> None:
    """Raises `ApiError` 415 unless the body is said to be plain JSON: no other site can make a browser say so."""
    headers = dict(scope["headers"])
    packed = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if packed not in ("identity", ""):
        raise ApiError(
            415, f"Content-Encoding is {packed[:64]!r}. Send the body as it is, without it.", code="content_encoding"
        )
    given = headers.get(b"content-type", b"").decode("latin-1")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        came = repr(given[:64]) if given else "missing"
        raise ApiError(
            415, f"Content-Type is {came}. Send JSON and say so: Content-Type: application/json.", code="content_type"
        )


class Admission:
    """Counts the answers in work. `slots + queue` may be there at once, and half of the queue for one key beside the
    slots, so that others always find room; the next request gets 429."""

    def __init__(self, *, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self.own = slots + (queue + 1) // 2
        self.taken = 0
        self._of: Counter[str] = Counter()

    def take(self, n: int, key: str) -> Permit:
        """Raises `ApiError` 429 when the queue is full, or this key's share of it."""
        if self.taken and self.taken + n > self.slots + self.queue:
            message = f"{self.taken} answers are in work (serve.queue = {self.queue}). Try again in a moment."
            raise ApiError(429, message, code="queue_full", retry_after=1)
        if self._of[key] and self._of[key] + n > self.own:
            message = (
                f"{self._of[key]} answers of this key are in work; a key may have {self.own} (serve.slots and half of "
                f"serve.queue = {self.queue}). Wait for some of them to end."
            )
            raise ApiError(429, message, code="queue_share", retry_after=1)
        self.taken += n
        self._of[key] += n
        return Permit(self, n, key)

    def release(self, n: int, key: str) -> None:
        self.taken -= n
        self._of[key] -= n
        if not self._of[key]:
            del self._of[key]


class Permit:
    """Places in the queue. `release` may be called again."""

    def __init__(self, admission: Admission, n: int, key: str) -> None:
        self._admission, self._n, self._key = admission, n, key

    def release(self) -> None:
        self._admission.release(self._n, self._key)
        self._n = 0
