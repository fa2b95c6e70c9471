"""Position-wise feed-forward networks.

Papers: Vaswani et al. 2017, arXiv:1706.03762 (eq. 2); gated: Shazeer 2020, arXiv:2002.05202.

    FFN(x) = max(0, x W₁ + b₁) W₂ + b₂                           ReLU, as in the seed document; GELU by passing it
    SwiGLU(x) = (SiLU(x W_gate) ⊙ x W_up) W_down,  GeGLU(x) = (GELU(x W_gate) ⊙ x W_up) W_down

Shapes: x (…, d_model) → (…, d_model). Complexity: O(d_model · d_ff) a position.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two layers with `activation` between them: pass `nn.ReLU()`, `nn.GELU()` or any other module."""

    def __init__(self, d_model: int, d_ff: int, activation: nn.Module, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class SwiGLU(nn.Module):
    """The gated form: three matrices, no bias."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GeGLU(SwiGLU):
    """The same with GELU's tanh form, as in Gemma."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))
