"""Beginnings of texts that are found again: the attention cache of `oliveira.memory`, seen from the scheduler.

A conversation's next turn starts with all that was said before; its keys and values are read from disk instead of
computed, also after a restart. Only for exact decoders: then every logit has the same bits as without the cache. The
losses of a chunk's tokens are kept with it, so that a prompt's loss is the same as well.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from oliveira.kernels.decoder import POSITIONS, BlockPool
from oliveira.memory.attention_cache import CHUNK, AttentionCache

BLOCKS = CHUNK // POSITIONS  # of a chunk


class Text(Protocol):
    tokens: list[int]
    table: list[int]
    position: int
    losses: dict[int, float]

    @property
    def observed(self) -> bool: ...
    @property
    def salt(self) -> bytes: ...


def chunk_bytes(pool: BlockPool) -> int:
    """Size of what is kept for a chunk: its blocks and one float64, the loss."""
    return BLOCKS * pool.blocks[0].nbytes + 8


class Prefixes:
    def __init__(self, cache: AttentionCache, pool: BlockPool) -> None:
        self.cache = cache
        self._rows = pool.blocks.numpy().view(np.uint8)

    def _buffers(self, text: Text, chunk: int, loss: np.ndarray) -> list[memoryview]:
        blocks = text.table[chunk * BLOCKS : (chunk + 1) * BLOCKS]
        return [*(self._rows[block].data for block in blocks), loss.view(np.uint8).data]

    def restore(self, text: Text) -> int:
        """Fills the blocks of a new text as far as it is known. Returns the position from which on it must be read: at
        least the last token, whose logits nobody has kept; where the loss is measured, the last known token."""
        keys = self.cache.keys(text.tokens, salt=text.salt)
        wanted = self.cache.longest(keys)
        for chunk in range(wanted):
            loss = np.empty(1)
            tokens = text.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            found = self.cache.load(keys[chunk], tokens, self._buffers(text, chunk, loss))
            if not found or (text.observed and math.isnan(loss[0])):
                wanted = chunk
                break
            text.losses[chunk] = float(loss[0])
        end = wanted * CHUNK
        return max(0, end - 1) if text.observed else min(end, len(text.tokens) - 1)

    def keep(self, text: Text) -> None:
        """Stores every whole chunk that has been computed."""
        keys = self.cache.keys(text.tokens[: text.position], salt=text.salt)
        for chunk, key in enumerate(keys):
            loss = np.array([text.losses.get(chunk, math.nan) if text.observed else math.nan])
            tokens = text.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            self.cache.store(key, chunk, tokens, self._buffers(text, chunk, loss), keys[:chunk])
