"""Linformer: a Transformer encoder whose attention looks at a fixed number of mixtures of all steps.
Its cost grows with the length of the sequence, not with its square.

Paper: Wang et al. 2020, arXiv:2006.04768.

    x₀ = E[token] + P[position]
    x ← x + Attention(Norm(x));  x ← x + FFN(Norm(x))                    (each layer)
    Attention: softmax(q (E K)ᵀ / √d) (F V), E and F of shape (projected_len, max_len)          (eq. 7)

Shapes: tokens (B, T) int64, or series (B, T, d_in), mask (B, T) → (B, T, d_out), or (B, d_out) from the mean step.
T ≤ max_len: E and F have one column for each position.
Deviations from the paper: pre-norm and learned positions, as the reference package has them; the paper takes RoBERTa's
post-norm encoder. No final norm, as in the package. Not causal: every mixture holds every step.
Complexity: O(L·T·(k·D + D·d_ff)) time, O(T) memory.
Checked against: linformer.LinformerLM, outputs and gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oliveira.kinds import SEQUENCE
from oliveira.nn.attention import check_heads
from oliveira.nn.encoder import EncoderBlock
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.linformer import LinformerAttention, Sharing, length_projection
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Learned
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class LinformerConfig(SequenceConfig):
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 512
    projected_len: int = 64  # the paper's k: keys and values that are left of max_len
    sharing: Sharing = "headwise"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.d_model, self.n_heads)


@register(
    "linformer",
    family="efficient attention",
    paper="arXiv:2006.04768",
    forms=SEQUENCE,
    can=("features",),
    config=LinformerConfig,
    reference="linformer.LinformerLM",
    tiny=dict(d_model=16, n_layers=2, n_heads=2, d_ff=32, projected_len=4),
    train=dict(lr=1e-3),
)
class Linformer(nn.Module):
    def __init__(self, config: LinformerConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.positions = Learned(config.max_len, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        layerwise = config.sharing == "layerwise"
        self.mix = length_projection(config.max_len, config.projected_len) if layerwise else None
        self.blocks = nn.ModuleList(
            EncoderBlock(
                LinformerAttention(
                    config.d_model, config.n_heads, config.max_len, config.projected_len, config.sharing,
                    shared=self.mix, dropout=config.dropout,
                ),
                FeedForward(config.d_model, config.d_ff, nn.GELU()),
                (LayerNorm(config.d_model), LayerNorm(config.d_model)),
                pre_norm=True,
                dropout=config.dropout,
            )
            for _ in range(config.n_layers)
        )  # fmt: skip
        self.output = Output(config, gives, config.d_model, pool="mean")
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # a rare word is no loud noise

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, d_out), or (B, d_out). Raises ValueError when there are more steps than `max_len`."""
        return self.output(self.features(x, mask), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the last layer: (B, T, d_model)."""
        h_BTD = self.input(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        h_BTD = self.dropout(h_BTD)
        for block in self.blocks:
            h_BTD = block(h_BTD, mask)
        return h_BTD
