"""4-bit weights written out in C++, for products whose other side trains: as float32, or as bfloat16 at once.

    ŵ = base + table[code] · scale                int4: minimum + code · step;   nf4: 0 + CODE[code] · absmax

Equal, bit for bit where ŵ is finite, to its pure-torch twin, `QuantisedLinear.dequantised()`, then rounded to the
nearest bfloat16.
Complexity: O(d_in · d_out), bound by what it writes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oliveira.compression.linear import QuantisedLinear
from oliveira.compression.nf4 import CODE
from oliveira.compression.packing import BLOCK
from oliveira.kernels.build import library, unavailable
from oliveira.kernels.linear import Kind, kind_of, stored

_TABLES = {Kind.int4: torch.arange(16.0), Kind.nf4: CODE}


def expanded(layer: QuantisedLinear, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ŵ (d_out, d_in), float32 or bfloat16. Without kernels, or with a ragged last block, torch does it."""
    n = layer.out_features * layer.in_features
    if n % BLOCK or dtype not in (torch.float32, torch.bfloat16) or unavailable():
        return layer.dequantised().to(dtype)
    kind = kind_of(layer)
    codes, a, b, _ = stored(layer, kind)
    assert a is not None
    scale, base = (a, None) if b is None else (b.float(), a.float())
    out = torch.empty(layer.out_features, layer.in_features, dtype=dtype)
    library().oliveira_expand(
        codes.data_ptr(),
        _TABLES[kind].data_ptr(),
        scale.data_ptr(),
        None if base is None else base.data_ptr(),
        n // BLOCK,
        out.data_ptr(),
        dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out
