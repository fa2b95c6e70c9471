"""Where a one-tower sequence model begins and ends: tokens or numbers in, one answer or one a step out.

    tokens:  x = E[token]            series:  x = W_in s + b_in
    steps:   y_t = W_out h_t + b     one:     y = W_out pool(h) + b, pool = last real step, or mean of the real steps

Shapes: in (B, T) int64 or (B, T, d_in) → (B, T, d_model); out (B, T, d_out) or (B, d_out).
Mask: (B, T) boolean, True = a real step. Steps of padding count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """What a task sets in every one-tower sequence model; a model's own config adds its sizes."""

    vocab_size: int = 0  # tokens in …
    d_in: int = 0  # … or so many numbers a step: one of the two
    d_out: int
    max_len: int = 256

    def __post_init__(self) -> None:
        if (self.vocab_size > 0) == (self.d_in > 0):
            raise ValueError(
                f"vocab_size = {self.vocab_size} and d_in = {self.d_in}: give one of them, "
                "vocab_size for tokens or d_in for numbers."
            )


class Input(nn.Module):
    def __init__(self, config: SequenceConfig, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, d_model) if config.vocab_size else None
        self.project = None if config.vocab_size else nn.Linear(config.d_in, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x) if self.project is None else self.project(x)  # type: ignore[misc]


class Output(nn.Module):
    """The head of a one-tower model: an answer a step, or for `gives = "one"` a single one, from `pool`: the last real
    step of a causal model, the mean of all real steps else.
    """

    def __init__(self, config: SequenceConfig, gives: str, d_model: int, pool: Literal["last", "mean"]) -> None:
        super().__init__()
        self.gives, self.pool = gives, pool
        self.project = nn.Linear(d_model, config.d_out)

    def forward(self, h_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.gives == "one":
            h_BTD = last_step(h_BTD, mask) if self.pool == "last" else mean_step(h_BTD, mask)
        return self.project(h_BTD)


def last_step(h_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """(B, D): the state at the last real step of each row (padding may stand on either side)."""
    if mask is None:
        return h_BTD[:, -1]
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = (steps * mask).amax(dim=1)  # (B,)
    return h_BTD.gather(1, last[:, None, None].expand(-1, 1, h_BTD.shape[2]))[:, 0]


def mean_step(h_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """(B, D): the mean of the real steps; a row without any gives zeros."""
    if mask is None:
        return h_BTD.mean(dim=1)
    real = mask[:, :, None].to(h_BTD.dtype)
    return (h_BTD * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
