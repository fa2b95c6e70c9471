"""Deep equilibrium model: one layer applied to its own output until nothing changes, like a network of endless depth.
The state it settles in is what it knows; training needs that state only, not the steps that led to it.

Papers: Bai et al. 2019, arXiv:1909.01377; a layer that always settles: El Ghaoui et al. 2021, arXiv:1908.06315.

    z* = relu(W z* + U x + b)                          solved by Anderson acceleration (nn/fixed_point.py)
    y = V z* + c
    W scaled so that ‖W‖₂ ≤ factor < 1: one fixed point, from any start, before and after training

Shapes: image (B, channels, height, width) or series (B, T, d_in), T ≤ max_len → (B, d_out). z (B, d_model).
Deviations from the paper: the layer is a bounded linear map and a ReLU on the flattened input, not a transformer block
or a multiscale convolution; an exported graph takes `max_iter` plain steps, off by at most factor^max_iter.
Complexity: O(n·D²) time, n evaluations (about 10), O(D²) for the bound; training memory that of one evaluation.
Checked against: torchdeq.get_deq with Anderson, fixed point and gradients to 1e-5, and 200 unrolled steps in float64.
No library has this model as a class, so that there is no `from_reference`: the parts are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.nn.fixed_point import Solution, contraction, fixed_point
from oliveira.nn.flat import FlatConfig, flatten
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class DEQConfig(FlatConfig):
    d_model: int = 128
    factor: float = 0.8  # the layer brings any two states this much nearer to each other
    tol: float = 1e-6  # relative residual at which a row is done
    max_iter: int = 50  # most evaluations of the layer, forwards and backwards
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1:
            raise ValueError(f"factor = {self.factor} does not let the layer settle. Use a number between 0 and 1.")
        if self.max_iter < 1:
            raise ValueError(f"max_iter = {self.max_iter} solves nothing. Use 30 or more.")


@register(
    "deq",
    family="implicit",
    paper="arXiv:1909.01377",
    forms=(("image", "one"), ("series", "one")),
    can=("features",),
    config=DEQConfig,
    reference="torchdeq.get_deq (Anderson)",
    tiny=dict(d_model=12),
)
class DEQ(nn.Module):
    def __init__(self, config: DEQConfig) -> None:
        super().__init__()
        self.config = config
        self.inject = nn.Linear(config.n_flat, config.d_model)  # U, b
        self.weight = nn.Parameter(torch.empty(config.d_model, config.d_model))  # W before it is bounded
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.d_model, config.d_out)
        nn.init.normal_(self.weight, std=0.4 / config.d_model**0.5)  # ‖W‖₂ ≈ 0.8
        nn.init.kaiming_normal_(self.inject.weight, nonlinearity="relu")
        nn.init.zeros_(self.inject.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.dropout(self.features(x, mask)))

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state that the layer settles in: (B, d_model)."""
        return self.solve(x, mask).z

    def solve(self, x: Tensor, mask: Tensor | None = None) -> Solution:
        """The state that the layer settles in, with each row's residual and the evaluations it took."""
        injected_BD = self.inject(flatten(x, self.config, mask))
        weight = contraction(self.weight, self.config.factor)

        def layer(z_BD: Tensor) -> Tensor:
            return F.relu(F.linear(z_BD, weight) + injected_BD)

        return fixed_point(layer, F.relu(injected_BD), tol=self.config.tol, max_iter=self.config.max_iter)
