"""Transformer: attention and feed-forward blocks read a sequence, and a second stack writes another one from it.
With one sequence only, the first stack alone labels, forecasts or classifies it.

Paper: Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.

    x₀ = √D E[token] + PE                                        (§3.4, §3.5; numbers: W_in x + PE)
    encoder, each layer:  x ← Norm(x + Attention(x, x));  x ← Norm(x + FFN(x))
    decoder, each layer:  y ← Norm(y + Attention(y, y, causal));  y ← Norm(y + Attention(y, x));  y ← Norm(y + FFN(y))
    logits = y E_targetᵀ + b

Shapes:
    pairs:  source (B, S), target (B, T) int64, mask (B, S) → logits (B, T, target_vocab_size) of the token after each
    tokens: (B, T) int64, or series: (B, T, d_in), mask (B, T) → (B, T, d_out), or (B, d_out) from `pool`
    B batch, S source steps, T steps, D d_model. Mask: True = a real step.
Deviations from the paper: a bias b per target word (0 at first; Marian has it). `tied` shares one matrix between target
embedding, output and, where both vocabularies have one size, source, as in §3.4; untied they are three. Asked for the
next token, the single stack attends causally: a decoder without a source. No label smoothing: that is training.
Complexity: O(L·(S²·D + T²·D + S·T·D + (S + T)·D·d_ff)) time.
Checked against: torch.nn.Transformer (post- and pre-norm), transformers MarianMTModel, outputs and gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oliveira.kinds import SEQUENCE
from oliveira.nn.attention import MultiHeadAttention, causal_mask, check_heads
from oliveira.nn.encoder import EncoderBlock, residual
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.masking import causal_keys, keys
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Sinusoidal
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(SequenceConfig):
    d_out: int = 0  # one sequence: numbers or classes out …
    target_vocab_size: int = 0  # … or two: tokens out
    d_model: int = 128
    n_layers: int = 2
    n_decoder_layers: int = 2
    n_heads: int = 4
    d_ff: int = 512
    dropout: float = 0.1
    pre_norm: bool = False
    final_norm: bool = (
        False  # one more norm after each stack: always with pre_norm; torch.nn.Transformer has it in both
    )
    activation: Literal["relu", "gelu"] = "relu"
    tied: bool = True
    pool: Literal["mean", "last"] = "mean"  # of one answer: last, where the end of a sequence says most (a forecast)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.d_model, self.n_heads)
        if not (self.target_vocab_size or self.d_out):
            raise ValueError(
                "target_vocab_size = 0 and d_out = 0. Give target_vocab_size to write a second sequence, "
                "or d_out to answer about the first."
            )
        if self.target_vocab_size and not self.vocab_size:
            raise ValueError(
                f"d_in = {self.d_in} with a target_vocab_size: a pair needs vocab_size, tokens on both sides."
            )


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def _attention(config: TransformerConfig) -> MultiHeadAttention:
    return MultiHeadAttention(config.d_model, config.n_heads, bias=True, dropout=config.dropout)


def _feed_forward(config: TransformerConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, ACTIVATIONS[config.activation]())


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the source, feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention, self.attention_norm = _attention(config), LayerNorm(config.d_model)
        self.cross_attention, self.cross_attention_norm = _attention(config), LayerNorm(config.d_model)
        self.feed_forward, self.feed_forward_norm = _feed_forward(config), LayerNorm(config.d_model)
        self.pre_norm, self.dropout = config.pre_norm, nn.Dropout(config.dropout)

    def forward(self, y_BTD: Tensor, memory_BSD: Tensor, mask: Tensor | None) -> Tensor:
        def attend(y: Tensor) -> Tensor:
            return self.attention(y, causal=True)

        def look(y: Tensor) -> Tensor:
            return self.cross_attention(y, context=memory_BSD, mask=mask)

        for layer, norm in (
            (attend, self.attention_norm),
            (look, self.cross_attention_norm),
            (self.feed_forward, self.feed_forward_norm),
        ):
            y_BTD = residual(y_BTD, layer, norm, self.dropout, pre_norm=self.pre_norm)
        return y_BTD


@register(
    "transformer",
    family="transformer",
    paper="arXiv:1706.03762",
    forms=(("pairs", "next"), ("tokens", "next"), *SEQUENCE),
    can=("features",),
    head=("output", "head"),
    config=TransformerConfig,
    reference="torch.nn.Transformer, transformers MarianMTModel",
    tiny=dict(d_model=16, n_layers=2, n_decoder_layers=2, n_heads=2, d_ff=32, dropout=0.0, pre_norm=True),
    train=dict(lr=1e-3),
)
class Transformer(nn.Module):
    """What both forms share: the encoder. `Transformer(config)` is a `TwoTowers` where the config has a
    target vocabulary, a `OneTower` else.
    """

    def __new__(cls, config: TransformerConfig | None = None, gives: str = "steps") -> Transformer:
        if cls is Transformer and config is not None:  # a copy is made without a config, of its own class
            return super().__new__(TwoTowers if config.target_vocab_size else OneTower)
        return super().__new__(cls)

    def __init__(self, config: TransformerConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.source = Input(config, config.d_model)
        self.scale = config.d_model**0.5 if config.vocab_size else 1.0
        self.positions = Sinusoidal(config.max_len, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            EncoderBlock(
                _attention(config),
                _feed_forward(config),
                (LayerNorm(config.d_model), LayerNorm(config.d_model)),
                pre_norm=config.pre_norm,
                dropout=config.dropout,
            )
            for _ in range(config.n_layers)
        )
        self.encoder_norm = self._final_norm()

    def _final_norm(self) -> nn.Module:
        return LayerNorm(self.config.d_model) if self.config.pre_norm or self.config.final_norm else nn.Identity()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():  # after the linear layers: a tied output matrix is an embedding
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.d_model**-0.5)  # 1 after the scale √D

    def embed(self, x: Tensor) -> Tensor:
        """Tokens (B, S) or numbers (B, S, d_in) with their positions: (B, S, D)."""
        return self._place(self.source(x))

    def _place(self, x_BTD: Tensor) -> Tensor:
        steps = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        return self.dropout(x_BTD * self.scale + self.positions(steps))

    def encode(self, x_BSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder on embedded steps: (B, S, D). `mask` broadcasts to (B, H, S, S)."""
        for block in self.encoder:
            x_BSD = block(x_BSD, mask)
        return self.encoder_norm(x_BSD)


class OneTower(Transformer):
    """The encoder alone: labels each step, answers once, or (causally) predicts the next token."""

    def __init__(self, config: TransformerConfig, gives: str = "steps") -> None:
        super().__init__(config, gives)
        self.output = Output(config, gives, config.d_model, pool=config.pool)
        self._initialise()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, T) or numbers (B, T, d_in) → (B, T, d_out) or (B, d_out)."""
        return self.output(self.features(x, mask), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the last layer: (B, T, d_model)."""
        allowed: Tensor | None
        if self.gives == "next":
            allowed = causal_mask(x.shape[1], 0, x.device) if mask is None else causal_keys(mask)
        else:
            allowed = keys(mask)
        return self.encode(self.embed(x), allowed)


class TwoTowers(Transformer):
    """Encoder and decoder: a source sequence in, the target's next token at each of its steps out."""

    def __init__(self, config: TransformerConfig, gives: str = "next") -> None:
        super().__init__(config, "next")
        self.target = nn.Embedding(config.target_vocab_size, config.d_model)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder_layers))
        self.decoder_norm = self._final_norm()
        self.head = nn.Linear(config.d_model, config.target_vocab_size)
        if config.tied:
            self.head.weight = self.target.weight
            if config.vocab_size == config.target_vocab_size:
                self.source.embedding.weight = self.target.weight  # type: ignore[union-attr]
        self._initialise()

    def embed_target(self, target: Tensor) -> Tensor:
        """Target tokens (B, T) with their positions: (B, T, D)."""
        return self._place(self.target(target))

    def decode(self, y_BTD: Tensor, memory_BSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """The decoder on embedded steps: (B, T, D). `mask` of the memory broadcasts to (B, H, T, S)."""
        for block in self.decoder:
            y_BTD = block(y_BTD, memory_BSD, mask)
        return self.decoder_norm(y_BTD)

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Source (B, S), target (B, T), mask (B, S) → logits (B, T, target_vocab_size)."""
        return self.head(self.features(source, target, mask))

    def features(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the decoder's last layer: (B, T, d_model)."""
        allowed = keys(mask)
        memory = self.encode(self.embed(source), allowed)
        return self.decode(self.embed_target(target), memory, allowed)
