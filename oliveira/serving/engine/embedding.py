"""Texts that are embedded: read in pieces between the steps of the streams, so that no stream waits for more than one.

    e = m / |m|,   m = mean over the tokens of the last layer's normalised states

Several short texts share a piece, a long one takes several; texts of several keys take turns. Blocks for one text of
the longest kind are set aside for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels.decoder import POSITIONS, BlockPool, Decoder, Run
from oliveira.serving.engine.failures import Failures, each, error, not_finite
from oliveira.serving.engine.turns import Turns
from oliveira.serving.protocol import Answer, Embedded, Refused


@dataclass(kw_only=True, eq=False)
class Text:
    """One text of a request."""

    id: str
    name: str  # of the request, for the log
    tenant: str
    read: Callable[[], list[int]]  # its tokens, once it is its turn: tokenizing takes time too. May raise `Refused`
    tokens: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    position: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))  # of the states so far


class Embedder:
    """`decoder` must have `states`. Not thread-safe."""

    def __init__(self, decoder: Decoder, pool: BlockPool, failures: Failures) -> None:
        self.decoder, self.pool, self.failures = decoder, pool, failures
        self.waiting: Turns[Text] = Turns()
        self._next: Text | None = None  # read, waits for blocks
        self._open: deque[Text] = deque()
        self._free = pool.take(blocks_for(decoder.config.max_len))

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self._next or self._open)

    def add(self, text: Text) -> None:
        self.waiting.add(text.tenant, text)

    def cancel(self, request_id: str) -> None:
        self.waiting.remove(lambda text: text.id == request_id)
        if self._next is not None and self._next.id == request_id:
            self._next = None
        for text in [text for text in self._open if text.id == request_id]:
            self._close(text)

    def drop_all(self) -> list[Text]:
        """Forgets every text; takes blocks anew from a pool that was cleared."""
        gone = [*self.waiting, *([self._next] if self._next else []), *self._open]
        self.waiting, self._next, self._open = Turns(), None, deque()
        self._free = self.pool.take(blocks_for(self.decoder.config.max_len))
        return gone

    def piece(self, at_most: int) -> list[Answer]:
        """Reads up to so many tokens. Returns the embeddings that are done, and what was refused."""
        messages: list[Answer] = []
        texts: list[Text] = []
        runs: list[Run] = []
        left = at_most
        while left > 0:
            if len(texts) == len(self._open) and not self._begin(messages):
                break
            text = self._open[len(texts)]
            new = text.tokens[text.position : text.position + left]
            texts.append(text)
            runs.append(Run(new, text.position, text.table, len(new)))
            left -= len(new)
        found = each(self.decoder.states, runs, [len(run.tokens) for run in runs]) if runs else []
        for text, run, states in zip(texts, runs, found, strict=True):
            if isinstance(states, Exception):
                messages.append(self.failures.message(text.id, text.name, states))
                self._spoil(text)
                continue
            text.total = text.total + states.double().sum(dim=0)
            text.position += len(run.tokens)
            if not bool(torch.isfinite(text.total).all()):
                messages.append(not_finite(text.id))
                self._spoil(text)
            elif text.position == len(text.tokens):
                messages.append(_result(text))
                self._close(text)
        self._open.rotate(-1)  # a long text does not hold up the others that are open
        return messages

    def _begin(self, messages: list[Answer]) -> bool:
        """Opens one more text, if there is one and blocks for it. A refusal is work enough for one piece."""
        if self._next is None:
            if not self.waiting:
                return False
            text = self.waiting.take()
            try:
                text.tokens = text.read()
            except Refused as refused:
                messages.append(error(text.id, 400, str(refused), refused.code))
                return False
            except Exception as found:
                messages.append(self.failures.message(text.id, text.name, found))
                return False
            self._next = text
        need = blocks_for(len(self._next.tokens))
        if need > len(self._free):
            return False
        self._next.table = [self._free.pop() for _ in range(need)]
        self._open.append(self._next)
        self._next = None
        return True

    def _spoil(self, text: Text) -> None:
        self.pool.blocks[text.table] = 0.0  # the next owner must not find a NaN
        self._close(text)

    def _close(self, text: Text) -> None:
        self._open.remove(text)
        self._free += text.table
        text.table = []


def blocks_for(tokens: int) -> int:
    return -(-tokens // POSITIONS)


def _result(text: Text) -> Embedded:
    mean = (text.total / len(text.tokens)).float()
    return Embedded(id=text.id, embedding=F.normalize(mean, dim=0).tolist(), prompt_tokens=len(text.tokens))
