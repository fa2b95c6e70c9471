"""Layer normalisation and its root-mean-square form.

Papers: Ba et al. 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467.

    LayerNorm(x) = γ (x − μ) / √(σ² + ε) + β        the seed document leaves out ε: 0/0 on a constant row
    RMSNorm(x)   = γ x / √(mean(x²) + ε)

Shapes: x (…, d_model) → same. Checked against: torch.nn.LayerNorm, torch.nn.RMSNorm, 1e-6; gradcheck.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm_reference(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """The equation as it is written: the oracle of the fused kernel."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return gamma * centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() + beta


class LayerNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight
