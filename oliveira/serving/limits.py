"""What a request may cost before any work is done for it: bytes, depth, time, a place in the queue."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from starlette.types import Message, Receive, Scope

from oliveira.serving.errors import ApiError

MAX_DEPTH = 32  # nested lists and objects of a body
BODY_SECONDS = 30.0  # for a body to arrive
MAX_CHOICES = 16  # answers of one request, all prompts together


class Disconnected(Exception):
    """The client has gone before its request was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it in memory. Raises `ApiError` 413 or 408."""
    too_large = ApiError(
        413, f"the body is larger than serve.max_body = {limit} bytes. Send less text.", code="body_too_large"
    )
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                body += message.get("body", b"")
                if len(body) > limit:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
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


def check_json(body: bytes) -> None:
    """Raises `ApiError` 400 unless `body` is JSON with finite numbers, Unicode text and bounded depth."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=refuse)
    except RecursionError:
        raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _bad_json(str(error)) from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not _is_unicode(item):
                raise _bad_json("a string holds half a surrogate pair")
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise _bad_json("a number is too large")
        level = below
    if level:
        raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_json(why: str) -> ApiError:
    return ApiError(400, f"the body is not valid JSON: {why}. Correct the body.", code="invalid_json")


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
