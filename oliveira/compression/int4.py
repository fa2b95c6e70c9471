"""int4: sixteen equal steps between the smallest and the largest weight of each block of 64.

Seed document 000, "Quantização 4-bit":

    q(x) = round((x − min) / (max − min) · (2⁴ − 1)),   x̂ = min + q · (max − min) / 15

The seed document calls it NF4; it is uniform asymmetric INT4 (`nf4` beside this file is QLoRA's). It leaves two
things open: a block whose values are all equal gives 0/0 (here: code 0, x̂ = min), and the two numbers of a
block have to be stored (here: float16 minimum and step), so a weight costs 4 + 32/64 = 4.5 bits, not 4.
Zero is in general not among the sixteen values.

Error: |x − x̂| ≤ (max − min)/30, plus the rounding of the two float16 numbers.

One far weight makes all steps of its block large. `quantise_int4_mse` stores the same in the same way, but looks for
the two numbers: twenty ranges, from [min, max] down to 0.6 of it; for each, codes as above and the line minimum +
step · code that is nearest to the block (least squares); the one with the smallest squared error is kept. The same idea
as the clipping of OCTAV (Sakr et al. 2022, arXiv:2206.06501) and of llama.cpp's k-quants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oliveira.compression.packing import BLOCK, pack, pair_table, to_blocks, unpack
from oliveira.errors import OliveiraError

_PAIRS = pair_table(torch.arange(16))
_RANGES, _NARROWEST = 20, 0.6  # more of either changes the error by less than 1 %


class Int4(NamedTuple):
    """n weights: codes uint8 (⌈n/2⌉,), minimum and step float16 (⌈n/64⌉,)."""

    codes: Tensor
    minimum: Tensor
    step: Tensor


def blank_int4(n: int) -> Int4:
    """Room for `n` weights, to be filled."""
    halves = (torch.zeros(-(-n // BLOCK), dtype=torch.float16) for _ in range(2))
    return Int4(torch.zeros(-(-n // 2), dtype=torch.uint8), *halves)


def quantise_int4(x: Tensor) -> Int4:
    """Any shape, read row by row. Raises `OliveiraError` on NaN, infinity and values beyond float16."""
    blocks = to_blocks(x, repeat_last=True)
    minimum, maximum = blocks.aminmax(dim=1, keepdim=True)
    span = maximum - minimum
    codes = torch.where(span > 0, (blocks - minimum) / span * 15, 0.0).round()
    return Int4(pack(codes, x.numel()), *_halves(blocks, minimum, span / 15))


def quantise_int4_mse(x: Tensor) -> Int4:
    """The same with the smallest squared error. Complexity: some forty times that of `quantise_int4`."""
    blocks = to_blocks(x, repeat_last=True)
    seed = quantise_int4(x)
    minimum, step = seed.minimum.float()[:, None], seed.step.float()[:, None]
    smallest = _error(blocks, minimum, step)
    low, high = blocks.aminmax(dim=1, keepdim=True)
    for share in torch.linspace(1.0, _NARROWEST, _RANGES).tolist():
        line = _line(blocks, _codes(blocks, share * low, share * (high - low) / 15))
        # As they will be stored, so that the choice counts what rounding them costs.
        new_minimum, new_step = (number.half().float() for number in line)
        error = _error(blocks, new_minimum, new_step)
        better = error < smallest
        smallest = torch.where(better, error, smallest)
        minimum, step = torch.where(better, new_minimum, minimum), torch.where(better, new_step, step)
    return Int4(pack(_codes(blocks, minimum, step), x.numel()), *_halves(blocks, minimum, step))


def _codes(blocks: Tensor, minimum: Tensor, step: Tensor) -> Tensor:
    return torch.where(step > 0, (blocks - minimum) / step, 0.0).round().clamp(0, 15)


def _error(blocks: Tensor, minimum: Tensor, step: Tensor) -> Tensor:
    return (minimum + step * _codes(blocks, minimum, step) - blocks).square().sum(dim=1, keepdim=True)


def _line(blocks: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and step of least squares; a step of 0 where all codes are equal."""
    middle, mean = codes.mean(dim=1, keepdim=True), blocks.mean(dim=1, keepdim=True)
    spread = (codes - middle).square().sum(dim=1, keepdim=True)
    step = ((codes - middle) * (blocks - mean)).sum(dim=1, keepdim=True) / spread.clamp(min=1e-30)
    return mean - step * middle, step


def _halves(blocks: Tensor, minimum: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    halves = minimum.half().view(-1), step.half().view(-1)
    if not all(half.isfinite().all() for half in halves):
        raise OliveiraError(f"int4 stores float16 scales: weights up to {blocks.abs().max():.3g} do not fit. Use nf4.")
    return halves


def dequantise_int4(stored: Int4, shape: Sequence[int]) -> Tensor:
    """float32 weights of `shape`."""
    values = unpack(stored.codes, _PAIRS, stored.minimum.shape[0])
    blocks = torch.addcmul(stored.minimum.float()[:, None], values, stored.step.float()[:, None])
    return blocks.view(-1)[: torch.Size(shape).numel()].view(*shape)
