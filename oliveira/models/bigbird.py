"""BigBird: a Transformer encoder in which each block of tokens sees its neighbours, a few random blocks and the global
ones. Two layers join any two places by way of a global block, at a cost that grows with the length only.

Paper: Zaheer et al. 2020, arXiv:2007.14062 (the ITC form: global tokens are tokens of the text).

    x₀ = Norm(E[token] + P[position])
    x ← Norm(x + Attention(x));  x ← Norm(x + FFN(x))                    (each layer)
    Attention: block i attends to {i−1, i, i+1} ∪ first ∪ last ∪ random_i; first and last attend to everything
    y = W_out Norm(GELU(W x + b)) + b_out                                (the head of masked language models)

Shapes: tokens (B, T) int64, or series (B, T, d_in), mask (B, T) → (B, T, d_out), or (B, d_out): first real step.
Any T ≤ max_len: what does not fill a block is padded inside.
Deviations from the paper: none in the pattern. transformers' version goes over to full attention up to 5 + 2 n_random
blocks, takes the last block of the padded batch for the global one, and at evaluation replaces every random block by
the first one once more. Here the pattern is one at all lengths (up to four blocks it is full attention by itself), the
global block is the last one with a real step, and random blocks are drawn once and kept; a random block beyond the end
of a shorter sequence drops out. So padding is invisible. `from_reference` copies the weights, that list of first blocks
and, as `full_up_to`, where full attention ends: each row computes what the reference computes in `eval` mode for that
row alone. Token types are folded into the positions.
Complexity: O(L·T·D·(block_size·(5 + n_random) + D + d_ff)) time, O(T·(5 + n_random)·D) memory.
Checked against: transformers BigBirdForMaskedLM, block_sparse (in training and evaluation) and original_full, outputs
and gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oliveira.kinds import SEQUENCE
from oliveira.nn.attention import MultiHeadAttention, check_heads
from oliveira.nn.block_sparse import BlockSparseAttention
from oliveira.nn.encoder import EncoderBlock
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.masking import keys
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Learned
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class BigBirdConfig(SequenceConfig):
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 512
    attention: Literal["sparse", "full"] = "sparse"
    block_size: int = 16
    n_random: int = 3  # random blocks of each block and head
    n_global: Literal[0, 1, 2] = 2  # 1 = the first block, 2 = the last one too
    full_up_to: int = 0  # transformers': attention is full in texts of up to so many steps, (5 + 2 n_random) blocks
    seed: int = 0  # of the random blocks
    dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.d_model, self.n_heads)
        if self.block_size < 1:
            raise ValueError(f"block_size = {self.block_size} holds no step. Use 1 or more, for example 16.")


def _attention(config: BigBirdConfig, layer: int) -> nn.Module:
    if config.attention == "full":
        return MultiHeadAttention(config.d_model, config.n_heads, bias=True)
    return BlockSparseAttention(
        config.d_model, config.n_heads, config.max_len, config.block_size, config.n_random, config.n_global,
        seed=config.seed + layer, full_up_to=config.full_up_to,
    )  # fmt: skip


@register(
    "bigbird",
    family="efficient attention",
    paper="arXiv:2007.14062",
    forms=SEQUENCE,
    can=("features",),
    head=("head", "output"),
    config=BigBirdConfig,
    reference="transformers BigBirdForMaskedLM",
    tiny=dict(d_model=16, n_layers=2, n_heads=2, d_ff=32, block_size=2, n_random=1),
    train=dict(lr=1e-3),
)
class BigBird(nn.Module):
    def __init__(self, config: BigBirdConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        width, eps = config.d_model, config.norm_eps
        self.input = Input(config, width)
        self.positions = Learned(config.max_len, width)
        self.input_norm, self.dropout = LayerNorm(width, eps), nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                _attention(config, layer),
                FeedForward(width, config.d_ff, nn.GELU(approximate="tanh")),
                (LayerNorm(width, eps), LayerNorm(width, eps)),
                pre_norm=False,
                dropout=config.dropout,
            )
            for layer in range(config.n_layers)
        )
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(approximate="tanh"), LayerNorm(width, eps))
        self.output = Output(config, gives, width, pool="last")
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # a rare word is no loud noise

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, d_out), or (B, d_out)."""
        h_BTD = self.features(x, mask)
        if self.gives == "one":
            if mask is not None:
                h_BTD = h_BTD.gather(1, mask.int().argmax(dim=1)[:, None, None].expand(-1, 1, h_BTD.shape[2]))
            h_BTD, mask = h_BTD[:, :1], None  # the first real step: it lies in a global block
        return self.output(self.head(h_BTD), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the last layer: (B, T, d_model)."""
        h_BTD = self.input(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        h_BTD = self.input_norm(self.dropout(h_BTD))
        attended = keys(mask) if self.config.attention == "full" else mask
        for block in self.blocks:
            h_BTD = block(h_BTD, attended)
        return h_BTD
