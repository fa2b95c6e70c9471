"""Residual convolutional network: small filters slide over the image, coarser in place and richer in kind each stage.

Each block adds what its two convolutions found to what came in, so that a deep stack still trains.

Papers: LeCun et al. 1998, "Gradient-based learning applied to document recognition"; He et al. 2015, arXiv:1512.03385.

    F(x) = N₂(W₂ * max(0, N₁(W₁ * x)))         N_i batch normalisation, * a 3 × 3 convolution
    y = max(0, F(x) + x)                        (eq. 1); where the shape changes, x ← N₀(W₀ * x), 1 × 1      (eq. 2)
    logits = W mean_places(h) + b

The first block of each stage but the first halves the sides and doubles the channels.

Shapes: x (B, channels, height, width) → (B, d_out); stage s holds (B, d_model · 2^s, ⌈height / 2^s⌉, ⌈width / 2^s⌉).
Deviations from the paper: `stem="large"` is its §3.3 form (7 × 7, stride 2, then a 3 × 3 max pool of stride 2),
`stem="small"` its §4.2 form for small images (one 3 × 3), both with 1 × 1 shortcuts where the shape changes.
Dropout before the last layer is ours.
Complexity: O(n_layers · n_stages · height · width · d_model²) time: each stage costs the same.
Checked against: transformers ResNetForImageClassification (basic blocks), outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    channels: int
    height: int
    width: int
    d_out: int
    d_model: int = 16  # channels of the first stage; each later stage doubles them
    n_stages: int = 3
    n_layers: int = 1  # residual blocks a stage, two convolutions each
    stem: Literal["small", "large"] = "small"  # for sides below about 64, and above
    dropout: float = 0.0


class ConvNorm(nn.Module):
    """A convolution without bias, then batch normalisation."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(n_out)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization(self.convolution(x))


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(n_in, n_out, 3, stride)
        self.second = ConvNorm(n_out, n_out, 3)
        self.shortcut = ConvNorm(n_in, n_out, 1, stride) if n_in != n_out or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


@register(
    "cnn",
    family="convolutional",
    paper="arXiv:1512.03385",
    forms=(("image", "one"),),
    can=("features",),
    config=CNNConfig,
    reference="transformers ResNetForImageClassification",
    tiny=dict(d_model=4, n_stages=2, n_layers=1),
)
class CNN(nn.Module):
    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.config = config
        large = config.stem == "large"
        self.stem = ConvNorm(config.channels, config.d_model, 7 if large else 3, 2 if large else 1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        blocks, n_in = [], config.d_model
        for stage in range(config.n_stages):
            for layer in range(config.n_layers):
                n_out = config.d_model * 2**stage
                blocks.append(Block(n_in, n_out, stride=2 if stage and not layer else 1))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(n_in, config.d_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, d_out)."""
        return self.output(self.dropout(self.features(x_BCHW)))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The mean over all places of the last stage: (B, d_model · 2^(n_stages − 1))."""
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)  # convolutions of the CPU run up to 2 × faster so
        h_BCHW = self.blocks(self.pool(F.relu(self.stem(x_BCHW))))
        return h_BCHW.mean(dim=(2, 3))
