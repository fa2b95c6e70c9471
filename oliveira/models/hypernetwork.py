"""Hypernetwork: a small network makes every weight of a large one, piece by piece from a learned vector for each piece.
The large network (an MLP here) has no weights of its own, so that it can be stored in far fewer numbers.

Papers: Ha et al. 2016, arXiv:1609.09106 (static hypernetwork); in pieces: von Oswald et al. 2020, arXiv:1906.00695.

    θ = h(c₁) ‖ h(c₂) ‖ …                        h a two-layer MLP, c_i learned
    W_l, b_l = γ_l ⊙ the l-th part of θ          γ a learned number for each tensor
    h₀ = flatten(x),  h_l = relu(W_l h_{l−1} + b_l),  y = W h_L + b

Shapes: image (B, channels, height, width) or series (B, T, d_in), T ≤ max_len → (B, d_out).
Deviations from the paper: pieces of equal size instead of convolution kernels; a ReLU between the two layers of h; γ,
which starts at √(2/n_in), because one h serves layers of different width.
Complexity: O(P·d_hyper) to make the P weights, once a call whatever the batch, then that of an MLP.
Checked against: hypnettorch ChunkedHMLP with its MLP main network, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oliveira.nn.flat import FlatConfig, flatten
from oliveira.nn.hyper import ChunkedHyperMLP, main_mlp, mlp_shapes
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class HypernetworkConfig(FlatConfig):
    d_model: int = 128  # width of the main network's hidden layers
    n_layers: int = 2  # hidden layers of the main network
    d_hyper: int = 32  # hidden width of h
    d_embedding: int = 8  # of a piece
    chunk_size: int = 128  # weights in a piece
    dropout: float = 0.0  # of the main network's hidden units

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_layers < 1:
            raise ValueError(f"n_layers = {self.n_layers} leaves no hidden layer. Use 1 or more.")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size = {self.chunk_size} makes no weights. Use 64 or more.")


@register(
    "hypernetwork",
    family="hypernetwork",
    paper="arXiv:1609.09106",
    forms=(("image", "one"), ("series", "one")),
    config=HypernetworkConfig,
    reference="hypnettorch ChunkedHMLP",
    tiny=dict(d_model=8, n_layers=1, d_hyper=12, d_embedding=4, chunk_size=32),
)
class Hypernetwork(nn.Module):
    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        self.config = config
        shapes = mlp_shapes([config.n_flat, *[config.d_model] * config.n_layers, config.d_out])
        self.hyper = ChunkedHyperMLP(
            shapes, d_hyper=(config.d_hyper,), chunk_size=config.chunk_size, d_chunk=config.d_embedding
        )
        fan_in = [shape[1] for shape in shapes[::2]]
        self.scale = nn.Parameter(torch.tensor([s for n in fan_in for s in ((2 / n) ** 0.5, 0.1 * n**-0.5)]))

    def weights(self) -> list[Tensor]:
        """What the main network computes with: W and b of each layer in turn."""
        made = self.hyper()
        return [scale * weight for scale, weight in zip(self.scale.unbind(), made, strict=True)]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.config.dropout if self.training else 0.0
        return main_mlp(flatten(x, self.config, mask), self.weights(), dropout)
