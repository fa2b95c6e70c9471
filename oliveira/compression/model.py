"""A whole model in 4 or 8 bits and back: which layers change, and how they are put in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from oliveira.compression.int8 import Int8Linear
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.errors import UserError

METHODS = (*CODECS, "int8")
FORMATS = ("fp32", *METHODS)
QUANTISED = (QuantisedLinear, Int8Linear)
# The output matrix is often the embedding itself, and an error in it goes straight into the logits.
KEPT = "head"


def quantise_model(model: nn.Module, method: str) -> nn.Module:
    """Replaces, in place, every `nn.Linear` whose weights belong to it alone, but the one called `head`. Returns the
    model. Recurrent kernels, convolutions and embeddings stay as they are.
    """
    return _in_format(model, method, blank=False)


def prepare_model(model: nn.Module, method: str) -> nn.Module:
    """The buffers of `method`, in place, for `load_state_dict` to fill. Returns the model."""
    return _in_format(model, method, blank=True)


def _in_format(model: nn.Module, method: str, *, blank: bool) -> nn.Module:
    if method not in METHODS:
        raise UserError(f"compress.methods: {method!r} is not a format. Use one of {', '.join(METHODS)}.")
    make = Int8Linear if method == "int8" else partial(QuantisedLinear, method=method, blank=blank)
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))

    def alone(name: str, layer: nn.Linear) -> bool:
        return name != KEPT and owners[id(layer.weight)] == 1

    if not _replace(model, nn.Linear, make, alone):
        raise UserError(f"{type(model).__name__} has no linear layer left to quantise. Start from its fp32 weights.")
    return model


def dequantise_model(model: nn.Module) -> nn.Module:
    """Replaces, in place, every layer of 4 or 8 bits by a float32 `nn.Linear` of equal output. Returns the model.

    What those bits have lost stays lost; the model can be trained again.
    """

    def restored(layer: QuantisedLinear | Int8Linear) -> nn.Linear:
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(layer.dequantised())
            if layer.bias is not None:
                linear.bias.copy_(layer.bias)
        return linear

    for kind in QUANTISED:
        _replace(model, kind, restored)
    return model


def _replace(
    model: nn.Module,
    kind: type,
    make: Callable[[Any], nn.Module],
    takes: Callable[[str, Any], bool] = lambda name, layer: True,
) -> int:
    chosen = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is kind and takes(name, child)
    ]
    for parent, name, child in chosen:
        setattr(parent, name, make(child).train(child.training))
    return len(chosen)
