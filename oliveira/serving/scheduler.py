"""Continuous batching: streams join and leave between any two steps (Orca, Yu et al., OSDI 2022).

A step is one token for every stream that decodes (more, where a guess proves right) and at most one piece of one
prompt (64 tokens while others decode), in one call of the decoder. A long prompt therefore delays the others by a
piece, never by all of it.

Keys and values stand in blocks of 16 positions (PagedAttention, Kwon et al., SOSP 2023). A stream joins when all blocks
that it can ever need are free, so no stream is put out again; they are free at once when it ends or is cancelled. The
choices of one request share the blocks of their prompt.

Shapes: logits (sum of the tokens asked for, V).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels.adapter import Adapter
from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder, Run
from oliveira.memory.attention_cache import CHUNK
from oliveira.serving.prefixes import Prefixes
from oliveira.serving.protocol import Message
from oliveira.serving.sampling import Sampling, draw, log_probabilities, mix
from oliveira.serving.speculation import Speculator
from oliveira.serving.text import TextStream
from oliveira.serving.window import BLOCKS, Window


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
    adapter: Adapter | None = None
    salt: bytes = b""  # prefixes are found again among requests of the same salt only
    open: int = field(init=False)
    started: float = math.nan
    first_token: float = math.nan
    loss: float | None = None
    cached: int = 0  # tokens of the prompt that were not computed again
    guessed: int = 0  # tokens, for all choices
    accepted: int = 0  # guesses that were right
    read: tuple[list[int], Tensor] | None = None  # the prompt's blocks and last logits, for the choices still to come

    def __post_init__(self) -> None:
        self.open = self.n


class Stream:
    """One choice of a request."""

    def __init__(self, request: Request, index: int, seed: int) -> None:
        self.request, self.index = request, index
        self.generator = torch.Generator().manual_seed(mix(seed, index))
        self.text = TextStream(request.stop)
        self.tokens = list(request.prompt)  # and what was sampled
        self.table: list[int] = []
        self.position = 0  # tokens whose keys and values are in the blocks
        self.generated = 0
        self.dropped = 0  # chunks that fell out of the window
        self.stored = 0  # chunks that the attention cache has
        self.loss = 0.0  # of the tokens so far, each given those before it
        self.loss_kept = 0.0  # of those in the blocks
        self.loss_after: dict[int, float] = {}  # the same, at the end of each chunk
        self.guessing: Any = None  # the guesser's
        self._entries: deque[tuple[int, int, Message]] = deque()

    @property
    def observed(self) -> bool:
        """Only the first choice measures the loss of the prompt: the others read the same one."""
        return self.request.observe and self.index == 0 and len(self.request.prompt) > 1

    @property
    def salt(self) -> bytes:
        return self.request.salt

    @property
    def slot(self) -> int:
        """Where the next token stands in the blocks."""
        return self.position - self.dropped * CHUNK

    def run(self, tokens: list[int], wanted: int) -> Run:
        return Run(tokens, self.position, self.table, wanted, self.request.adapter, self.slot)

    def lose(self, first: int, logits_TV: Tensor, tokens: list[int]) -> None:
        """Adds the losses of `tokens`, which stand at position `first` and after it."""
        each = (
            F.cross_entropy(logits_TV[: len(tokens)], torch.tensor(tokens, dtype=torch.long), reduction="none")
            .double()
            .tolist()
        )
        for place, loss in enumerate(each, first):
            self.loss += loss
            if place % CHUNK == CHUNK - 1:
                self.loss_after[place // CHUNK] = self.loss

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
    """Owns the blocks and decides what the next step computes. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int,
        token_bytes: Callable[[int], bytes],
        end_of_text: int,
        n_tokens: int,
        prefixes: Prefixes | None = None,
        speculator: Speculator | None = None,
        window: Window | None = None,
    ) -> None:
        self.decoder, self.slots = decoder, slots
        self.token_bytes, self.end_of_text = token_bytes, end_of_text
        self.n_tokens = n_tokens  # what the tokenizer knows: the model's vocabulary may be larger
        # One more for a prompt whose last block is kept until the request's other choices have copied it.
        self.reach = window.size if window else decoder.context  # tokens that a stream keeps at most
        self.pool = BlockPool(decoder, slots * -(-self.reach // CHUNK) * BLOCKS + 1)
        self.window = window
        self.prefixes = prefixes
        self.speculator = speculator
        self.waiting: deque[Stream] = deque()
        self.reading: Stream | None = None
        self.decoding: list[Stream] = []

    # Requests come and go -----------------------------------------------------------------------------------

    def add(self, request: Request, seed: int) -> None:
        self.waiting.extend(Stream(request, index, seed) for index in range(request.n))

    def cancel(self, request_id: str) -> None:
        """Forgets the request; its blocks are free at once. Unknown ids are requests that have just ended."""
        self.waiting, waited = deque(), self.waiting
        for stream in waited:
            if stream.request.id != request_id:
                self.waiting.append(stream)
            else:
                self._forget_prompt(stream.request)
        if self.reading is not None and self.reading.request.id == request_id:
            self.pool.give_back(self.reading.table)
            self.reading = None
        for stream in [stream for stream in self.decoding if stream.request.id == request_id]:
            self._leave(stream)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.reading or self.decoding)

    def stats(self) -> Message:
        used = len(self.pool.blocks) - len(self.pool.free)
        return {
            "type": "stats",
            "running": len(self.decoding) + (self.reading is not None),
            "waiting": len(self.waiting),
            "kv_usage": round(used / len(self.pool.blocks), 3),
        }

    # One step -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Message]:
        """Advances everyone. Returns what the front has to know."""
        messages: list[Message] = []
        self._admit(messages)
        streams, reading = list(self.decoding), self.reading
        for stream in [*streams, *([reading] if reading else [])]:
            self._slide(stream)
        guesses = self._guess(streams)
        runs = [
            stream.run([stream.tokens[-1], *guess], 1 + len(guess))
            for stream, guess in zip(streams, guesses, strict=True)
        ]
        if reading is not None:
            runs.append(self._piece(reading))
        logits = self._compute(runs)
        if reading is not None:
            self._have_read(reading, runs[-1], logits[-1], messages)
        for stream, run, logits_TV in zip(streams, runs, logits, strict=False):
            if stream in self.decoding:  # a sibling that failed takes its whole request along
                self._decoded(stream, run, logits_TV, messages)
        return messages

    def _admit(self, messages: list[Message]) -> None:
        """First come, first served: the next prompt, if there are a slot and blocks for all that it may become."""
        while self.reading is None and self.waiting and len(self.decoding) < self.slots:
            stream, request = self.waiting[0], self.waiting[0].request
            need = self._blocks(request)
            if need - (len(request.prompt) // POSITIONS if request.read else 0) > len(self.pool.free):
                return
            self.waiting.popleft()
            if request.read is None:
                self.reading = stream
                if stream.index == 0:
                    request.started = time.monotonic()
                stream.table = self.pool.take(need)
                if self.prefixes is not None:
                    stream.position = self.prefixes.restore(stream)
                    request.cached = max(request.cached, stream.position)
            else:
                self._follow(stream, *request.read, messages)

    def _blocks(self, request: Request) -> int:
        """Blocks that a stream of this request can ever need, in whole chunks."""
        return -(-min(len(request.prompt) + request.max_tokens, self.reach) // CHUNK) * BLOCKS

    def _slide(self, stream: Stream) -> None:
        """Before a token of a new chunk: what it does not attend to makes room."""
        if self.window is None:
            return
        falls = self.window.dropped(stream.position // CHUNK) - stream.dropped
        if falls > 0:
            if self.prefixes is not None:
                self.prefixes.keep(stream)
            stream.table = self.window.rotate(stream.table, falls)
            stream.dropped += falls

    def _follow(self, stream: Stream, blocks: list[int], logits_V: Tensor, messages: list[Message]) -> None:
        """A further choice of a request whose prompt has been read: whole blocks are shared, the last one is copied."""
        request = stream.request
        whole = len(request.prompt) // POSITIONS
        stream.table = self.pool.share(blocks[:whole]) + self.pool.take(self._blocks(request) - whole)
        self.pool.blocks[stream.table[whole : len(blocks)]] = self.pool.blocks[blocks[whole:]]
        stream.position = len(request.prompt)
        stream.stored = stream.position // CHUNK
        if stream.index == request.n - 1:
            self._forget_prompt(request)
        self.decoding.append(stream)
        self._choose(stream, logits_V, messages)

    def _forget_prompt(self, request: Request) -> None:
        if request.read is not None:
            self.pool.give_back(request.read[0])
            request.read = None

    def _guess(self, streams: list[Stream]) -> list[list[int]]:
        """What may follow the token that each stream has sampled last."""
        if self.speculator is None:
            return [[] for _ in streams]
        room = [stream.request.max_tokens - stream.generated - 1 for stream in streams]
        if self.window is not None:
            ends = [self.window.end(stream.position) - stream.position - 1 for stream in streams]
            room = [min(pair) for pair in zip(room, ends, strict=True)]
        return self.speculator.guess(streams, room)

    def _piece(self, stream: Stream) -> Run:
        start, n = stream.position, len(stream.request.prompt)
        end = min(start + (CHUNK if self.decoding else MAX_TOKENS), n)
        if self.window is not None:
            end = min(end, self.window.end(start))
        wanted = end - start if stream.observed else int(end == n)
        return stream.run(stream.request.prompt[start:end], wanted)

    def _compute(self, runs: list[Run]) -> list[Tensor]:
        """Logits (wanted, V) of each run, in as few calls as the decoder takes."""
        logits: list[Tensor] = []
        group: list[Run] = []
        for run in [*runs, None]:
            if group and (run is None or sum(len(r.tokens) for r in group) + len(run.tokens) > MAX_TOKENS):
                logits += self.decoder.step(group)[:, : self.n_tokens].split([r.wanted for r in group])
                group = []
            if run is not None:
                group.append(run)
        return logits

    def _have_read(self, stream: Stream, run: Run, logits_TV: Tensor, messages: list[Message]) -> None:
        """After the last piece of a prompt comes the first token."""
        request, prompt = stream.request, stream.request.prompt
        stream.position += len(run.tokens)
        if stream.observed:  # no token of the prompt follows the last one
            stream.lose(run.position + 1, logits_TV, prompt[run.position + 1 : stream.position + 1])
            stream.loss_kept = stream.loss
        if stream.position < len(prompt):
            return
        if stream.observed and math.isfinite(stream.loss):
            request.loss = stream.loss / (len(prompt) - 1)
        self.reading = None
        self.decoding.append(stream)
        if self.prefixes is not None:
            self.prefixes.keep(stream)
        if request.n > 1 and len(prompt) + request.max_tokens <= self.reach:  # else the window slides over the prompt
            request.read = self.pool.share(stream.table[: -(-len(prompt) // POSITIONS)]), logits_TV[-1]
        self._choose(stream, logits_TV[-1], messages)

    def _decoded(self, stream: Stream, run: Run, logits_TV: Tensor, messages: list[Message]) -> None:
        """One token, and one more for every guess that is what was sampled: the text is the same as without guesses."""
        right, request = 0, stream.request
        request.guessed += len(run.tokens) - 1
        for guess, logits_V in zip([*run.tokens[1:], None], logits_TV, strict=True):
            stream.position += 1
            token = self._choose(stream, logits_V, messages)
            if token is None or token != guess:
                break
            right += 1
            request.accepted += 1
        if self.speculator is not None:
            self.speculator.learn(len(run.tokens) - 1, right)

    def _choose(self, stream: Stream, logits_V: Tensor, messages: list[Message]) -> int | None:
        """Samples the next token of one stream and says so. None: the stream has ended and is gone."""
        request = stream.request
        if not bool(torch.isfinite(logits_V).all()):
            messages.append(_error(request.id, 500, "the model produced a number that is not finite.", "not_finite"))
            self.pool.blocks[stream.table] = 0.0  # the next owner must not find a NaN
            self.cancel(request.id)
            return None
        token = draw(logits_V, request.sampling, stream.generator)
        if stream.observed and self.prefixes is not None:  # for the next turn of a conversation
            stream.loss_kept = stream.loss
            stream.lose(len(stream.tokens), logits_V[None], [token])
        stream.tokens.append(token)
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
            return token
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
        if self.prefixes is not None:
            self.prefixes.keep(stream)
        self._leave(stream)
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
                    "cached_tokens": request.cached,
                    "guessed_tokens": request.guessed,
                    "accepted_tokens": request.accepted,
                }
            )
        return None

    def _describe(self, logits_V: Tensor, token: int, top: int) -> Message:
        logprob, ranked = log_probabilities(logits_V, token, min(top, self.n_tokens))
        return {
            "token": list(self.token_bytes(token)),
            "logprob": logprob,
            "top": [[list(self.token_bytes(other)), value] for other, value in ranked],
        }

    def _leave(self, stream: Stream) -> None:
        self.decoding.remove(stream)
        self.pool.give_back(stream.table)
        if self.speculator is not None:
            self.speculator.guesser.forget(stream)


def _error(request_id: str, status: int, message: str, code: str) -> Message:
    return {"type": "error", "id": request_id, "status": status, "message": message, "code": code}
