"""Vision transformer: an image cut into square patches, read like a sentence of as many words.

A learned class token stands before the patches; after the last block its state alone is classified.

Paper: Dosovitskiy et al. 2021, arXiv:2010.11929.

    z₀ = [x_class; x_p¹ E; …; x_pᴺ E] + E_pos                              (eq. 1)
    z ← z + Attention(LN(z));  z ← z + FFN(LN(z)), with GELU               (eq. 2, 3: each layer)
    y = W LN(z⁰) + b                                                       (eq. 4)

Shapes: x (B, channels, height, width) → N = height · width / patch_size² patches, z (B, N + 1, D) → (B, d_out).
Deviations from the paper: positions start with a standard deviation of 0.3, about that of the patches, instead of 0.02:
few images then teach where a patch stands in fewer steps. The head is the one-layer form of the paper's fine-tuning.
Complexity: O(L·(N²·D + N·D²)) time.
Checked against: transformers ViTForImageClassification, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oliveira.nn.attention import MultiHeadAttention, check_heads
from oliveira.nn.encoder import EncoderBlock
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.norm import LayerNorm
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    channels: int
    height: int
    width: int
    d_out: int
    patch_size: int = 4  # side of a patch, pixels
    d_model: int = 64
    n_layers: int = 4
    n_heads: int = 4
    d_ff: int = 128
    dropout: float = 0.0
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.height % self.patch_size or self.width % self.patch_size:
            raise ValueError(
                f"patch_size = {self.patch_size} does not divide an image of {self.height} × {self.width}. "
                "Use a common divisor of both sides."
            )
        check_heads(self.d_model, self.n_heads)


@register(
    "vit",
    family="transformer",
    paper="arXiv:2010.11929",
    forms=(("image", "one"),),
    can=("features",),
    config=ViTConfig,
    reference="transformers ViTForImageClassification",
    tiny=dict(patch_size=4, d_model=8, n_layers=2, n_heads=2, d_ff=16),
)
class ViT(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.d_model, config.patch_size
        self.patches = nn.Conv2d(config.channels, width, side, stride=side)
        n_patches = (config.height // side) * (config.width // side)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, n_patches + 1, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                MultiHeadAttention(width, config.n_heads, bias=True),
                FeedForward(width, config.d_ff, nn.GELU()),
                (LayerNorm(width, config.norm_eps), LayerNorm(width, config.norm_eps)),
                pre_norm=True,
                dropout=config.dropout,
            )
            for _ in range(config.n_layers)
        )
        self.norm = LayerNorm(width, config.norm_eps)
        self.output = nn.Linear(width, config.d_out)
        nn.init.normal_(self.positions, std=0.3)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, d_out)."""
        return self.output(self.features(x_BCHW))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The class token's normalised state, (B, d_model).

        Raises ValueError for images of other sides, which might have as many patches.
        """
        sides = self.config.height, self.config.width
        if tuple(x_BCHW.shape[2:]) != sides:
            raise ValueError(f"images of {tuple(x_BCHW.shape[2:])} do not fit height, width = {sides}")
        patches_BND = self.patches(x_BCHW).flatten(2).transpose(1, 2)
        first_B1D = self.class_token.expand(len(patches_BND), -1, -1)
        z = self.dropout(torch.cat([first_B1D, patches_BND], dim=1) + self.positions)
        for block in self.blocks:
            z = block(z)
        return self.norm(z[:, 0])
