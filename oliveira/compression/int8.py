"""Eight bits a weight: one scale for each output of a linear layer.

    q = round(W / s),  s = max|W row| / 127,  Ŵ = s q                   symmetric, per output channel

Shapes: W (d_out, d_in) float32 → q int8 of the same shape, s (d_out, 1) float32. A weight errs by s / 2 at most.
Biases, norms, embeddings and recurrent kernels stay in float32. This is the pure-torch twin: the weights are rebuilt
at every call, which saves memory, not time. The native step (`oliveira.kernels`) multiplies the codes themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.errors import OliveiraError


class Int8Linear(nn.Module):
    """Replaces `linear`. Everything is a buffer: nothing trains, everything is saved."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        if not scale.isfinite().all():
            raise OliveiraError(f"weights of shape {tuple(weight.shape)} hold NaN or infinity.")
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def dequantised(self) -> Tensor:
        """Ŵ (d_out, d_in), float32."""
        return self.codes * self.scale

    def bits_per_weight(self) -> float:
        """Codes and scales, over the number of weights."""
        return 8 * (self.codes.nbytes + self.scale.nbytes) / (self.in_features * self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._onnx() if torch.onnx.is_in_onnx_export() else self.dequantised(), self.bias)

    def _onnx(self) -> Tensor:
        """Ŵ as the operator that ONNX has for it: the graph holds the codes, and no exporter multiplies them out."""
        shape: list[int | torch.SymInt] = [self.out_features, self.in_features]
        stored = [self.codes, self.scale[:, 0]]
        return torch.onnx.ops.symbolic("DequantizeLinear", stored, {"axis": 0}, dtype=torch.float32, shape=shape)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, int8, {self.bits_per_weight():.3f} bits"
