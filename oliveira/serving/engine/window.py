"""Text without end in a cache of fixed size: the first tokens and the last ones (StreamingLLM, arXiv:2309.17453).

Seed document 000 writes K = [K_old ‖ K_new] mod C; a remainder of real numbers means nothing, so the ring is meant:
place t mod C. The first tokens stay ("sinks"), or quality collapses. A token of chunk c (64 tokens) attends to the
sinks, to its own chunk and to the chunks before it, C tokens at most; blocks that fall out take the next tokens, and
nothing is copied. Keys keep the rotation of their true position. What is attended to depends on the position alone, so
the same text gives the same bits however it was read.
"""

from __future__ import annotations

from dataclasses import dataclass

from oliveira.errors import UserError
from oliveira.kernels.decoder import POSITIONS
from oliveira.memory.attention_cache import CHUNK

BLOCKS = CHUNK // POSITIONS  # of a chunk


@dataclass(frozen=True)
class Window:
    """`size`: tokens that are attended to, a multiple of 64; the first `sinks` of them for ever."""

    size: int
    sinks: int = CHUNK

    def __post_init__(self) -> None:
        if self.size % CHUNK or self.size <= self.sinks:
            raise UserError(f"serve.window = {self.size}: give a multiple of {CHUNK}, at least {self.sinks + CHUNK}.")

    def dropped(self, chunk: int) -> int:
        """Chunks that a token of `chunk` no longer attends to: those that follow the sinks."""
        return max(0, chunk + 1 - self.size // CHUNK)

    def end(self, position: int) -> int:
        """Tokens from `position` on may be computed together up to here: they attend to the same blocks."""
        return self.size if position < self.size else (position // CHUNK + 1) * CHUNK

    def rotate(self, table: list[int], chunks: int) -> list[int]:
        """The table after so many more chunks have fallen out: their blocks come to the end."""
        first = self.sinks // POSITIONS
        last = first + chunks * BLOCKS
        return table[:first] + table[last:] + table[first:last]
