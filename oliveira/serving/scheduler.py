"""Continuous batching: streams join and leave between any two steps (Orca, Yu et al., OSDI 2022).

A step is at most one chunk of one prompt, then one token for every stream that decodes. A long prompt
therefore delays the others by a chunk, never by all of it. Streams that decode own the rows 0 … n-1 of the
cache, the prompt being read row n.

Shapes: tokens, positions (B, T); logits (B, T, V).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.models.gpt import GPT
from oliveira.serving.protocol import Message
from oliveira.serving.sampling import Sampling, draw, log_probabilities, mix
from oliveira.serving.slots import SlotCache
from oliveira.serving.text import TextStream

CHUNK = 64  # prompt tokens read between two decode steps


@dataclass(kw_only=True)
class Request:
    """What a client asked for once; `n` choices are decoded as `n` streams."""

    id: str
    prompt: list[int]
    n: int
    max_tokens: int
    sampling: Sampling
    stop: list[str]
    logprobs: int | None  # how many alternatives to report, None = no log-probabilities
    observe: bool  # measure the loss of the prompt
    arrived: float
    open: int = field(init=False)
    started: float = math.nan
    first_token: float = math.nan
    loss: float | None = None

    def __post_init__(self) -> None:
        self.open = self.n


class Stream:
    """One choice of a request."""

    def __init__(self, request: Request, index: int, seed: int) -> None:
        self.request, self.index = request, index
        self.generator = torch.Generator().manual_seed(mix(seed, index))
        self.text = TextStream(request.stop)
        self.position = 0  # tokens in the cache
        self.last = -1  # sampled, not yet in the cache
        self.generated = 0
        self.loss_sum = 0.0
        self._entries: deque[tuple[int, int, Message]] = deque()

    @property
    def observed(self) -> bool:
        """Only the first choice measures the loss of the prompt: the others read the same one."""
        return self.request.observe and self.index == 0 and len(self.request.prompt) > 1

    def remember(self, start: int, entry: Message) -> None:
        self._entries.append((start, self.text.length, {**entry, "offset": start}))

    def entries(self, *, final: bool) -> list[Message]:
        """Log-probabilities of the tokens whose text has been handed out."""
        out = []
        while self._entries:
            start, end, entry = self._entries[0]
            if not (end <= self.text.released or (final and (start < self.text.released or not self.text.stopped))):
                break
            out.append(entry)
            self._entries.popleft()
        if final:
            self._entries.clear()
        return out


class Scheduler:
    """Owns the cache and decides what the next step computes. Not thread-safe: one thread calls it."""

    def __init__(
        self, model: GPT, *, slots: int, token_bytes: Callable[[int], bytes], end_of_text: int, n_tokens: int
    ) -> None:
        config = model.config
        self.model, self.slots = model, slots
        self.token_bytes, self.end_of_text = token_bytes, end_of_text
        self.n_tokens = n_tokens  # what the tokenizer knows: the model's vocabulary may be larger
        self.cache = SlotCache(
            n_layers=config.n_layers,
            rows=slots,
            n_kv_heads=config.n_kv_heads,
            max_len=config.max_len,
            d_head=config.d_model // config.n_heads,
        )
        self.waiting: deque[Stream] = deque()
        self.reading: Stream | None = None
        self.decoding: list[Stream] = []

    # Requests come and go -----------------------------------------------------------------------------------

    def add(self, request: Request, seed: int) -> None:
        self.waiting.extend(Stream(request, index, seed) for index in range(request.n))

    def cancel(self, request_id: str) -> None:
        """Forgets the request; its slots are free at once. Unknown ids are requests that have just ended."""
        self.waiting = deque(stream for stream in self.waiting if stream.request.id != request_id)
        if self.reading is not None and self.reading.request.id == request_id:
            self.reading = None
        for row in reversed(range(len(self.decoding))):
            if self.decoding[row].request.id == request_id:
                self._leave(row)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.reading or self.decoding)

    def stats(self) -> Message:
        streams = self.decoding + ([self.reading] if self.reading else [])
        used = sum(stream.position for stream in streams)
        usage = round(used / (self.slots * self.model.config.max_len), 3)
        return {"type": "stats", "running": len(streams), "waiting": len(self.waiting), "kv_usage": usage}

    # One step -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Message]:
        """Advances everyone by one token at most. Returns what the front has to know."""
        messages: list[Message] = []
        if self.reading is None and self.waiting and len(self.decoding) < self.slots:
            self.reading = self.waiting.popleft()
            if self.reading.index == 0:
                self.reading.request.started = time.monotonic()
        decoding = len(self.decoding)
        if self.reading is not None:
            self._read(self.reading, messages)
        if decoding:
            self._decode(min(decoding, len(self.decoding)), messages)
        return messages

    def _read(self, stream: Stream, messages: list[Message]) -> None:
        """One chunk of the prompt; after the last one, the first token."""
        prompt, start = stream.request.prompt, stream.position
        end = min(start + CHUNK, len(prompt))
        hidden_1TD = self._hidden([prompt[start:end]], [range(start, end)], first_row=len(self.decoding))
        stream.position = end
        last = end == len(prompt)
        if stream.observed:
            targets = torch.tensor(prompt[start + 1 : end + 1], dtype=torch.long)  # none after the last
            logits_TV = self._logits(hidden_1TD[0])
            stream.loss_sum += float(F.cross_entropy(logits_TV[: len(targets)], targets, reduction="sum"))
            logits_V = logits_TV[-1]
        else:
            logits_V = self._logits(hidden_1TD[0, -1])
        if not last:
            return
        if stream.observed and math.isfinite(stream.loss_sum):
            stream.request.loss = stream.loss_sum / (len(prompt) - 1)
        self.reading = None
        self.decoding.append(stream)
        self._choose(stream, logits_V, messages)

    def _decode(self, n: int, messages: list[Message]) -> None:
        """One token for the first `n` rows (a stream that has just read its prompt has its token)."""
        streams = self.decoding[:n]
        tokens = [[stream.last] for stream in streams]
        positions = [range(stream.position, stream.position + 1) for stream in streams]
        logits_BV = self._logits(self._hidden(tokens, positions, first_row=0)[:, -1])
        for stream in streams:
            stream.position += 1
        for stream, logits_V in zip(streams, logits_BV, strict=True):
            if stream in self.decoding:  # a sibling that failed takes its whole request along
                self._choose(stream, logits_V, messages)

    def _hidden(self, tokens: list[list[int]], positions: list[range], *, first_row: int) -> Tensor:
        positions_BT = torch.tensor([list(row) for row in positions])
        window = self.cache.window(first_row, positions_BT)
        return self.model.hidden(torch.tensor(tokens), cache=window, positions=positions_BT, mask=window.mask)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.head(hidden)[..., : self.n_tokens]

    def _choose(self, stream: Stream, logits_V: Tensor, messages: list[Message]) -> None:
        """Samples the next token of one stream, says so, and lets the stream go if it has ended."""
        request = stream.request
        if not bool(torch.isfinite(logits_V).all()):
            messages.append(_error(request.id, 500, "the model produced a number that is not finite.", "not_finite"))
            self.cancel(request.id)
            return
        token = draw(logits_V, request.sampling, stream.generator)
        stream.last = token
        stream.generated += 1
        now = time.monotonic()
        if stream.generated == 1 and math.isnan(request.first_token):
            request.first_token = now
        ended = token == self.end_of_text
        text = ""
        if not ended:
            start = stream.text.length
            text = stream.text.push(self.token_bytes(token))
            if request.logprobs is not None:
                stream.remember(start, self._describe(logits_V, token, request.logprobs))
        reason = (
            "stop" if ended or stream.text.stopped else "length" if stream.generated == request.max_tokens else None
        )
        if reason is None:
            messages.append(
                {
                    "type": "token",
                    "id": request.id,
                    "index": stream.index,
                    "text": text,
                    "logprobs": stream.entries(final=False),
                }
            )
            return
        text += stream.text.finish()
        if stream.text.stopped:  # also when the last bytes completed a stop string
            reason = "stop"
        messages.append(
            {
                "type": "done",
                "id": request.id,
                "index": stream.index,
                "reason": reason,
                "text": text,
                "tokens": stream.generated,
                "logprobs": stream.entries(final=True),
            }
        )
        self._leave(self.decoding.index(stream))
        request.open -= 1
        if request.open == 0:
            messages.append(
                {
                    "type": "end",
                    "id": request.id,
                    "queue_seconds": request.started - request.arrived,
                    "prefill_seconds": request.first_token - request.started,
                    "decode_seconds": now - request.first_token,
                    "loss": request.loss,
                    "prompt": request.prompt if request.observe else None,
                }
            )

    def _describe(self, logits_V: Tensor, token: int, top: int) -> Message:
        logprob, ranked = log_probabilities(logits_V, token, min(top, self.n_tokens))
        return {
            "token": list(self.token_bytes(token)),
            "logprob": logprob,
            "top": [[list(self.token_bytes(other)), value] for other, value in ranked],
        }

    def _leave(self, row: int) -> None:
        """Frees a row: the last stream moves into it, and the prompt being read moves up behind the rest."""
        last = len(self.decoding) - 1
        if row != last:
            self.cache.move(last, row, self.decoding[last].position)
            self.decoding[row] = self.decoding[last]
        self.decoding.pop()
        if self.reading is not None and self.reading.position:
            self.cache.move(last + 1, last, self.reading.position)


def _error(request_id: str, status: int, message: str, code: str) -> Message:
    return {"type": "error", "id": request_id, "status": status, "message": message, "code": code}
