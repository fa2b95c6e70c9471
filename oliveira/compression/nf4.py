"""nf4: sixteen quantiles of the normal distribution, scaled by the largest magnitude of each block of 64.

Paper: QLoRA, Dettmers et al. 2023, arXiv:2305.14314, §3 and appendix E (the code book).

    x̂ = CODE[q] · absmax,   q = argmin_i |x / absmax − CODE[i]|               (4-bit NormalFloat, exact zero)
    absmax ≈ DYNAMIC[a] · absmax₂ + mean                                      (double quantisation)

absmax itself costs 32/64 = 0.5 bits a weight. Double quantisation takes its mean away and stores the rest
in 8 bits, blocks of 256 with one float32 each: 4 + 8/64 + 32/(64·256) = 4.127 bits a weight.

Checked against: bitsandbytes.functional.quantize_4bit(quant_type="nf4", compress_statistics=True) on the
CPU, every stored bit. Hence two details that the paper does not fix: the scaled weight is x · (1/absmax),
and absmax is matched to the 8-bit code on a grid of 65535 steps (bitsandbytes' look-up table).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oliveira.compression.packing import BLOCK, pack, pair_table, to_blocks, unpack

# Appendix E: quantiles of N(0, 1), eight below zero and nine from zero on, each side scaled to reach ±1.
# fmt: off
CODE = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])
# fmt: on
_BOUNDS = (CODE[:-1] + CODE[1:]) / 2
_PAIRS = pair_table(CODE)
_ABSMAX_BLOCK = 256
_SMALLEST = 1e-38  # a block of zeros divides by this instead of by zero


def dynamic_code() -> Tensor:
    """The 256 values of the signed 8-bit dynamic type (Dettmers 2015, arXiv:1511.04561).

    Seven decades: 10^(i−6) has 2^i values each side, in the middle of equal parts of [0.1, 1]; then 0 and 1.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        values += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(values))


DYNAMIC = dynamic_code()
_DYNAMIC_BOUNDS = (DYNAMIC[:-1] + DYNAMIC[1:]) / 2


class Nf4(NamedTuple):
    """What is stored for n weights."""

    codes: Tensor  # uint8 (⌈n/2⌉,)
    absmax_codes: Tensor  # uint8 (⌈n/64⌉,)
    absmax_scale: Tensor  # float32 (⌈n/16384⌉,)
    absmax_mean: Tensor  # float32 ()


def blank_nf4(n: int) -> Nf4:
    """Room for `n` weights, to be filled."""
    codes, absmax = (torch.zeros(-(-n // each), dtype=torch.uint8) for each in (2, BLOCK))
    return Nf4(codes, absmax, torch.zeros(-(-len(absmax) // _ABSMAX_BLOCK)), torch.zeros(()))


def quantise_nf4(x: Tensor) -> Nf4:
    """Any shape, read row by row. Raises `OliveiraError` on NaN and infinity."""
    blocks = to_blocks(x)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=_SMALLEST))[:, None]
    if x.numel() % BLOCK:  # bitsandbytes divides here: the last bit can decide between two codes
        scaled[-1] = blocks[-1] / absmax[-1].clamp(min=_SMALLEST)
    codes = torch.bucketize(scaled.clamp(-1, 1), _BOUNDS.to(x.device))
    mean = absmax.mean()
    return Nf4(pack(codes, x.numel()), *_quantise_absmax(absmax - mean), mean)


def dequantise_nf4(stored: Nf4, shape: Sequence[int]) -> Tensor:
    """float32 weights of `shape`."""
    n_blocks = stored.absmax_codes.shape[0]
    values = unpack(stored.codes, _PAIRS, n_blocks) * dequantise_absmax(stored)[:, None]
    return values.view(-1)[: torch.Size(shape).numel()].view(*shape)


def _quantise_absmax(centred: Tensor) -> tuple[Tensor, Tensor]:
    padded = torch.cat([centred, centred.new_zeros(-centred.shape[0] % _ABSMAX_BLOCK)]).view(-1, _ABSMAX_BLOCK)
    scale = padded.abs().amax(dim=1)
    scaled = (padded * (1 / scale.clamp(min=_SMALLEST))[:, None]).clamp(-1, 1)
    grid = ((scaled + 1) * 0.5 * 65535 + 0.5).int()
    codes = torch.bucketize(grid / 65535 * 2 - 1, _DYNAMIC_BOUNDS.to(centred.device))
    codes[scale == 0] = 0
    return codes.view(-1)[: centred.shape[0]].to(torch.uint8), scale


def dequantise_absmax(stored: Nf4) -> Tensor:
    """The largest magnitude of each block, float32 (⌈n/64⌉,)."""
    values = DYNAMIC.to(stored.codes.device).index_select(0, stored.absmax_codes.int())
    n_blocks = values.shape[0]
    missing = -n_blocks % _ABSMAX_BLOCK
    padded = torch.cat([values, values.new_zeros(missing)]) if missing else values
    return (padded.view(-1, _ABSMAX_BLOCK) * stored.absmax_scale[:, None] + stored.absmax_mean).view(-1)[:n_blocks]
