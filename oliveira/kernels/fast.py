"""The layers of a model as they compute while it trains: through oneDNN and through our own kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import MethodType

from torch import Tensor, nn

from oliveira.compression.linear import QuantisedLinear
from oliveira.kernels.causal import causal_attention, takes
from oliveira.kernels.gated import gated
from oliveira.kernels.products import linear, rebuilt
from oliveira.nn.attention import MultiHeadAttention
from oliveira.nn.feedforward import SwiGLU


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _gate(layer: SwiGLU, x: Tensor) -> Tensor:
    y: Tensor = layer.down(gated(layer.gate(x), layer.up(x)))
    return y


def _attend(layer: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    plain = causal and layer.scale is None and not layer.cap
    if plain and not (layer.training and layer.dropout) and takes(q, k, v):
        return causal_attention(q, k, v)
    return MultiHeadAttention.attend(layer, q, k, v, mask, causal)


# Type → the method that is replaced, and by what.
_FASTER: dict[type, tuple[str, Callable[..., Tensor]]] = {
    nn.Linear: ("forward", _linear),
    QuantisedLinear: ("forward", rebuilt),
    SwiGLU: ("forward", _gate),
    MultiHeadAttention: ("attend", _attend),
}


@contextlib.contextmanager
def fast_layers(model: nn.Module) -> Iterator[None]:
    """Inside, the layers of `model` that are known here compute faster where something trains: the same sums in
    another order. What is evaluated without gradients keeps its bits."""
    replaced = []
    for layer in model.modules():
        name, method = _FASTER.get(type(layer), ("", None))
        if method and name not in vars(layer):
            vars(layer)[name] = MethodType(method, layer)
            replaced.append((layer, name))
    try:
        yield
    finally:
        for layer, name in replaced:
            del vars(layer)[name]
