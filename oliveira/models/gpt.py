"""GPT: a stack of causal self-attention and feed-forward blocks that predicts the next token.

Papers: GPT-2, Radford et al. 2019; Llama, Touvron et al. 2023, arXiv:2302.13971 (RMSNorm, RoPE, SwiGLU).

    x₀ = E[token] (+ P[position])
    x ← x + Attention(Norm(x));  x ← x + FFN(Norm(x))                    (pre-norm, each layer)
    logits = Norm(x) Eᵀ                                                   (embedding tied)

Shapes: tokens (B, T) int64 → logits (B, T, V). B batch, T tokens, D d_model, V vocab_size.
Deviations from the papers: none in the two forms. GPT-2 is norm=layernorm, feed_forward=gelu, positions=learned,
bias=True; Llama is norm=rmsnorm, feed_forward=swiglu, positions=rope, bias=False. Any other mix is the reader's own.
Complexity: O(L·(T²·D + T·D²)) time.
Checked against: transformers GPT2LMHeadModel and LlamaForCausalLM, logits and gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oliveira.nn.attention import KeyValueCache, MultiHeadAttention, causal_mask, check_heads
from oliveira.nn.feedforward import FeedForward, SwiGLU
from oliveira.nn.norm import LayerNorm, RMSNorm
from oliveira.nn.positional import Learned, Rotary, Sinusoidal
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    vocab_size: int
    d_model: int = 192
    n_layers: int = 6
    n_heads: int = 6
    n_kv_heads: int = 6  # fewer than n_heads: grouped queries
    d_ff: int = 512
    max_len: int = 256
    dropout: float = 0.0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    feed_forward: Literal["swiglu", "gelu", "relu"] = "swiglu"
    positions: Literal["rope", "learned", "sinusoidal"] = "rope"
    bias: bool = False
    tied: bool = True  # the output matrix is the embedding
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        check_heads(self.d_model, self.n_heads, self.n_kv_heads, rotated=self.positions == "rope")


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
POSITIONS = {"learned": Learned, "sinusoidal": Sinusoidal}


def _feed_forward(config: GPTConfig) -> nn.Module:
    match config.feed_forward:
        case "swiglu":
            return SwiGLU(config.d_model, config.d_ff)
        case "gelu":
            return FeedForward(config.d_model, config.d_ff, nn.GELU(approximate="tanh"), bias=config.bias)
        case "relu":
            return FeedForward(config.d_model, config.d_ff, nn.ReLU(), bias=config.bias)


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        norm = NORMS[config.norm]
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = MultiHeadAttention(
            config.d_model, config.n_heads, config.n_kv_heads, bias=config.bias, dropout=config.dropout
        )
        self.feed_forward_norm = norm(config.d_model, config.norm_eps)
        self.feed_forward = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        attended = self.attention(
            self.attention_norm(x), mask=mask, causal=True, rotation=rotation, cache=cache, layer=layer
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


@register(
    "gpt",
    family="transformer",
    paper="arXiv:2302.13971",
    forms=(("tokens", "next"),),
    can=("decodes", "features", "matrix_head"),
    head=("head",),
    config=GPTConfig,
    causal=True,
    reference="transformers GPT2LMHeadModel, LlamaForCausalLM",
    tiny=dict(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32),
)
class GPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        rope = config.positions == "rope"
        self.rotary = Rotary(config.max_len, config.d_model // config.n_heads, config.rope_base) if rope else None
        self.positions = None if rope else POSITIONS[config.positions](config.max_len, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = NORMS[config.norm](config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(self._initialise)
        # The residual stream keeps its scale: 1/√(2L), GPT-2 §2.3.
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * config.n_layers) ** 0.5)
        if config.tied:
            self.head.weight = self.embedding.weight

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def features(
        self,
        tokens_BT: Tensor,
        *,
        cache: KeyValueCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The last layer's normalised states (B, T, D). `forward` documents the arguments."""
        n_new, n_past = tokens_BT.shape[1], 0 if cache is None else cache.length()
        if positions is None:
            positions = torch.arange(n_past, n_past + n_new, device=tokens_BT.device)
        if mask is None and cache is not None:
            mask = causal_mask(n_new, n_past, tokens_BT.device)
        x = self.embedding(tokens_BT)
        if self.positions is not None:
            x = x + self.positions(positions)
        x = self.dropout(x)
        rotation = None if self.rotary is None else self.rotary(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, rotation, cache, layer)
        return self.norm(x)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        cache: KeyValueCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each position.

        Without a cache: causal attention over `tokens_BT`. With one: the tokens follow those the cache holds.
        `positions` (T,) or (B, T) and `mask` (T, S), (B, 1, T, S), True = may attend, override the default of both: an
        engine that decodes several streams of different length in one batch passes them.
        """
        return self.head(self.features(tokens_BT, cache=cache, positions=positions, mask=mask))
