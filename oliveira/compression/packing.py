"""What both 4-bit formats share: blocks of 64 along the flattened weight, two codes in a byte.

A code byte holds the earlier weight in its high nibble, as bitsandbytes packs it. Unpacking is one look-up:
a table of 256 rows gives both values of a byte, so no shift, mask or interleave is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oliveira.errors import OliveiraError

BLOCK = 64


def to_blocks(x: Tensor, *, repeat_last: bool = False) -> Tensor:
    """(blocks, 64) float32. A ragged end is filled with zeros or its last value (min and max stay)."""
    flat = x.detach().reshape(-1).float()
    if not flat.numel() or not flat.isfinite().all():
        raise OliveiraError(f"weights of shape {tuple(x.shape)} are empty or hold NaN or infinity.")
    missing = -flat.numel() % BLOCK
    fill = flat[-1:] if repeat_last else flat.new_zeros(1)
    return torch.cat([flat, fill.expand(missing)]).view(-1, BLOCK)


def pack(codes: Tensor, n: int) -> Tensor:
    """The first `n` of the codes (0 … 15) → uint8 of ⌈n / 2⌉ bytes."""
    flat = codes.reshape(-1)[: n + n % 2].to(torch.uint8)
    return (flat[0::2] << 4) | flat[1::2]


def unpack(packed: Tensor, pairs: Tensor, n_blocks: int) -> Tensor:
    """(n_blocks, 64) values: `pairs` (256, 2) has the values of a byte's two codes. A ragged end is zero."""
    pairs = pairs.to(packed.device)
    if torch.compiler.is_compiling():  # ONNX has no view of other bits
        values = pairs.index_select(0, packed.int()).reshape(-1)
    else:  # two floats as one number: five times faster
        values = pairs.view(torch.int64).view(-1).index_select(0, packed.int()).view(pairs.dtype)
    missing = n_blocks * BLOCK - values.shape[0]
    return (torch.cat([values, values.new_zeros(missing)]) if missing else values).view(n_blocks, BLOCK)


def pair_table(values: Tensor) -> Tensor:
    """(16,) values of the codes → (256, 2) values of every byte."""
    byte = torch.arange(256)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1).float()
