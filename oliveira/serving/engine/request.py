"""One request for text inside the engine, and its choices, each of which is a stream of tokens.

Shapes: logits (T, V). V vocab_size.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels.adapter import Adapter
from oliveira.kernels.decoder import Run
from oliveira.memory.attention_cache import CHUNK
from oliveira.serving.engine.grammar import Compiled, Masks, Matcher, masks_of
from oliveira.serving.engine.sampling import Sampler, Sampling, mix
from oliveira.serving.engine.text import TextStream
from oliveira.serving.protocol import Logprob


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
    observe: bool  # tell the prompt, and its loss
    arrived: float
    adapter: Adapter | None = None
    measure: bool = True  # the loss is measured where the prompt is told
    grammar: Compiled | None = None  # what holds the answers; None = nothing
    salt: bytes | None = b""  # prefixes are found again among requests of the same salt only; None: not at all
    tenant: str = ""  # tenants take turns
    name: str = ""  # of the request in the front's log
    echo: str | None = None  # the prompt's text, if it is to be said before each choice
    entries: list[Logprob] = field(default_factory=list)  # of the prompt, if it is to be said with them
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
        self.sampler = Sampler(request.sampling, mix(seed, index), request.prompt)
        self.text = TextStream(request.stop)
        self.matcher = Matcher(request.grammar) if request.grammar is not None else None
        self.tokens = list(request.prompt)  # and what was sampled
        self.table: list[int] = []
        self.position = 0  # tokens whose keys and values are in the blocks
        self.generated = 0
        self.dropped = 0  # chunks that fell out of the window
        self.stored = 0  # chunks that the attention cache has
        self.loss = 0.0  # of the tokens so far, each given those before it
        self.loss_kept = 0.0  # of those in the blocks
        self.loss_after: dict[int, float] = {}  # the same, at the end of each chunk
        self.unmeasured = False  # some of it is in the attention cache without a loss: it is stored again with it
        self.kept: set[bytes] = set()  # entries that this stream has stored
        self.guessing: Any = None  # the guesser's
        self._entries: deque[tuple[int, int, Logprob]] = deque()

    @property
    def observed(self) -> bool:
        """Only the first choice measures the loss of the prompt: the others read the same one."""
        return self.request.observe and self.request.measure and self.index == 0 and len(self.request.prompt) > 1

    @property
    def reported(self) -> bool:
        """Its request wants the log-probabilities of the prompt."""
        return self.request.echo is not None and self.request.logprobs is not None and self.index == 0

    @property
    def salt(self) -> bytes | None:
        return self.request.salt

    @property
    def slot(self) -> int:
        """Where the next token stands in the blocks."""
        return self.position - self.dropped * CHUNK

    def mask(self) -> Masks | None:
        """Of the next token; None: all are allowed."""
        if self.matcher is None:
            return None
        [[mask]] = masks_of([(self.matcher, [])])
        return mask

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

    def remember(self, start: int, entry: Logprob) -> None:
        self._entries.append((start, self.text.length, replace(entry, offset=start + len(self.request.echo or ""))))

    def entries(self, *, final: bool) -> list[Logprob]:
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
