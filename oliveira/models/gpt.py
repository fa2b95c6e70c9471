"""GPT: a stack of causal self-attention and feed-forward blocks that predicts the next token.

Papers: GPT-2, Radford et al. 2019; Llama, Touvron et al. 2023, arXiv:2302.13971 (RMSNorm, RoPE, SwiGLU); GPT-NeoX,
Black et al. 2022, arXiv:2204.06745; Mistral, arXiv:2310.06825; Gemma 2 and 3, arXiv:2408.00118, arXiv:2503.19786.

    x₀ = s E[token] (+ P[position])
    x ← x + Attention(Norm(x));  x ← x + FFN(Norm(x))                    (pre-norm, each layer)
    x ← x + Norm(Attention(Norm(x))), FFN alike                           (post_norms)
    x ← x + Attention(Norm₁(x)) + FFN(Norm₂(x))                           (parallel)
    logits = Norm(x) Eᵀ                                                   (embedding tied)

Shapes: tokens (B, T) int64 → logits (B, T, V). B batch, T tokens, D d_model, V vocab_size.
Deviations from the papers: none. GPT-2 is norm=layernorm, feed_forward=gelu, positions=learned, bias=True; Llama is the
default; Mistral adds window; Qwen 2 qkv_bias; Qwen 3 qk_norm; SmolLM 3 no_rope_every; Phi-3 and GPT-NeoX rotary_share,
the latter parallel too; Gemma 2 and 3 window with full_every, post_norms, feed_forward=geglu, scales and soft caps or
rope_base_local (`oliveira.convert` has each in full). Any other mix is the reader's own.
Complexity: O(L·(T²·D + T·D²)) time.
Checked against: transformers' model of each of these forms, logits and greedy text (tests/parity/test_forms.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oliveira.nn.attention import KeyValueCache, MultiHeadAttention, causal_mask, check_heads, windowed
from oliveira.nn.feedforward import FeedForward, GeGLU, SwiGLU
from oliveira.nn.norm import LayerNorm, RMSNorm
from oliveira.nn.positional import Learned, Rotary, Sinusoidal, check_scaling
from oliveira.registry import added, register


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
    feed_forward: Literal["swiglu", "gelu", "relu", "geglu", "gelu_exact"] = "swiglu"
    positions: Literal["rope", "learned", "sinusoidal"] = "rope"
    bias: bool = False
    tied: bool = True  # the output matrix is the embedding
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    d_head: int = added(0)  # width of a head; 0 = d_model / n_heads
    qkv_bias: bool = added(False)  # biases of queries, keys and values; `bias` is everywhere
    qk_norm: bool = added(False)  # RMSNorm of each head's queries and keys, before they turn
    window: int = added(0)  # a position attends to so many, itself the last; 0 = to all before it
    full_every: int = added(0)  # with a window: every n-th layer attends to all; 0 = none
    rope_base_local: float = added(0.0)  # of layers with a window, which then scale nothing; 0 = as the others
    rope_scaling: dict[str, Any] | None = added(None)  # type = linear, llama3 or yarn, and its numbers
    rotary_share: float = added(1.0)  # of a head's width, the first part of it
    no_rope_every: int = added(0)  # every n-th layer turns nothing; 0 = all do
    parallel: bool = added(False)  # attention and feed-forward net read the same x
    post_norms: bool = added(False)  # norms behind both as well
    embedding_scale: float = added(1.0)
    attention_scale: float = added(0.0)  # of q·k; 0 = 1 / √d_head
    attention_cap: float = added(0.0)  # soft cap of the scores; 0 = none
    logit_cap: float = added(0.0)  # of the logits

    def __post_init__(self) -> None:
        for name in ("d_head", "window", "full_every", "no_rope_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}. Give 0 or more.")
        for name in ("rope_base_local", "attention_scale", "attention_cap", "logit_cap"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}. Give 0 or more.")
        rope = self.positions == "rope"
        whole = self.rotary_share == 1 and not self.d_head
        check_heads(self.n_heads * self.d_head or self.d_model, self.n_heads, self.n_kv_heads, rotated=rope and whole)
        if rope and (not 0 < self.rotary_share <= 1 or self.rotary_width < 2 or self.rotary_width % 2):
            raise ValueError(
                f"rotary_share = {self.rotary_share:g} of heads that are {self.head_width} wide turns "
                f"{self.rotary_width} numbers. Use a share that makes an even number of them."
            )
        for name in ("full_every", "rope_base_local"):
            if getattr(self, name) and not self.window:
                raise ValueError(f"{name} = {getattr(self, name):g} is of layers with a window. Give window too.")
        turning = ("rope_base_local", "rope_scaling", "no_rope_every")
        if not rope and (given := [name for name in turning if getattr(self, name)]):
            raise ValueError(f"{given[0]} is of rotary positions, not of {self.positions} ones. Use positions = rope.")
        if self.rope_scaling is not None:
            check_scaling(self.rope_scaling)
        if self.parallel and self.post_norms:
            raise ValueError("parallel and post_norms are no form of one block. Use one of them.")

    @property
    def head_width(self) -> int:
        return self.d_head or self.d_model // self.n_heads

    @property
    def rotary_width(self) -> int:
        """How much of a head RoPE turns."""
        return int(self.head_width * self.rotary_share)

    def window_of(self, layer: int) -> int:
        """How many positions a layer attends to; 0 = all."""
        return 0 if self.full_every and (layer + 1) % self.full_every == 0 else self.window

    def turns(self, layer: int) -> bool:
        """Whether RoPE turns the queries and keys of a layer."""
        return self.positions == "rope" and not (self.no_rope_every and (layer + 1) % self.no_rope_every == 0)


NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
POSITIONS = {"learned": Learned, "sinusoidal": Sinusoidal}


def rotations(config: GPTConfig, length: int) -> tuple[Rotary | None, Rotary | None]:
    """RoPE of layers that attend to all, and of those with a window, for `length` positions; None: there is none."""
    if config.positions != "rope":
        return None, None
    full = Rotary(length, config.rotary_width, config.rope_base, config.rope_scaling)
    local = Rotary(length, config.rotary_width, config.rope_base_local) if config.rope_base_local else None
    return full, local


def _feed_forward(config: GPTConfig) -> nn.Module:
    match config.feed_forward:
        case "swiglu":
            return SwiGLU(config.d_model, config.d_ff)
        case "geglu":
            return GeGLU(config.d_model, config.d_ff)
        case "gelu":
            activation: nn.Module = nn.GELU(approximate="tanh")
        case "gelu_exact":
            activation = nn.GELU()
        case "relu":
            activation = nn.ReLU()
    return FeedForward(config.d_model, config.d_ff, activation, bias=config.bias)


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        norm = NORMS[config.norm]
        self.parallel = config.parallel
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = MultiHeadAttention(
            config.d_model,
            config.n_heads,
            config.n_kv_heads,
            d_head=config.head_width,
            bias=config.bias,
            qkv_bias=config.qkv_bias,
            norm_eps=config.norm_eps if config.qk_norm else None,
            scale=config.attention_scale or None,
            cap=config.attention_cap,
            dropout=config.dropout,
        )
        self.feed_forward_norm = norm(config.d_model, config.norm_eps)
        self.feed_forward = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        if config.post_norms:
            self.attention_post_norm = norm(config.d_model, config.norm_eps)
            self.feed_forward_post_norm = norm(config.d_model, config.norm_eps)
        else:
            self.attention_post_norm = self.feed_forward_post_norm = nn.Identity()

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
        after = x + self.dropout(self.attention_post_norm(attended))
        fed = self.feed_forward(self.feed_forward_norm(x if self.parallel else after))
        return after + self.dropout(self.feed_forward_post_norm(fed))


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
        self.rotary, self.rotary_local = rotations(config, config.max_len)
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
        config = self.config
        if mask is None and (cache is not None or config.window):
            mask = causal_mask(n_new, n_past, tokens_BT.device)
        near = windowed(mask, config.window) if mask is not None and config.window else None
        x = self.embedding(tokens_BT)
        if config.embedding_scale != 1:
            x = x * config.embedding_scale
        if self.positions is not None:
            x = x + self.positions(positions)
        x = self.dropout(x)
        rotation = None if self.rotary is None else self.rotary(positions)
        local = rotation if self.rotary_local is None else self.rotary_local(positions)
        for layer, block in enumerate(self.blocks):
            seen, turned = (near, local) if config.window_of(layer) else (mask, rotation)
            x = block(x, seen, turned if config.turns(layer) else None, cache, layer)
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """(…, V) of normalised states (…, D)."""
        logits, cap = self.head(states), self.config.logit_cap
        return cap * torch.tanh(logits / cap) if cap else logits

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
        engine that decodes several streams of different length in one batch passes them. A layer with a window takes
        the last of what that mask lets it see.
        """
        return self.logits(self.features(tokens_BT, cache=cache, positions=positions, mask=mask))
