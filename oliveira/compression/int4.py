"""int4: sixteen equal steps between the smallest and the largest weight of each block of 64.

Seed 000, "Quantização 4-bit":

    q(x) = round((x − min) / (max − min) · (2⁴ − 1)),   x̂ = min + q · (max − min) / 15

The seed calls it NF4; it is uniform asymmetric INT4 (`nf4` beside this file is QLoRA's). It leaves two
things open: a block whose values are all equal gives 0/0 (here: code 0, x̂ = min), and the two numbers of a
block have to be stored (here: float16 minimum and step), so a weight costs 4 + 32/64 = 4.5 bits, not 4.
Zero is in general not among the sixteen values.

Error: |x − x̂| ≤ (max − min)/30, plus the rounding of the two float16 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oliveira.compression.packing import pack, pair_table, to_blocks, unpack
from oliveira.errors import OliveiraError

_PAIRS = pair_table(torch.arange(16))


class Int4(NamedTuple):
    """n weights: codes uint8 (⌈n/2⌉,), minimum and step float16 (⌈n/64⌉,)."""

    codes: Tensor
    minimum: Tensor
    step: Tensor


def quantise_int4(x: Tensor) -> Int4:
    """Any shape, read row by row. Raises `OliveiraError` on NaN, infinity and values beyond float16."""
    blocks = to_blocks(x, repeat_last=True)
    minimum, maximum = blocks.aminmax(dim=1, keepdim=True)
    span = maximum - minimum
    codes = torch.where(span > 0, (blocks - minimum) / span * 15, 0.0).round()
    half_minimum, half_step = minimum.half(), (span / 15).half()
    if not (half_minimum.isfinite().all() and half_step.isfinite().all()):
        largest = blocks.abs().max()
        raise OliveiraError(f"int4 stores float16 scales: weights up to {largest:.3g} do not fit. Use nf4.")
    return Int4(pack(codes, x.numel()), half_minimum.view(-1), half_step.view(-1))


def dequantise_int4(stored: Int4, shape: Sequence[int]) -> Tensor:
    """float32 weights of `shape`."""
    values = unpack(stored.codes, _PAIRS, stored.minimum.shape[0])
    blocks = torch.addcmul(stored.minimum.float()[:, None], values, stored.step.float()[:, None])
    return blocks.view(-1)[: torch.Size(shape).numel()].view(*shape)
