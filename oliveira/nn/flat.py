"""Where a model begins that sees its whole input at once: an image or a series laid out as one row of numbers.

Shapes: image (B, channels, height, width), or series (B, T, d_in), T ≤ max_len → (B, n_flat).
Mask: (B, T) boolean, True = a real step; padded steps, and those missing up to `max_len`, are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FlatConfig:
    """What a task sets; a model's own config adds its sizes."""

    d_in: int = 0  # so many numbers a step …
    channels: int = 0  # … or an image of channels × height × width: one of the two
    height: int = 0
    width: int = 0
    d_out: int
    max_len: int = 256  # steps of a series

    def __post_init__(self) -> None:
        if (self.d_in > 0) == (self.channels * self.height * self.width > 0):
            raise ValueError(
                f"d_in = {self.d_in} and an image of {self.channels} × {self.height} × {self.width}: give one of them, "
                "d_in for a series or all sides of an image."
            )

    @property
    def n_flat(self) -> int:
        """Numbers in the row."""
        return self.max_len * self.d_in if self.d_in else self.channels * self.height * self.width


def flatten(x: Tensor, config: FlatConfig, mask: Tensor | None = None) -> Tensor:
    """(B, n_flat). Raises ValueError for images of other sides, which might have as many pixels, and RuntimeError, in
    the product that follows, for a series longer than `max_len`.
    """
    if config.channels and tuple(x.shape[1:]) != (sides := (config.channels, config.height, config.width)):
        raise ValueError(f"images of {tuple(x.shape[1:])} do not fit channels, height, width = {sides}")
    if mask is not None:
        x = x * mask[:, :, None].to(x.dtype)
    if config.d_in and x.shape[1] < config.max_len:
        x = F.pad(x, (0, 0, 0, config.max_len - x.shape[1]))
    return x.flatten(1)
