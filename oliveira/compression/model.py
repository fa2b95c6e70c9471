"""A whole model in 4 bits and back: which layers change, and how they are put in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.errors import UserError

FORMATS = ("fp32", *CODECS)
# The output matrix is often the embedding itself, and an error in it goes straight into the logits.
KEPT = "head"


def quantise_model(model: nn.Module, method: str) -> nn.Module:
    """Replaces, in place, every `nn.Linear` but the one called `head`. Returns the model.

    On a fresh model it prepares the buffers that `load_state_dict` then fills.
    """
    if method not in CODECS:
        raise UserError(f"compress.methods: {method!r} is not a 4-bit format. Use one of {', '.join(CODECS)}.")
    if not _replace(model, nn.Linear, lambda linear: QuantisedLinear(linear, method), keep=KEPT):
        raise UserError(f"{type(model).__name__} has no linear layer left to quantise. Start from its fp32 weights.")
    return model


def dequantise_model(model: nn.Module) -> nn.Module:
    """Replaces, in place, every `QuantisedLinear` by a float32 `nn.Linear` of equal output. Returns it.

    What 4 bits have lost stays lost; the model can be trained again.
    """

    def restored(layer: QuantisedLinear) -> nn.Linear:
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(layer.dequantised())
            if layer.bias is not None:
                linear.bias.copy_(layer.bias)
        return linear

    _replace(model, QuantisedLinear, restored)
    return model


def _replace(model: nn.Module, kind: type, make: Callable[[Any], nn.Module], *, keep: str = "") -> int:
    chosen = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is kind and name != keep
    ]
    for parent, name, child in chosen:
        setattr(parent, name, make(child).train(child.training))
    return len(chosen)
