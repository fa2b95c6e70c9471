"""What was written for other programs is read back, and must compute what is served: a file that lies is not kept."""

from __future__ import annotations

from typing import Any

import torch

from oliveira.errors import CorruptError

TOLERANCE = 1e-5  # of the largest logit: the same numbers, multiplied in another layout
_TOKENS = 16


@torch.no_grad()
def check_same(ours: Any, again: Any, what: str) -> None:
    """Raises `CorruptError` unless both give the same logits for a random batch."""
    length = min(_TOKENS, ours.config.max_len, again.config.max_len)
    tokens = torch.randint(ours.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    expected = ours(tokens)
    difference = float((again(tokens) - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise CorruptError(
            f"{what} was written and read back, and differs by {difference:.2g} in its logits: it is not kept. "
            "Report this form of model."
        )
