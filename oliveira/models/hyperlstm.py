"""HyperLSTM: an LSTM whose weights change at every step, because a smaller LSTM beside it rescales their rows.
The weights can suit what is being read just now, which a fixed set cannot.

Paper: Ha et al. 2016, arXiv:1609.09106, appendix A.2.2; layer normalisation: Ba et al. 2016, arXiv:1607.06450.

    ĥ_t = LSTM_small([h_{t−1} ; x_t], ĥ_{t−1})
    i, f, o, g = LN(d_h(ĥ_t) ⊙ W_h h_{t−1} + d_x(ĥ_t) ⊙ W_x x_t + d_b(ĥ_t))          d of low rank (nn/hyper.py)
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g),  h_t = σ(o) ⊙ tanh(LN(c_t))

Shapes: tokens (B, T) int64 or series (B, T, d_in) → (B, T, d_out), or (B, d_out) with gives = "one".
Deviations from the paper: d is made from ĥ_t; the paper prints ĥ_{t−1} there, its authors' code and labml take ĥ_t.
No recurrent dropout; `dropout` stands between layers.
Complexity: O(T·D·(D + d_hyper)) time, in T steps one after another.
Checked against: a loop written from the paper's equations, outputs and gradients to 1e-5 (tests/parity/test_hyper.py);
recorded answers of labml_nn.hypernetworks.HyperLSTM 0.5.1 (two layers), outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.hyper import HyperLSTMLayer
from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class HyperLSTMConfig(SequenceConfig):
    d_model: int = 64
    n_layers: int = 1
    d_hyper: int = 32  # width of the small LSTM
    d_embedding: int = 8  # numbers through which it speaks to each gate
    dropout: float = 0.0


@register(
    "hyperlstm",
    family="hypernetwork",
    paper="arXiv:1609.09106",
    eats=("tokens", "series"),
    gives=("steps", "one"),
    config=HyperLSTMConfig,
    causal=True,
    reference="labml_nn HyperLSTM; a loop written from the paper",
    tiny=dict(d_model=8, n_layers=2, d_hyper=6, d_embedding=3),
)
class HyperLSTM(nn.Module):
    def __init__(self, config: HyperLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.input = Input(config, config.d_model)
        self.layers = nn.ModuleList(
            HyperLSTMLayer(config.d_model, config.d_model, config.d_hyper, config.d_embedding)
            for _ in range(config.n_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = Output(config, config.d_model, pool="last")

    @classmethod
    def from_reference(
        cls,
        module: nn.Module,
        *,
        input: nn.Embedding | nn.Linear,
        output: nn.Linear,
        gives: Literal["steps", "one"] = "steps",
    ) -> HyperLSTM:
        """A copy, in `eval` mode, of a labml `HyperLSTM`, of what feeds it and of what reads it.

        Raises `UserError` for another kind, and when its input is not as wide as its state.
        """
        if type(module).__name__ != "HyperLSTM":
            raise UserError(f"a {type(module).__name__} cannot become a HyperLSTM. Give a HyperLSTM of labml_nn.")
        cells = list(cast(Any, module).cells)
        d_model, d_in = cells[0].w_x[0].shape
        if d_in != d_model:
            raise UserError(
                f"input_size = {d_in} differs from hidden_size = {d_model}. A whole model has one d_model: use "
                "layer_from_reference, which covers it."
            )
        embedding, tokens = "project", 0
        if isinstance(input, nn.Embedding):
            embedding, tokens = "embedding", input.num_embeddings
        model = cls(
            HyperLSTMConfig(
                vocab_size=tokens,
                d_in=0 if isinstance(input, nn.Embedding) else input.in_features,
                d_out=output.out_features,
                gives=gives,
                d_model=d_model,
                n_layers=len(cells),
                d_hyper=cells[0].z_h.in_features,
                d_embedding=cells[0].d_h[0].in_features,
            )
        )
        model.layers = nn.ModuleList(layer_from_reference(cell) for cell in cells)
        model.input.get_submodule(embedding).load_state_dict(input.state_dict())
        model.output.project.load_state_dict(output.state_dict())
        return model.eval()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h_BTD = self.input(x)
        for layer in self.layers:
            h_BTD = layer(self.dropout(h_BTD), mask)
        return self.output(self.dropout(h_BTD), mask)


def layer_from_reference(cell: nn.Module) -> HyperLSTMLayer:
    """A copy of one labml `HyperLSTMCell`: theirs keeps a gate's parts apart, and its gates in the order i, f, g, o."""
    theirs = cast(Any, cell)
    d_model, d_in = theirs.w_x[0].shape
    d_hyper, d_embedding = theirs.z_h.in_features, theirs.d_h[0].in_features
    layer = HyperLSTMLayer(d_in, d_model, d_hyper, d_embedding)

    def rows(gates: Any) -> Tensor:
        i, f, g, o = gates
        return torch.stack([i, f, o, g]).detach()

    def norms(name: str, of: Any) -> dict[str, Tensor]:
        gate, cell = rows([n.weight for n in of.layer_norm]), rows([n.bias for n in of.layer_norm])
        return {
            f"{name}gate_norm.weight": gate,
            f"{name}gate_norm.bias": cell,
            f"{name}cell_norm.weight": of.layer_norm_c.weight[None],
            f"{name}cell_norm.bias": of.layer_norm_c.bias[None],
        }

    small = theirs.hyper
    above, below = small.input_lin.weight.split([d_model, d_in], dim=1)
    squeezes = (theirs.z_h, theirs.z_x, theirs.z_b)
    expands = (theirs.d_h, theirs.d_x, theirs.d_b)
    layer.load_state_dict(
        {
            "input.weight": rows(theirs.w_x).flatten(0, 1),
            "hidden": rows(theirs.w_h).flatten(0, 1),
            "hyper_input.weight": rows(below.chunk(4)).flatten(0, 1),
            "hyper_input.bias": rows(small.hidden_lin.bias.chunk(4)).flatten(0, 1),
            "hyper_above": rows(above.chunk(4)).flatten(0, 1),
            "hyper_hidden": rows(small.hidden_lin.weight.chunk(4)).flatten(0, 1),
            "squeeze": torch.stack([rows(z.weight.chunk(4)) for z in squeezes]),
            "squeeze_bias": torch.stack([rows(z.bias.chunk(4)) for z in squeezes[:2]]),
            "expand": torch.stack([rows([gate.weight for gate in d]) for d in expands]),
            "bias": rows([gate.bias for gate in theirs.d_b]),
            **norms("", theirs),
            **norms("hyper_", small),
        }
    )
    return layer
