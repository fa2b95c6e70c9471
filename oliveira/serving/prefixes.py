"""Beginnings of texts that are found again: the attention cache of `oliveira.memory`, seen from the scheduler.

A conversation's next turn starts with all that was said before; its keys and values are read from disk instead of
computed, also after a restart. Only for exact decoders: then every logit has the same bits as without the cache. The
loss of the text so far is kept with each chunk, so that a prompt's loss is the same as well.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from oliveira.kernels.decoder import BlockPool
from oliveira.memory.attention_cache import CHUNK, AttentionCache
from oliveira.serving.window import BLOCKS, Window


class Text(Protocol):
    tokens: list[int]
    table: list[int]
    position: int
    dropped: int
    stored: int
    loss: float
    loss_after: dict[int, float]

    @property
    def observed(self) -> bool: ...
    @property
    def salt(self) -> bytes: ...


def chunk_bytes(pool: BlockPool) -> int:
    """Size of what is kept for a chunk: its blocks and one float64, the loss."""
    return BLOCKS * pool.blocks[0].nbytes + 8


class Prefixes:
    def __init__(self, cache: AttentionCache, pool: BlockPool, window: Window | None = None) -> None:
        self.cache, self.window = cache, window
        self._rows = pool.blocks.numpy().view(np.uint8)

    def _buffers(self, text: Text, place: int, loss: np.ndarray) -> list[memoryview]:
        """The blocks of the chunk at `place` in the table, and the loss after it."""
        blocks = text.table[place * BLOCKS : (place + 1) * BLOCKS]
        return [*(self._rows[block].data for block in blocks), loss.view(np.uint8).data]

    def restore(self, text: Text) -> int:
        """Fills the blocks of a new text as far as it is known. Returns the position from which on it must be read.

        That is at most the last token, whose logits nobody has kept; where the loss is measured, the last known token,
        whose logits foretell the next one.
        """
        keys = self.cache.keys(text.tokens, salt=text.salt)
        losses: list[float] | None = None
        while losses is None:  # a bad file is deleted: try what is left
            n = self._usable(keys, text)
            losses = self._load(keys, n, text)
        if n and text.observed and not self._slides(n):
            n = next((i for i in range(n, 0, -1) if not math.isnan(losses[i - 1])), 0)
        if n == 0:
            return 0
        text.stored, text.dropped = n, self.window.dropped(n) if self.window else 0
        if text.observed:
            # Beyond the window the token before stands in another window: no loss for this prompt.
            text.loss = math.nan if self._slides(n) else losses[n - 1]
            text.loss_after[n - 1] = text.loss
        if self._slides(n):
            return n * CHUNK
        return n * CHUNK - 1 if text.observed else min(n * CHUNK, len(text.tokens) - 1)

    def _slides(self, n: int) -> bool:
        return self.window is not None and self.window.dropped(n) > 0

    def _usable(self, keys: list[bytes], text: Text) -> int:
        n = self.cache.longest(keys)
        if n * CHUNK == len(text.tokens) and self._slides(n):  # its last token must be read again, in its own window
            n = self.cache.longest(keys[:-1])
        return n

    def _load(self, keys: list[bytes], n: int, text: Text) -> list[float] | None:
        """The losses after the chunks that chunk `n` attends to; None if one of them is not what it should be."""
        losses = []
        for place, chunk in enumerate(self.cache.needed(n)):
            loss = np.empty(1)
            tokens = text.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            if not self.cache.load(keys[chunk], tokens, self._buffers(text, place, loss)):
                return None
            losses.append(float(loss[0]))
        return losses

    def keep(self, text: Text) -> None:
        """Stores every whole chunk that has been computed and not been stored."""
        whole = text.position // CHUNK
        if whole <= text.stored:
            return
        keys = self.cache.keys(text.tokens[: whole * CHUNK], salt=text.salt)
        for chunk in range(text.stored, whole):
            loss = np.array([text.loss_after.get(chunk, math.nan) if text.observed else math.nan])
            tokens = text.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            self.cache.store(keys[chunk], chunk, tokens, self._buffers(text, chunk - text.dropped, loss), keys[:chunk])
        text.stored = whole
