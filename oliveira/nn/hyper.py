"""Networks that make the weights of another network.

Papers: Ha et al. 2016, arXiv:1609.09106 (static §3.1; dynamic, HyperLSTM, appendix A.2.2); weights made in pieces of
equal size: von Oswald et al. 2020, arXiv:1906.00695; a task's embedding as the condition: the same.

    static     W = h(e)                            e an embedding, h a small MLP with one output a weight
    chunked    W = h(c₁, e) ‖ h(c₂, e) ‖ …         one h for all pieces, c_i the learned embedding of piece i
    dynamic    see `HyperLSTMLayer`: a small LSTM scales the rows of a large one's weights anew at each step

Shapes: condition (…, d_condition) → one tensor (…, *shape) a shape. HyperLSTM: x (B, T, d_in) → (B, T, D).
Complexity: P weights in pieces of C: O(P·d_hyper) time, O(P·d_chunk/C + C·d_hyper) parameters in place of P.
Checked against: hypnettorch HMLP and ChunkedHMLP, 1e-5; HyperLSTM: a loop written from the paper, 1e-5 in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
Step = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], Tensor]]


class HyperMLP(nn.Module):
    """From a condition to the tensors of a main network: an MLP with ReLU whose last layer has an output a weight."""

    def __init__(self, shapes: Sequence[Shape], d_condition: int, d_hyper: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        widths = [d_condition, *d_hyper, sum(math.prod(shape) for shape in self.shapes)]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        _initialise(self.layers)

    def forward(self, condition: Tensor) -> list[Tensor]:
        return split(_mlp(condition, self.layers), self.shapes)


class ChunkedHyperMLP(nn.Module):
    """`HyperMLP` in pieces of `chunk_size` weights; what the last piece has too much is dropped.

    `d_condition` = 0: no condition, the pieces' embeddings are all that h sees.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        d_condition: int = 0,
        d_hyper: Sequence[int] = (64,),
        *,
        chunk_size: int = 128,
        d_chunk: int = 8,
    ) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        self.n_weights = sum(math.prod(shape) for shape in self.shapes)
        self.chunks = nn.Parameter(torch.randn(-(-self.n_weights // chunk_size), d_chunk))
        widths = [d_chunk + d_condition, *d_hyper, chunk_size]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        _initialise(self.layers)

    def forward(self, condition: Tensor | None = None) -> list[Tensor]:
        h: Tensor = self.chunks
        if condition is not None:
            batch, (n_chunks, _) = condition.shape[:-1], h.shape
            repeated = condition[..., None, :].expand(*batch, n_chunks, -1)
            h = torch.cat([h.expand(*batch, -1, -1), repeated], dim=-1)
        return split(_mlp(h, self.layers).flatten(-2)[..., : self.n_weights], self.shapes)


def split(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """(…, all the weights) → one tensor (…, *shape) each."""
    parts = flat.split([math.prod(shape) for shape in shapes], dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def mlp_shapes(widths: Sequence[int]) -> list[Shape]:
    """Shapes of the weights and biases of an MLP: (out, in), (out,), … of each layer in turn."""
    pairs = pairwise(widths)
    return [shape for n_in, n_out in pairs for shape in ((n_out, n_in), (n_out,))]


def main_mlp(x: Tensor, weights: Sequence[Tensor], dropout: float = 0.0) -> Tensor:
    """An MLP with ReLU, x (…, N, d_in) → (…, N, d_out), on weights in the order of `mlp_shapes`, batched or not.

    `dropout` of the hidden units: pass it while training only.
    """
    for i in range(0, len(weights), 2):
        if i:
            x = F.dropout(F.relu(x), dropout)
        x = x @ weights[i].mT + weights[i + 1][..., None, :]
    return x


def _mlp(h: Tensor, layers: nn.ModuleList) -> Tensor:
    for layer in layers[:-1]:
        h = F.relu(layer(h))
    return layers[-1](h)


def _initialise(layers: nn.ModuleList) -> None:
    """Outputs of variance 1 for inputs of variance 1; the main network's own scale is its user's to set."""
    for i, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight, std=((2 if i else 1) / layer.in_features) ** 0.5)
        nn.init.zeros_(layer.bias)


class HyperLSTMLayer(nn.Module):
    """An LSTM whose weights a smaller LSTM rescales row by row at each step (appendix A.2.2).

    The small one reads what the large one reads and what it last said; ⊙ scales rows, LN is layer normalisation.

        ĥ_t = LSTM_small([h_{t−1} ; x_t], ĥ_{t−1})                           with LN on its gates and its cell
        a_t = LN(d_h ⊙ W_h h_{t−1} + d_x ⊙ W_x x_t + d_b)                    for each gate i, f, o, g
        d_h = D_h (Z_h ĥ_t + b_h),  d_x = D_x (Z_x ĥ_t + b_x),  d_b = D_b Z_b ĥ_t + b     d_embedding numbers between
        c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g),   h_t = σ(o) ⊙ tanh(LN(c_t))

    D and Z are multiplied once a call, not once a step. Of a step remain two matrix products and the gates.
    """

    def __init__(self, d_in: int, d_model: int, d_hyper: int, d_embedding: int) -> None:
        super().__init__()
        self.d_model, self.d_hyper = d_model, d_hyper
        self.input = nn.Linear(d_in, 4 * d_model, bias=False)  # W_x, rows in the order i, f, o, g
        self.hidden = nn.Parameter(torch.empty(4 * d_model, d_model))  # W_h
        self.hyper_input = nn.Linear(d_in, 4 * d_hyper)
        self.hyper_above = nn.Parameter(torch.empty(4 * d_hyper, d_model))  # of the small one, on h
        self.hyper_hidden = nn.Parameter(torch.empty(4 * d_hyper, d_hyper))
        # First axis: what is scaled (W_h, W_x) or shifted (b). Second: the gate.
        self.squeeze = nn.Parameter(torch.empty(3, 4, d_embedding, d_hyper))  # Z
        self.squeeze_bias = nn.Parameter(torch.ones(2, 4, d_embedding))  # b_h, b_x
        self.expand = nn.Parameter(torch.empty(3, 4, d_model, d_embedding))  # D
        self.bias = nn.Parameter(torch.zeros(4, d_model))  # b
        self.gate_norm, self.cell_norm = GateNorm(4, d_model), GateNorm(1, d_model)
        self.hyper_gate_norm, self.hyper_cell_norm = GateNorm(4, d_hyper), GateNorm(1, d_hyper)
        for weight in (self.hidden, self.hyper_above, self.hyper_hidden):
            for gate in weight.data.chunk(4):
                nn.init.orthogonal_(gate)
        nn.init.normal_(self.squeeze, std=0.01)
        # Rows start at about a tenth of their scale, as in the paper; the normalisation that follows undoes it.
        nn.init.normal_(self.expand, mean=0.1 / d_embedding, std=0.01 / d_embedding)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """The state after each step. A step of padding leaves it as it was."""
        batch = x_BTD.shape[0]
        below = torch.cat([self.hidden, self.hyper_above]).mT
        across, constant = self._composed()

        def step(past: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            h, c, c_hat, from_hyper = past
            from_main, hyper_gates = (h @ below).split([4 * self.d_model, 4 * self.d_hyper], dim=1)
            hyper_gates = (hyper_gates + now[1] + from_hyper).unflatten(1, (4, self.d_hyper))
            h_hat, c_hat = _cell(hyper_gates, c_hat, self.hyper_gate_norm, self.hyper_cell_norm)
            made = torch.addmm(constant, h_hat, across)
            scales, from_hyper = made.split([12 * self.d_model, 4 * self.d_hyper], dim=1)
            d_h, d_x, d_b = scales.unflatten(1, (3, 4, self.d_model)).unbind(1)
            gates = torch.addcmul(torch.addcmul(d_b, d_x, now[0]), d_h, from_main.unflatten(1, (4, self.d_model)))
            h, c = _cell(gates, c, self.gate_norm, self.cell_norm)
            state = [h, c, c_hat, from_hyper]
            if mask is not None:  # a step of padding leaves all as it was
                state = [
                    torch.where(now[2], new.flatten(1), old.flatten(1)).view_as(old)
                    for new, old in zip(state, past, strict=True)
                ]
            return state, state[0]

        start = [
            x_BTD.new_zeros(batch, self.d_model),
            x_BTD.new_zeros(batch, 1, self.d_model),
            x_BTD.new_zeros(batch, 1, self.d_hyper),
            x_BTD.new_zeros(batch, 4 * self.d_hyper),
        ]
        x_main, x_hyper = self.input(x_BTD).unflatten(-1, (4, self.d_model)), self.hyper_input(x_BTD)
        inputs = [x_main, x_hyper] if mask is None else [x_main, x_hyper, mask[:, :, None]]
        return _run(step, start, [each.transpose(0, 1) for each in inputs]).transpose(0, 1)

    def _composed(self) -> tuple[Tensor, Tensor]:
        """All that is linear in ĥ, as one map: the twelve rows of scales and shifts, and the small LSTM's own past."""
        scales = self.expand @ self.squeeze  # (3, 4, d_model, d_hyper)
        shift = (self.expand[:2] @ self.squeeze_bias[..., None])[..., 0]  # (2, 4, d_model)
        constant = torch.cat([shift.flatten(), self.bias.flatten(), self.bias.new_zeros(4 * self.d_hyper)])
        return torch.cat([scales.flatten(0, 2), self.hyper_hidden]).mT, constant


class GateNorm(nn.Module):
    """Layer normalisation of each of `n_gates` rows with its own scale and shift: (B, n_gates, D) → same."""

    def __init__(self, n_gates: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_gates, d_model))
        self.bias = nn.Parameter(torch.zeros(n_gates, d_model))

    def forward(self, x_BGD: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x_BGD, x_BGD.shape[-1:]), self.weight)


def _cell(gates_B4D: Tensor, c_B1D: Tensor, gate_norm: GateNorm, cell_norm: GateNorm) -> tuple[Tensor, Tensor]:
    """h (B, D) and c (B, 1, D) of an LSTM with normalised gates i, f, o, g."""
    gates_B4D = gate_norm(gates_B4D)
    i, f, o = torch.sigmoid(gates_B4D[:, :3]).split(1, dim=1)
    c_B1D = torch.addcmul(f * c_B1D, i, torch.tanh(gates_B4D[:, 3:]))
    return (o * torch.tanh(cell_norm(c_B1D)))[:, 0], c_B1D


def _run(step: Step, state: list[Tensor], inputs: list[Tensor]) -> Tensor:
    """(T, B, D): what `step` gives at each of the first axis of `inputs`. Exported, one operator for any T."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan

        def own(past: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            new, output = step(past, now)
            return [each.clone() for each in new], output.clone()  # the operator allows no aliases

        return scan(own, state, inputs)[1]
    outputs = []
    for now in zip(*(each.unbind(0) for each in inputs), strict=True):
        state, output = step(state, list(now))
        outputs.append(output)
    return torch.stack(outputs)
