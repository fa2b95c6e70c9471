"""Seq2seq with additive attention: one recurrent net reads a sentence, another writes its translation word by word.
Before each word the writer looks back at the whole source and weighs which parts matter now.

Paper: Bahdanau et al. 2015, arXiv:1409.0473.

    h_j  = [→h_j ; ←h_j], two GRUs over the source                                      (encoder, §3.2)
    s_0  = tanh(W_0 [→h_S ; ←h_1])
    α_i  = softmax_j(vᵀ tanh(W s_{i-1} + U h_j)),  c_i = Σ_j α_ij h_j                    (eq. 5, 6)
    s_i  = GRU([E y_{i-1} ; c_i], s_{i-1})                                               (decoder, eq. 4)
    logits = W_o t_i,  t_i = pairwise max of W_t [s_i ; E y_{i-1} ; c_i]                 (maxout, §A.2.2)

Shapes: source (B, S) int64, target (B, T) int64, mask (B, S) → logits (B, T, target_vocab_size). The target begins with
its start token; step t predicts the token after target[:, t] and sees no later one. B batch, S source, T target steps.
Deviations from the paper: the reset gate of torch's GRU; s_0 from the ends of both ways, not ←h_1 alone; the readout
sees s_i, as eq. 4 has it, not s_{i-1}; with n_layers > 1 the further decoder layers are plain GRUs above the first.
attention = "none" is the older encoder–decoder of Cho et al. 2014 and Sutskever et al. 2014: all that the decoder knows
of the source is s_0, and logits = W_o s_i. With bidirectional = False, s_0 is →h_S itself.
Complexity: O(T·S·d_model + (S + T)·d_model²) a layer, S + T steps in sequence.
Checked against: torch.nn.GRUCell composed by hand, 1e-5; the trained weights of g2p-en, phoneme for phoneme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oliveira.nn.bahdanau import AttentiveGRU
from oliveira.nn.ends import last_step
from oliveira.nn.recurrent import Layer, Recurrent
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    vocab_size: int  # of the source
    target_vocab_size: int
    d_model: int = 128  # width of the embeddings and of each GRU
    n_layers: int = 1  # of the encoder, and of the decoder
    dropout: float = 0.0
    max_len: int = 64
    attention: Literal["additive", "none"] = "additive"
    bidirectional: bool = True  # the encoder


class Maxout(nn.Module):
    """The larger of each pair of neighbours of W x + b."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.project = nn.Linear(d_in, 2 * d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).unflatten(-1, (-1, 2)).amax(dim=-1)


@register(
    "seq2seq",
    family="recurrent",
    paper="arXiv:1409.0473",
    forms=(("pairs", "next"),),
    can=(
        "features",
        "attention_map",
    ),
    config=Seq2SeqConfig,
    reference="torch.nn.GRUCell, keras AdditiveAttention, g2p-en",
    tiny=dict(d_model=8, n_layers=2),
    train=dict(lr=3e-3),
)
class Seq2Seq(nn.Module):
    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        d_model, n_layers = config.d_model, config.n_layers
        self.source = nn.Embedding(config.vocab_size, d_model)
        self.target = nn.Embedding(config.target_vocab_size, d_model)
        self.encoder = Recurrent(
            "gru", d_model, d_model, n_layers, bidirectional=config.bidirectional, dropout=config.dropout
        )
        d_memory = self.encoder.d_out
        self.bridge = nn.Linear(d_memory, n_layers * d_model) if config.bidirectional else None
        attentive = config.attention == "additive"
        self.first = AttentiveGRU(d_model, d_memory, d_model) if attentive else Layer("gru", d_model, d_model)
        self.above = nn.ModuleList(Layer("gru", d_model, d_model) for _ in range(n_layers - 1))
        self.readout = Maxout(2 * d_model + d_memory, d_model) if attentive else None
        self.output = nn.Linear(d_model, config.target_vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def _states(self, source: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the output reads at each target step (B, T, d_model), and α (B, T, S) where there is attention."""
        memory_BSM = self.encoder(self.dropout(self.source(source)), mask)
        d_model = self.config.d_model
        end = last_step(memory_BSM[..., :d_model], mask)
        if self.bridge is None:
            starts = [end] * self.config.n_layers
        else:
            both = torch.cat([end, memory_BSM[:, 0, d_model:]], dim=-1)
            starts = list(torch.tanh(self.bridge(both)).chunk(self.config.n_layers, dim=-1))
        x_BTD = embedded_BTD = self.dropout(self.target(target))
        if isinstance(self.first, AttentiveGRU):
            x_BTD, weights_BTS = self.first(x_BTD, memory_BSM, starts[0], mask)
        else:
            x_BTD, weights_BTS = self.first(x_BTD, starts[0]), None
        for layer, start in zip(self.above, starts[1:], strict=True):
            x_BTD = layer(self.dropout(x_BTD), start)
        if self.readout is not None:
            context_BTM = weights_BTS @ memory_BSM
            x_BTD = self.readout(torch.cat([x_BTD, embedded_BTD, context_BTM], dim=-1))
        return self.dropout(x_BTD), weights_BTS

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, target_vocab_size) of the token after each target step. `mask`: the source's real steps."""
        return self.output(self.features(source, target, mask))

    def features(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the output reads at each target step: (B, T, d_model)."""
        return self._states(source, target, mask)[0]

    def attention_map(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """α (B, T, S): what the decoder looks at, having read target[:, : t + 1], to write the token after it."""
        weights_BTS = self._states(source, target, mask)[1]
        if weights_BTS is None:
            raise ValueError('attention = "none" has no attention map. Use attention = "additive".')
        return weights_BTS
