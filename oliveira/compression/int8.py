"""Eight bits a weight: one scale for each output of a linear layer.

    q = round(W / s),  s = max|W row| / 127,  Ŵ = s q                   symmetric, per output channel

Shapes: W (d_out, d_in) float32 → q int8 of the same shape, s (d_out, 1) float32. A weight errs by s / 2 at most.
Biases, norms, embeddings and recurrent kernels stay in float32. The weights are rebuilt at every call: this saves
memory, not time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Int8Report(NamedTuple):
    layers: int  # linear layers replaced
    bytes: int  # of the whole model's state afterwards


class Int8Linear(nn.Module):
    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes * self.scale, self.bias)


def quantise_int8(model: nn.Module) -> Int8Report:
    """Replaces, in place, every plain `nn.Linear` whose weights belong to it alone."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    chosen = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and owners[id(child.weight)] == 1
    ]
    for parent, name, child in chosen:
        setattr(parent, name, Int8Linear(child).train(child.training))
    return Int8Report(len(chosen), sum(t.numel() * t.element_size() for t in model.state_dict().values()))
