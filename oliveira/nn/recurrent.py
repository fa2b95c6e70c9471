"""Recurrent layers: tanh RNN, LSTM and GRU, one way or both ways along the steps, and the model that stands on them.

Papers: Elman 1990, Cognitive Science 14(2); LSTM: Hochreiter & Schmidhuber 1997, Neural Computation 9(8), with the
forget gate of Gers et al. 2000; GRU: Cho et al. 2014, arXiv:1406.1078; both ways: Schuster & Paliwal 1997.

    RNN    h' = tanh(W x + b + U h + c)
    LSTM   i, f, o = σ(W x + b + U h + c),  g = tanh(W x + b + U h + c);  s' = f ⊙ s + i ⊙ g;  h' = o ⊙ tanh(s')
    GRU    r, z = σ(W x + b + U h + c);  n = tanh(W x + b + r ⊙ (U h + c));  h' = (1 − z) ⊙ n + z ⊙ h
    both   y_t = [→h_t ; ←h_t], ←h read from the last real step to the first

Shapes: x (B, T, d_in) → (B, T, d_model), or (B, T, 2·d_model) both ways. B batch, T steps.
Mask: (B, T) boolean, True = a real step; padding stands on the right. One way it needs no care, since padded steps come
after the real ones; the way back reverses the real steps of each row alone.
Complexity: O(T·d_model·(d_in + d_model)) a layer and way, T steps in sequence.
Checked against: torch.nn.RNN, LSTM, GRU, several layers, both ways, packed sequences, 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.nn.ends import Input, Output, SequenceConfig

Kind = Literal["rnn", "lstm", "gru"]
KERNELS: dict[Kind, type] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
GATES: dict[Kind, int] = {"rnn": 1, "lstm": 4, "gru": 3}
# The operator, our gates in its order, its attributes. linear_before_reset: r multiplies U h + c, as above.
ONNX: dict[Kind, tuple[str, list[int], dict[str, int]]] = {
    "rnn": ("RNN", [0], {}),
    "lstm": ("LSTM", [0, 3, 1, 2], {}),
    "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
}


def rnn_cell(x_ih: Tensor, h_hh: Tensor) -> Tensor:
    """One step: h' from W x + b and U h + c, both (B, D)."""
    return torch.tanh(x_ih + h_hh)


def lstm_cell(x_ih: Tensor, h_hh: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """One step: (h', s') from W x + b and U h + c, both (B, 4·D) in the order i, f, g, o, and the cell s (B, D)."""
    i, f, g, o = (x_ih + h_hh).chunk(4, dim=-1)
    s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(s), s


def gru_cell(x_ih: Tensor, h_hh: Tensor, h: Tensor) -> Tensor:
    """One step: h' from W x + b and U h + c, both (B, 3·D) in the order r, z, n, and the state h (B, D)."""
    d_model = h.shape[-1]
    r, z = torch.sigmoid(x_ih[..., : 2 * d_model] + h_hh[..., : 2 * d_model]).chunk(2, dim=-1)
    n = torch.tanh(torch.addcmul(x_ih[..., 2 * d_model :], r, h_hh[..., 2 * d_model :]))
    return torch.lerp(n, h, z)


class Layer(nn.Module):
    """One recurrent layer, one way, on torch's fused kernel. Two bias vectors, as torch keeps them."""

    def __init__(self, kind: Kind, d_in: int, d_model: int) -> None:
        super().__init__()
        self.kind, self.d_model = kind, d_model
        rows = GATES[kind] * d_model
        self.weight_ih = nn.Parameter(torch.empty(rows, d_in))
        self.weight_hh = nn.Parameter(torch.empty(rows, d_model))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_model**-0.5), d_model**-0.5)
        if kind == "lstm":  # an open forget gate at first: Jozefowicz et al. 2015
            nn.init.ones_(self.bias_ih.data[d_model : 2 * d_model])

    def forward(self, x_BTD: Tensor, h_BD: Tensor | None = None) -> Tensor:
        """The state after each step, (B, T, d_model); `h_BD` is the one before the first, zeros by default."""
        h = (x_BTD.new_zeros(x_BTD.shape[0], self.d_model) if h_BD is None else h_BD)[None]
        if torch.onnx.is_in_onnx_export():
            return self._onnx(x_BTD, h)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        options = (True, 1, 0.0, self.training, False, True)  # bias, layers, dropout, training, both ways, batch first
        match self.kind:
            case "rnn":
                return torch.rnn_tanh(x_BTD, h, weights, *options)[0]
            case "lstm":
                return torch.lstm(x_BTD, [h, torch.zeros_like(h)], weights, *options)[0]
            case "gru":
                return torch.gru(x_BTD, h, weights, *options)[0]

    def unrolled(self, x_BTD: Tensor, h_BD: Tensor | None = None) -> Tensor:
        """`forward` step after step, as the equations say: the oracle of the kernels."""
        h = s = x_BTD.new_zeros(x_BTD.shape[0], self.d_model)
        h = h if h_BD is None else h_BD
        states = []
        for x in x_BTD.unbind(1):
            x_ih = F.linear(x, self.weight_ih, self.bias_ih)
            h_hh = F.linear(h, self.weight_hh, self.bias_hh)
            match self.kind:
                case "rnn":
                    h = rnn_cell(x_ih, h_hh)
                case "lstm":
                    h, s = lstm_cell(x_ih, h_hh, s)
                case "gru":
                    h = gru_cell(x_ih, h_hh, h)
            states.append(h)
        return torch.stack(states, dim=1)

    def _onnx(self, x_BTD: Tensor, h_1BD: Tensor) -> Tensor:
        """`forward` as the operator that ONNX has for it: any number of steps, and a fused kernel at the other end."""
        name, gates, attributes = ONNX[self.kind]

        def ordered(parameter: Tensor) -> Tensor:
            return parameter.unflatten(0, (-1, self.d_model))[gates].flatten(0, 1)[None]

        weights = [ordered(self.weight_ih), ordered(self.weight_hh)]
        bias = torch.cat([ordered(self.bias_ih), ordered(self.bias_hh)], dim=1)
        y_T1BD = torch.onnx.ops.symbolic(
            name,
            [x_BTD.transpose(0, 1), *weights, bias, None, h_1BD],
            {"hidden_size": self.d_model, **attributes},
            dtype=x_BTD.dtype,
            shape=[x_BTD.shape[1], 1, x_BTD.shape[0], self.d_model],
        )
        return y_T1BD[:, 0].transpose(0, 1)


def reverse(x_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """Each row's real steps in reverse order, its padding where it was. Twice is the input again."""
    if mask is None:
        return x_BTD.flip(1)
    steps, length = torch.arange(mask.shape[1], device=mask.device), mask.sum(dim=1, keepdim=True)
    places = torch.where(steps < length, length - 1 - steps, steps)  # (B, T)
    return x_BTD.gather(1, places[:, :, None].expand_as(x_BTD))


class Recurrent(nn.Module):
    """`n_layers` recurrent layers; dropout stands between them."""

    def __init__(
        self,
        kind: Kind,
        d_in: int,
        d_model: int,
        n_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.d_out = kind, d_model * (2 if bidirectional else 1)
        widths = [d_in] + [self.d_out] * (n_layers - 1)
        self.ahead = nn.ModuleList(Layer(kind, width, d_model) for width in widths)
        self.back = nn.ModuleList(Layer(kind, width, d_model) for width in widths if bidirectional)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer, ahead in enumerate(self.ahead):
            if layer:
                x_BTD = self.dropout(x_BTD)
            y_BTD = ahead(x_BTD)
            if self.back:
                back_BTD = reverse(self.back[layer](reverse(x_BTD, mask)), mask)
                y_BTD = torch.cat([y_BTD, back_BTD], dim=-1)
            x_BTD = y_BTD
        return x_BTD


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(SequenceConfig):
    d_model: int = 64  # width of the state, of each way
    n_layers: int = 1
    dropout: float = 0.0


class RecurrentModel(nn.Module):
    """Input → recurrent layers → output. A subclass names its kind and whether it reads both ways.

    Where one answer is asked for it comes from the last real step, or from the mean of the steps if it reads both ways.
    """

    kind: ClassVar[Kind]
    bidirectional: ClassVar[bool] = False

    def __init__(self, config: RecurrentConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.layers = Recurrent(
            self.kind,
            config.d_model,
            config.d_model,
            config.n_layers,
            bidirectional=self.bidirectional,
            dropout=config.dropout,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = Output(config, gives, self.layers.d_out, pool="mean" if self.bidirectional else "last")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T) int64 or (B, T, d_in), mask (B, T) → (B, T, d_out), or (B, d_out)."""
        return self.output(self.dropout(self.features(x, mask)), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states of the last layer: (B, T, d_model), or (B, T, 2·d_model) both ways."""
        return self.layers(self.dropout(self.input(x)), mask)
