"""Where a token stands: learned, sinusoidal, or as a rotation of queries and keys.

Papers: Vaswani et al. 2017, arXiv:1706.03762 §3.5; RoPE: Su et al. 2021, arXiv:2104.09864.

    PE(pos, 2i) = sin(pos / 10000^(2i/d)),  PE(pos, 2i+1) = cos(pos / 10000^(2i/d))
    RoPE: angle(pos, i) = pos · base^(−2i/K), the two halves of a head turned by it

Shapes: positions (…, T) int64; `Learned` and `Sinusoidal` give (…, T, d_model), `Rotary` gives cos, sin (…, 1, T, K).
"""

import torch
from torch import Tensor, nn


class Learned(nn.Module):
    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_len, d_model)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions)


class Sinusoidal(nn.Module):
    table: Tensor

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        angle = torch.arange(max_len)[:, None] / 10_000 ** (torch.arange(0, d_model, 2) / d_model)
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions]


class Rotary(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, max_len: int, d_head: int, base: float = 10_000.0) -> None:
        super().__init__()
        angle = torch.arange(max_len)[:, None] / base ** (torch.arange(0, d_head, 2) / d_head)
        angle = torch.cat([angle, angle], dim=-1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[positions], self.sin[positions]
        return cos.unsqueeze(-3), sin.unsqueeze(-3)  # one more axis for the heads
