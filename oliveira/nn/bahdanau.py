"""Additive attention, and the GRU layer that looks at another sequence before each of its steps.

Paper: Bahdanau et al. 2015, arXiv:1409.0473.

    e_ij = vᵀ tanh(W s_{i-1} + U h_j),   α_i = softmax_j(e_ij),   c_i = Σ_j α_ij h_j            (eq. 5, 6; §A.1.2)
    s_i  = GRU([x_i ; c_i], s_{i-1})

Shapes: x (B, T, d_in), memory h (B, S, d_memory), first state s_0 (B, d_model) → states (B, T, d_model), α (B, T, S).
B batch, T steps, S remembered steps.
Mask: (B, S) boolean, True = may attend. A row that may attend to nothing attends to all alike.
Complexity: O(T·S·d_model) for the scores, T steps in sequence.
Checked against: keras AdditiveAttention (scores), torch.nn.GRUCell composed by hand (the layer), 1e-5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops import scan

from oliveira.nn.recurrent import gru_cell


def additive_scores_reference(s_BQ: Tensor, h_BSM: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """e (B, S) of equation 6 as it is written: the oracle of `AdditiveAttention`."""
    return torch.tanh((s_BQ @ w.T)[:, None] + h_BSM @ u.T) @ v


class AdditiveAttention(nn.Module):
    """Equations 5 and 6, for one query after another against the same memory.

    tanh z = 2σ(2z) − 1, so e = 2 vᵀσ(2z) − Σv, whose constant the softmax does not see. On a CPU σ is several times
    faster than tanh, and this is where the time goes.
    """

    def __init__(self, d_query: int, d_memory: int, d_model: int) -> None:
        super().__init__()
        self.query = nn.Linear(d_query, d_model, bias=False)  # W
        self.key = nn.Linear(d_memory, d_model, bias=False)  # U
        self.score = nn.Linear(d_model, 1, bias=False)  # v

    def keys(self, memory_BSM: Tensor) -> Tensor:
        """2 U h (B, S, d_model), once for all queries."""
        return 2 * self.key(memory_BSM)

    def forward(self, s_BQ: Tensor, keys_BSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """α (B, S) of the queries (B, d_query); `keys_BSD` is `keys(memory)`."""
        e_BS = 2 * self.score(torch.sigmoid(2 * self.query(s_BQ)[:, None] + keys_BSD))[..., 0]
        if mask is not None:
            e_BS = e_BS.masked_fill(~mask, torch.finfo(e_BS.dtype).min)
        return torch.softmax(e_BS, dim=-1)


class AttentiveGRU(nn.Module):
    """A GRU layer that reads, beside its input, what it attends to in a memory."""

    def __init__(self, d_in: int, d_memory: int, d_model: int) -> None:
        super().__init__()
        self.d_in = d_in
        self.attention = AdditiveAttention(d_model, d_memory, d_model)
        self.cell = nn.GRUCell(d_in + d_memory, d_model)  # its input is [x ; c]

    def forward(
        self, x_BTD: Tensor, memory_BSM: Tensor, s_BD: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The states after each step (B, T, d_model), and α (B, T, S).

        Σ_j α_j (W h_j) = W Σ_j α_j h_j: what does not depend on the state is multiplied before the loop.
        """
        w_x, w_c = self.cell.weight_ih.split([self.d_in, memory_BSM.shape[2]], dim=1)
        inputs_BTG = F.linear(x_BTD, w_x, self.cell.bias_ih)  # G = 3·d_model: r, z, n
        values_BSG = F.linear(memory_BSM, w_c)
        keys_BSD = self.attention.keys(memory_BSM)

        def step(s_BD: Tensor, x_BG: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            weights_BS = self.attention(s_BD, keys_BSD, mask)
            x_ih = torch.baddbmm(x_BG[:, None], weights_BS[:, None], values_BSG)[:, 0]
            s_BD = gru_cell(x_ih, F.linear(s_BD, self.cell.weight_hh, self.cell.bias_hh), s_BD)
            return s_BD, (s_BD.clone(), weights_BS)

        if torch.onnx.is_in_onnx_export():  # a loop in the graph: any number of steps
            states_TBD, weights_TBS = scan(step, s_BD.contiguous(), inputs_BTG.transpose(0, 1))[1]
            return states_TBD.transpose(0, 1), weights_TBS.transpose(0, 1)
        states, weights = [], []
        for x_BG in inputs_BTG.unbind(1):
            s_BD, (state, attended) = step(s_BD, x_BG)
            states.append(state)
            weights.append(attended)
        return torch.stack(states, dim=1), torch.stack(weights, dim=1)
