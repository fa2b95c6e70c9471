"""Linear layers through oneDNN while a model trains: the same sums in another order, at the processor's speed.

    y = x Wᵀ + b,   ∂x = ∂y W,   ∂W = ∂yᵀ x,   ∂b = Σ ∂y

torch gives fp32 products to MKL, which on a processor that Intel did not make computes with half of its registers: 100
of 240 GFLOP/s on a Zen 5, where oneDNN, in torch as well, reaches 185–235.

A layer that stores 4-bit codes (`dequantised()` gives W) has its W rebuilt for ∂x instead of kept from the forward
pass, so that one W is in memory at a time.

Shapes: x (…, d_in), W (d_out, d_in) → (…, d_out). Complexity: that of the plain layer.
Checked against: torch.nn.functional.linear, value and three gradients, 1e-5 relative.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.compression.linear import QuantisedLinear
from oliveira.kernels.expand import expanded

# Below so many multiply-adds what a Python function costs is more than what it saves.
SMALLEST = 1 << 22


@functools.cache
def available() -> bool:
    """Whether this torch was built with oneDNN."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def bf16_available() -> bool:
    """Whether this processor multiplies bfloat16 without a detour."""
    return available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, d_in) times the transpose of weight (d_out, d_in): any strides, CPU, both float32 or both bfloat16; both
    float64 goes to torch, for checks.

    It has no gradient."""
    if x.dtype == torch.float64:
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def add_product(total: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    """total + product(x, weight); None counts as zero."""
    if total is None:
        return product(x, weight)
    if x.dtype == torch.float64:
        return total + product(x, weight)
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, total, weight, None, "add")
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (d_y,), (x, weight) = gradients, ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows_y, rows_x = d_y.flatten(0, -2), x.flatten(0, -2)
        # A second derivative is asked for: products that autograd knows.
        times = F.linear if torch.is_grad_enabled() else product
        d_x = times(rows_y, weight.t()).view(x.shape) if wants_x else None
        d_weight = times(rows_y.t(), rows_x.t()) if wants_weight else None
        return d_x, d_weight, rows_y.sum(0) if wants_bias else None


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return product(x, weight_of(layer), layer.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return product(gradient, weight_of(ctx.layer).t()), None


def weight_of(layer: nn.Linear | QuantisedLinear, dtype: torch.dtype = torch.float32) -> Tensor:
    """W (d_out, d_in), rebuilt where it is stored in 4 bits."""
    return expanded(layer, dtype) if isinstance(layer, QuantisedLinear) else layer.weight.to(dtype)


def pays(x: Tensor, d_out: int) -> bool:
    """Whether oneDNN takes `x` (…, d_in) and what it saves is more than what a Python function costs."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() > 1
    return plain and x.numel() * d_out >= SMALLEST and available() and not torch.compiler.is_exporting()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; through oneDNN where something trains and the product is large enough."""
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if trains and weight.dtype == torch.float32 and pays(x, weight.shape[0]):
        result: Tensor = _Linear.apply(x, weight, bias)
        return result
    return F.linear(x, weight, bias)


def rebuilt(layer: QuantisedLinear, x: Tensor) -> Tensor:
    """x Wᵀ + b with the W that `layer` stores, which is frozen."""
    if torch.is_grad_enabled() and x.requires_grad and pays(x, layer.out_features):
        result: Tensor = _Frozen.apply(x, layer)
        return result
    return F.linear(x, layer.dequantised(), layer.bias)
