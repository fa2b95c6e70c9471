"""Reformer: a causal Transformer for long sequences. Each step attends to the earlier steps whose hash is like its own,
and the layers can be run backwards, so that training keeps the activations of one layer only.

Paper: Kitaev et al. 2020, arXiv:2001.04451.

    x₁ = x₂ = E[token] + P[position]
    x₁ ← x₁ + Attention(Norm(x₂));  x₂ ← x₂ + FFN(Norm(x₁))              (each layer; eq. 9)
    y = W_out Norm(x₁ ‖ x₂) + b_out
    Attention: by hashing (`nn.lsh`), or to the neighbouring chunk ("local")

Shapes: tokens (B, T) int64, or series (B, T, d_in), mask (B, T) → (B, T, d_out), or (B, d_out) from the last real step.
Any T ≤ max_len: what does not fill a chunk is padded inside.
Deviations from the paper: learned positions in the place of axial ones, and a feed-forward net that is not chunked (it
would save memory, and change no number). The hash is drawn once from `seed` and saved, not anew at each step:
the same bits every time. In the paper and in transformers the choice of what is attended to looks ahead: which earlier
steps stand in one chunk depends on the hashes of later ones, and a likelihood is none. `strict` (the default) takes
the chunk_len steps before in the own bucket, which nothing later can change.
Complexity: O(L·T·(n_hashes·(chunk_len·D + H·log T) + D² + D·d_ff)) time; memory O(T·D·n_hashes), flat in L.
Checked against: transformers ReformerModelWithLMHead (lsh, local, both in turn), outputs and gradients to 1e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.nn.attention import check_heads
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.lsh import LocalAttention, LSHAttention
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Learned
from oliveira.nn.reversible import ReversibleBlock, reversible
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class ReformerConfig(SequenceConfig):
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 512
    attention: Literal["lsh", "local", "local-lsh"] = "lsh"  # the last: in turn, local first
    chunk_len: int = 32
    n_hashes: int = 4
    n_buckets: int = 0  # even; 0 = 2 · max_len / chunk_len, rounded to a power of two
    strict: bool = True  # attend within one's own bucket: nothing depends on later steps; False: the paper's chunks
    across_rounds: bool = False  # transformers': the first chunk of a round looks at the last of the round before
    seed: int = 0  # of the hashes
    dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.d_model, self.n_heads)
        if self.n_buckets % 2 or self.n_buckets < 0:
            raise ValueError(
                f"n_buckets = {self.n_buckets} is not even. Use {abs(self.n_buckets) + 1}, or 0 to have it set."
            )
        for name in ("chunk_len", "n_hashes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is too small. Use 1 or more.")

    @property
    def buckets(self) -> int:
        """`n_buckets`, or what 0 stands for."""
        return self.n_buckets or 2 ** max(1, round(math.log2(2 * max(1, self.max_len / self.chunk_len))))


class Attention(nn.Module):
    """F of the reversible block: norm, attention of one kind, dropout."""

    def __init__(self, config: ReformerConfig, layer: int) -> None:
        super().__init__()
        self.norm, self.dropout = LayerNorm(config.d_model, config.norm_eps), nn.Dropout(config.dropout)
        local = config.attention == "local" or (config.attention == "local-lsh" and layer % 2 == 0)
        self.attention = (
            LocalAttention(config.d_model, config.n_heads, config.chunk_len)
            if local
            else LSHAttention(
                config.d_model, config.n_heads, config.chunk_len, config.n_hashes, config.buckets,
                seed=config.seed + layer, across_rounds=config.across_rounds, strict=config.strict,
            )
        )  # fmt: skip

    def forward(self, x_BTD: Tensor, mask: Tensor | None, plan: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y_BTD, plan = self.attention(self.norm(x_BTD), mask, plan)
        return self.dropout(y_BTD), plan


def _block(config: ReformerConfig, layer: int) -> ReversibleBlock:
    feed_forward = nn.Sequential(
        LayerNorm(config.d_model, config.norm_eps),
        FeedForward(config.d_model, config.d_ff, nn.ReLU()),
        nn.Dropout(config.dropout),
    )
    return ReversibleBlock(Attention(config, layer), feed_forward)


@register(
    "reformer",
    family="efficient attention",
    paper="arXiv:2001.04451",
    forms=CAUSAL_SEQUENCE,
    can=("features",),
    config=ReformerConfig,
    causal=True,
    reference="transformers ReformerModelWithLMHead",
    tiny=dict(d_model=16, n_layers=2, n_heads=2, d_ff=32, chunk_len=4, n_hashes=2),
    train=dict(lr=1e-3),
    xfail={
        "causal": "to rounding, not to the bit: later steps move the column of a product where an earlier one stands "
        "(equal in double precision, and to the bit where the sequence is one chunk: tests/unit/test_lsh.py)",
        "int8_agrees": "not on every form: a rounded state may fall into another bucket and attend to other steps",
    },
)
class Reformer(nn.Module):
    def __init__(self, config: ReformerConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.positions = Learned(config.max_len, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config, layer) for layer in range(config.n_layers))
        self.norm = LayerNorm(2 * config.d_model, config.norm_eps)
        self.output = Output(config, gives, 2 * config.d_model, pool="last")
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # a rare word is no loud noise

    def with_hashes(self, n_hashes: int) -> Reformer:
        """A copy that hashes `n_hashes` times: fewer are faster, more find more. The first ones are those it has."""
        model = type(self)(replace(self.config, n_hashes=n_hashes), self.gives)
        state = model.state_dict()
        for name, tensor in self.state_dict().items():
            state[name] = torch.cat([tensor, state[name][len(tensor) :]])[:n_hashes] if "rotations" in name else tensor
        model.load_state_dict(state)
        return model.train(self.training)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, d_out), or (B, d_out)."""
        return self.output(self.dropout(self.features(x, mask)), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The normalised states of both streams: (B, T, 2·d_model)."""
        h_BTD = self.dropout(self.input(x)) + self.dropout(self.positions(torch.arange(x.shape[1], device=x.device)))
        x1, x2 = reversible(self.blocks, h_BTD, h_BTD, mask)  # type: ignore[arg-type]
        return self.norm(torch.cat([x1, x2], dim=-1))
