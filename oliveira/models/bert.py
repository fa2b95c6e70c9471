"""BERT: a stack of encoder blocks in which every token sees every other, pre-trained to fill in hidden words and to say
whether one sentence follows another, then tuned to label tokens or whole texts.

Paper: Devlin et al. 2019, arXiv:1810.04805.

    x₀ = Norm(E[token] + P[position] + S[segment])                        (figure 2)
    x ← Norm(x + Attention(x));  x ← Norm(x + FFN(x))                     (each layer; GELU, post-norm)
    mlm = Norm(GELU(x W + b)) Eᵀ + c;    pooled = tanh(x_[CLS] W_p + b_p);    nsp = pooled W_n + b_n

Shapes: tokens, segments (B, T) int64, mask (B, T) → mlm (B, T, vocab_size) and nsp (B, 2), or (B, T, d_out) a token,
or (B, d_out) from the first token, which is [CLS] in the tasks of this house. B batch, T tokens, D d_model.
Mask: True = a real token. nsp: 0 = the second sentence follows the first, 1 = it is a random one, as in transformers.
Deviations from the paper: each form has only the parts that it needs: `steps` no pooler, only mlm+nsp an MLM head.
Complexity: O(L·(T²·D + T·D·d_ff)) time, and T·D·vocab_size for mlm.
Checked against: transformers BertForPreTraining, BertModel, BertForSequenceClassification and
BertForTokenClassification, outputs and gradients to 1e-5; the weights of all-MiniLM-L6-v2, embeddings to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.nn.attention import MultiHeadAttention, check_heads
from oliveira.nn.encoder import EncoderBlock
from oliveira.nn.ends import mean_step
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.masking import keys
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Learned
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    vocab_size: int
    d_out: int = 0  # of steps and one; the words and two labels need none
    max_len: int = 256
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 512
    dropout: float = 0.1
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_heads(self.d_model, self.n_heads)


class Pretraining(NamedTuple):
    mlm: Tensor  # (B, T, vocab_size)
    nsp: Tensor  # (B, 2)


class MLMHead(nn.Module):
    """The hidden state turned once more, then compared with every word."""

    def __init__(self, config: BERTConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.words = nn.Linear(config.d_model, config.vocab_size)
        self.words.weight = embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.words(self.norm(F.gelu(self.dense(x))))


@register(
    "bert",
    family="transformer",
    paper="arXiv:1810.04805",
    forms=(("tokens", "steps"), ("tokens", "one"), ("tokens", "mlm+nsp")),
    can=("features",),
    head=("pooler", "mlm", "head"),
    config=BERTConfig,
    reference="transformers BertForPreTraining, BertModel, BertForSequenceClassification, BertForTokenClassification",
    tiny=dict(d_model=16, n_layers=2, n_heads=2, d_ff=32, dropout=0.0),
    train=dict(lr=1e-3),
)
class BERT(nn.Module):
    def __init__(self, config: BERTConfig, gives: str = "mlm+nsp") -> None:
        """`UserError` where `gives` needs a `d_out` and there is none."""
        super().__init__()
        pretraining = gives == "mlm+nsp"
        if not (pretraining or config.d_out):
            raise UserError(
                f"bert: d_out = 0 with gives = {gives!r}. Give the number of classes, for example d_out = 2."
            )
        self.config, self.gives = config, gives
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = Learned(config.max_len, config.d_model)
        self.segments = nn.Embedding(2, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                MultiHeadAttention(config.d_model, config.n_heads, bias=True, dropout=config.dropout),
                FeedForward(config.d_model, config.d_ff, nn.GELU()),
                (LayerNorm(config.d_model, config.norm_eps), LayerNorm(config.d_model, config.norm_eps)),
                pre_norm=False,
                dropout=config.dropout,
            )
            for _ in range(config.n_layers)
        )
        self.pooler = None if gives == "steps" else nn.Linear(config.d_model, config.d_model)
        self.mlm = MLMHead(config, self.embedding) if pretraining else None
        self.head = nn.Linear(config.d_model, 2 if pretraining else config.d_out)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def features(self, tokens: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The last layer's states (B, T, D). Without `segments` all is the first sentence."""
        if segments is None:
            segments = torch.zeros_like(tokens)
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.norm(self.embedding(tokens) + self.positions(steps) + self.segments(segments)))
        allowed = keys(mask)
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def embed(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D) of length 1: the mean state of the real tokens, as sentence-transformers take it."""
        return F.normalize(mean_step(self.features(tokens, mask), mask), dim=-1)

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor | Pretraining:
        """Tokens, mask, segments (B, T) → what `gives` says."""
        x = self.features(tokens, mask, segments)
        if self.pooler is None:
            return self.head(self.dropout(x))
        pooled = torch.tanh(self.pooler(x[:, 0]))
        if self.mlm is not None:
            return Pretraining(self.mlm(x), self.head(pooled))
        return self.head(self.dropout(pooled))
