"""One request for text, from the queue to its last token, whichever engine answers it.

As long as nothing of the answer has reached the client, an engine that dies is replaced by the next one,
once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from oliveira.serving.calls import SYNTAXES, Syntax
from oliveira.serving.front.client import EngineProcess, Job
from oliveira.serving.front.errors import EngineDied, engine_stopped
from oliveira.serving.front.limits import Permit
from oliveira.serving.front.service import Service
from oliveira.serving.protocol import Accepted, Done, Echo, End, Generate, Logprob, TextReady, Token

T = TypeVar("T")


@dataclass
class Choice:
    """One finished answer."""

    text: str = ""
    reason: str = ""
    tokens: int = 0
    logprobs: list[Logprob] = field(default_factory=list)


class Generation:
    """`n` choices for each prompt; choice `i` of prompt `p` has the number `p · n + i`. To be closed."""

    def __init__(
        self,
        service: Service,
        messages: Sequence[Generate],
        *,
        request_id: str,
        observe: bool,
        tenant: str,
        adapter: str | None,
    ) -> None:
        self.service, self.request_id, self._tenant = service, request_id, tenant
        self.n = messages[0].n
        self._observe = observe and service.traffic is not None
        self._messages = [
            replace(message, request=request_id, observe=self._observe, tenant=tenant, adapter=adapter)
            for message in messages
        ]
        self.arrived = self._last = time.monotonic()
        self.prompt_tokens = self.cached_tokens = self.tokens = 0
        self._permit: Permit | None = service.admission.take(self.choices, tenant)
        self._job: Job | None = None
        self._to_end = len(messages)

    @property
    def digest(self) -> str:
        assert self._job is not None
        return self._job.engine.digest

    @property
    def calls(self) -> Syntax:
        """How the model writes calls of functions."""
        ready = self._job.engine.ready if self._job is not None else None
        assert isinstance(ready, TextReady)
        return SYNTAXES[ready.calls]

    @property
    def choices(self) -> int:
        return self.n * len(self._messages)

    @property
    def ended(self) -> bool:
        return self._to_end == 0

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    async def begin(self, check: Callable[[EngineProcess], None]) -> tuple[int, Echo | Token | Done | End]:
        """The first part of the answer. `check` may refuse the engine (unknown model) with an `ApiError`."""
        return await self._retried(check, self.next)

    async def collect(self, check: Callable[[EngineProcess], None]) -> list[Choice]:
        """The whole answer."""

        async def work() -> list[Choice]:
            choices = [Choice() for _ in range(self.choices)]
            while not self.ended:
                number, message = await self.next()
                if not isinstance(message, End):
                    choices[number].text += message.text
                    choices[number].logprobs += message.logprobs
                if isinstance(message, Done):
                    choices[number].reason, choices[number].tokens = message.reason, message.tokens
            return choices

        return await self._retried(check, work)

    async def _retried(self, check: Callable[[EngineProcess], None], work: Callable[[], Awaitable[T]]) -> T:
        for again in (True, False):
            engine = await self.service.fleet.engine()
            check(engine)
            try:
                self._submit(engine)
                return await work()
            except EngineDied:
                if not again:
                    raise engine_stopped() from None
        raise AssertionError

    def _submit(self, engine: EngineProcess) -> None:
        if self._job is not None:
            self._job.close()
        self._job = engine.submit(self._messages)
        self._to_end, self.prompt_tokens, self.cached_tokens, self.tokens = len(self._messages), 0, 0, 0

    async def next(self) -> tuple[int, Echo | Token | Done | End]:
        """(choice, message) for `token` and `done`; (-1, `end`) when the last choice of a prompt has ended.

        Raises `ApiError` or `EngineDied`.
        """
        assert self._job is not None
        while True:
            prompt, message = await self._job.next()
            match message:
                case Accepted():
                    self.prompt_tokens += message.prompt_tokens
                case Echo():
                    return prompt * self.n + message.index, message
                case Token() | Done():
                    self._measure(message)
                    return prompt * self.n + message.index, message
                case End():
                    self._to_end -= 1
                    self._finish(prompt, message)
                    return -1, message

    def _measure(self, message: Token | Done) -> None:
        metrics, now = self.service.metrics, time.monotonic()
        if self.tokens == 0:
            metrics.time_to_first_token_seconds.observe(now - self.arrived)
        elif self.choices == 1:
            metrics.inter_token_latency_seconds.observe(now - self._last)
        self._last = now
        self.tokens += 1
        if isinstance(message, Done):
            metrics.request_success_total.labels(finished_reason=message.reason).inc()

    def _finish(self, prompt: int, message: End) -> None:
        metrics = self.service.metrics
        metrics.request_queue_time_seconds.observe(message.queue_seconds)
        metrics.request_prefill_time_seconds.observe(message.prefill_seconds)
        metrics.request_decode_time_seconds.observe(message.decode_seconds)
        metrics.spec_decode_num_draft_tokens_total.inc(message.guessed_tokens)
        metrics.spec_decode_num_accepted_tokens_total.inc(message.accepted_tokens)
        self.cached_tokens += message.cached_tokens
        text = self._messages[prompt].text  # None when the client sent tokens
        if self._observe and text and len(message.prompt or []) > 1:
            self.service.remember(
                {
                    "id": self.request_id,
                    "time": time.time(),
                    "key": self._tenant,
                    "digest": self.digest,
                    "text": text,
                    "tokens": message.prompt,
                    "loss": message.loss,
                }
            )
        if self.ended:
            metrics.prompt_tokens_total.inc(self.prompt_tokens)
            metrics.prompt_tokens_cached_total.inc(self.cached_tokens)
            metrics.generation_tokens_total.inc(self.tokens)
            metrics.e2e_request_latency_seconds.observe(time.monotonic() - self.arrived)

    def close(self) -> None:
        """Frees slots and queue. May be called again, and before anything has begun."""
        if self._job is not None:
            if not self.ended:
                self.service.metrics.request_success_total.labels(finished_reason="abort").inc()
                self._to_end = 0
            self._job.close()
        if self._permit is not None:
            self._permit.release()
            self._permit = None
