"""A linear layer whose weights are stored in 4 bits.

    y = x Ŵᵀ + b,   Ŵ = dequantise(stored)

This is the pure-torch twin: it rebuilds Ŵ in float32 at every call, so it saves memory and costs time. The native
kernels (`oliveira.kernels`) multiply the codes directly and agree with this one.

Shapes: x (…, d_in) → (…, d_out). Complexity: O(d_in·d_out) more than `nn.Linear`, at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.compression.int4 import Int4, blank_int4, dequantise_int4, quantise_int4, quantise_int4_mse
from oliveira.compression.nf4 import Nf4, blank_nf4, dequantise_nf4, quantise_nf4


class Codec(NamedTuple):
    stored: Any  # the NamedTuple of tensors that `quantise` returns
    quantise: Callable[[Tensor], Any]
    dequantise: Callable[[Any, Sequence[int]], Tensor]
    blank: Callable[[int], Any]  # the same tensors for so many weights, to be filled


CODECS = {
    "int4": Codec(Int4, quantise_int4, dequantise_int4, blank_int4),
    "int4_mse": Codec(Int4, quantise_int4_mse, dequantise_int4, blank_int4),
    "nf4": Codec(Nf4, quantise_nf4, dequantise_nf4, blank_nf4),
}


class QuantisedLinear(nn.Module):
    """Replaces `linear`. Everything is a buffer: nothing trains, everything is saved.

    `blank`: for weights that are stored already, its buffers wait for them and `linear` gives its shape alone.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, method: str, *, blank: bool = False) -> None:
        super().__init__()
        self.method = method
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codec = CODECS[method]
        stored = codec.blank(linear.weight.numel()) if blank else codec.quantise(linear.weight)
        for name, tensor in stored._asdict().items():
            self.register_buffer(name, tensor)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def dequantised(self) -> Tensor:
        """Ŵ (d_out, d_in), float32."""
        codec = CODECS[self.method]
        stored = codec.stored(*(getattr(self, name) for name in codec.stored._fields))
        return codec.dequantise(stored, (self.out_features, self.in_features))

    def bits_per_weight(self) -> float:
        """Everything that is stored in place of the weight matrix, over its number of weights."""
        stored = (getattr(self, name) for name in CODECS[self.method].stored._fields)
        return 8 * sum(tensor.nbytes for tensor in stored) / (self.in_features * self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantised(), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.method}, {self.bits_per_weight():.3f} bits"
