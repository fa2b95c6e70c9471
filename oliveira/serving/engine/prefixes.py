"""Beginnings of texts that are found again: the attention cache of `oliveira.memory`, seen from the scheduler.

A conversation's next turn starts with all that was said before; its keys and values are read from disk instead of
computed, also after a restart. Only for exact decoders: then every logit has the same bits as without the cache. The
loss of the text so far is kept with each chunk, so that a prompt's loss is the same as well; where a text was not
observed there is none, until one that is observed has computed the chunk again and stores it with its loss.

What breaks the cache turns it off, which is said once: serving goes on without it.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import numpy as np

from oliveira.kernels.decoder import BlockPool, Decoder
from oliveira.memory.attention_cache import CHUNK, AttentionCache
from oliveira.serving.engine.window import BLOCKS, Window

log = logging.getLogger(__name__)


class Text(Protocol):
    tokens: list[int]
    table: list[int]
    position: int
    dropped: int
    stored: int
    loss: float
    loss_kept: float
    loss_after: dict[int, float]
    unmeasured: bool
    kept: set[bytes]

    @property
    def observed(self) -> bool: ...
    @property
    def salt(self) -> bytes | None: ...


def chunk_bytes(pool: BlockPool) -> int:
    """Size of what is kept for a chunk: its blocks and one float64, the loss."""
    return BLOCKS * pool.blocks[0].nbytes + 8


class Prefixes:
    def __init__(self, cache: AttentionCache, decoder: Decoder, window: Window | None = None) -> None:
        self.cache, self.window, self.decoder = cache, window, decoder
        self.broken = False
        self._rows = decoder.pool.blocks.numpy().view(np.uint8)

    def _buffers(self, text: Text, place: int, loss: np.ndarray) -> list[memoryview]:
        """The blocks of the chunk at `place` in the table, and the loss after it."""
        blocks = text.table[place * BLOCKS : (place + 1) * BLOCKS]
        return [*(self._rows[block].data for block in blocks), loss.view(np.uint8).data]

    def give_up(self, found: Exception) -> None:
        """No cache from now on."""
        if not self.broken:
            self.broken = True
            log.error("the attention cache is off: serving goes on without it", exc_info=found)

    def restore(self, text: Text) -> int:
        """Fills the blocks of a new text as far as it is known. Returns the position from which on it must be read.

        That is at most the last token, whose logits nobody has kept; where the loss is measured, the last known token,
        whose logits foretell the next one.
        """
        if self.broken or text.salt is None:
            return 0
        try:
            return self._restore(text, text.salt)
        except Exception as found:
            self.give_up(found)
            text.stored = text.dropped = 0
            text.loss = 0.0
            text.loss_after.clear()
            return 0

    def keep(self, text: Text) -> None:
        """Stores every whole chunk that has been computed and not been stored, and what follows the last one.

        Not the latter with a window: a text would keep more than its size.
        """
        if self.broken or text.salt is None:
            return
        try:
            self._keep(text, text.salt)
        except Exception as found:
            self.give_up(found)

    def drop(self, text: Text) -> None:
        """Nobody finds again what this text has stored, or was given."""
        if self.broken or text.salt is None:
            return
        try:
            self.cache.drop([*self.cache.keys(text.tokens, salt=text.salt), *text.kept])
        except Exception as found:
            self.give_up(found)

    def _restore(self, text: Text, salt: bytes) -> int:
        keys = self.cache.keys(text.tokens, salt=salt)
        losses: list[float] | None = None
        while losses is None:  # a bad file is deleted: try what is left
            n = self._usable(keys, text)
            losses = self._load(keys, n, text)
        if n and text.observed and not self._slides(n):
            known = next((i for i in range(n, 0, -1) if not math.isnan(losses[i - 1])), 0)
            text.unmeasured |= known < n
            n = known
        text.stored, text.dropped = n, self.window.dropped(n) if self.window else 0
        if n and not self._slides(n):
            text.loss = text.loss_after[n - 1] = losses[n - 1]
        known = n * CHUNK + self._tail(keys[:n], text, n, salt)
        if self._slides(n):
            # The token before a new chunk stood in another window: no loss for this prompt.
            text.loss = math.nan
            return min(known, len(text.tokens) - 1)
        return max(0, known - 1) if text.observed else min(known, len(text.tokens) - 1)

    def _tail(self, keys: list[bytes], text: Text, n: int, salt: bytes) -> int:
        """Fills the chunk after the first `n` as far as an earlier text went on in the same way; how many tokens."""
        found = self.cache.tail(keys, text.tokens[n * CHUNK :], salt=salt)
        if found is None:
            return 0
        key, count = found
        loss, tokens = np.empty(1), text.tokens[n * CHUNK : n * CHUNK + count]
        if not self.cache.load(key, tokens, self._buffers(text, n - text.dropped, loss)):
            return 0
        if text.observed:
            if math.isnan(loss[0]):
                text.unmeasured = True
                return 0
            text.loss = float(loss[0])
        return count

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

    def _keep(self, text: Text, salt: bytes) -> None:
        whole, rest = divmod(text.position, CHUNK)
        keys = self.cache.keys(text.tokens[: whole * CHUNK], salt=salt)
        for chunk in range(text.stored, whole):
            loss = text.loss_after.get(chunk, math.nan) if text.observed else math.nan
            tokens = text.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            self._store(text, keys[chunk], chunk, tokens, loss, keys[:chunk])
        text.stored = max(text.stored, whole)
        if rest and self.window is None:
            tokens = text.tokens[whole * CHUNK : text.position]
            blocks = text.table[whole * BLOCKS : (whole + 1) * BLOCKS]
            self.decoder.blank(blocks, rest)  # an earlier owner's numbers must not get into this tenant's file
            key = self.cache.tail_key(keys, tokens, salt=salt)
            self._store(text, key, whole, tokens, text.loss_kept if text.observed else math.nan, keys)

    def _store(self, text: Text, key: bytes, chunk: int, tokens: list[int], loss: float, parents: list[bytes]) -> None:
        again = text.unmeasured and not math.isnan(loss)
        buffers = self._buffers(text, chunk - text.dropped, np.array([loss]))
        self.cache.store(key, chunk, tokens, buffers, parents, again=again)
        text.kept.add(key)
