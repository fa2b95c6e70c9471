"""Where a token stands: learned, sinusoidal, or as a rotation of queries and keys.

Papers: Vaswani et al. 2017, arXiv:1706.03762 §3.5; RoPE: Su et al. 2021, arXiv:2104.09864; for longer texts: linear,
Chen et al. 2023, arXiv:2306.15595; YaRN, Peng et al. 2023, arXiv:2309.00071; llama3, of the Llama 3.1 release.

    PE(pos, 2i) = sin(pos / 10000^(2i/d)),  PE(pos, 2i+1) = cos(pos / 10000^(2i/d))
    RoPE: angle(pos, i) = pos · base^(−2i/K), the two halves of a head turned by it
    scaled: angle(pos, i) = pos · base^(−2i/K) · (kept_i + (1 − kept_i) / factor)
            kept_i: linear 0; llama3 by the wavelength; yarn by the turns within the length first trained on

Shapes: positions (…, T) int64; `Learned` and `Sinusoidal` give (…, T, d_model), `Rotary` gives cos, sin (…, 1, T, K).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What each way of scaling RoPE needs, and what it may be given besides; transformers' names.
_FIRST = "original_max_position_embeddings"
SCALINGS = {
    "linear": ({"factor"}, set[str]()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", _FIRST}, set[str]()),
    "yarn": (
        {"factor", _FIRST},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}


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
    """`d_head`: the width that is turned, the first part of a head or all of it. `scaling`: see `check_scaling`."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, max_len: int, d_head: int, base: float = 10_000.0, scaling: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        periods = base ** (torch.arange(0, d_head, 2) / d_head)
        if scaling:
            kept = _kept(periods, d_head, base, scaling)
            periods = periods / (kept + (1 - kept) / scaling["factor"])
        angle = torch.arange(max_len)[:, None] / periods
        angle = torch.cat([angle, angle], dim=-1)
        larger = _enlarged(scaling) if scaling else 1.0
        self.register_buffer("cos", angle.cos() * larger, persistent=False)
        self.register_buffer("sin", angle.sin() * larger, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[positions], self.sin[positions]
        return cos.unsqueeze(-3), sin.unsqueeze(-3)  # one more axis for the heads


def check_scaling(scaling: Mapping[str, Any]) -> None:
    """Raises ValueError, one sentence, unless `scaling` is {"type": one of `SCALINGS`, its numbers}."""
    kind = scaling.get("type")
    if kind not in SCALINGS:
        raise ValueError(f"rope_scaling has the type {kind!r}. Use one of {', '.join(SCALINGS)}.")
    needed, more = SCALINGS[kind]
    numbers = {name: value for name, value in scaling.items() if name != "type"}
    for name in sorted(needed - numbers.keys()):
        raise ValueError(f"rope_scaling of the type {kind} has no {name}. It needs {', '.join(sorted(needed))}.")
    for name, value in numbers.items():
        if name not in needed | more:
            known = ", ".join(sorted(needed | more))
            raise ValueError(f"rope_scaling of the type {kind} has {name}, which is not known. It knows {known}.")
        if not isinstance(value, (int, float)) or not (value > 0 or name not in needed) or not math.isfinite(value):
            raise ValueError(f"rope_scaling has {name} = {value!r}. Give a positive number.")
    if kind == "llama3" and not numbers["low_freq_factor"] < numbers["high_freq_factor"]:
        raise ValueError(
            f"rope_scaling has low_freq_factor = {numbers['low_freq_factor']}, which is not less than high_freq_factor "
            f"= {numbers['high_freq_factor']}. Give a smaller one."
        )


def _kept(periods: Tensor, width: int, base: float, scaling: Mapping[str, Any]) -> Tensor:
    """(K/2,) between 0 and 1: how much of its own frequency each pair keeps, the rest is divided by the factor."""
    if scaling["type"] == "linear":
        return torch.zeros_like(periods)
    if scaling["type"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling[_FIRST] / (2 * math.pi * periods)
        return ((turns - low) / (high - low)).clamp(0, 1)

    def pair(turns: float) -> float:
        """The pair that makes so many turns within the length first trained on."""
        return width * math.log(scaling[_FIRST] / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = last - first or 0.001
    return 1 - ((torch.arange(width // 2) - first) / span).clamp(0, 1)


def _enlarged(scaling: Mapping[str, Any]) -> float:
    """YaRN's factor of both tables, so that scores of a longer text stay as sharp."""
    if scaling["type"] != "yarn":
        return 1.0
    if (given := scaling.get("attention_factor")) is not None:
        return float(given)

    def grown(by: float) -> float:
        return 0.1 * by * math.log(scaling["factor"]) + 1 if scaling["factor"] > 1 else 1.0

    one, all_of_it = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return grown(one) / grown(all_of_it) if one and all_of_it else grown(1)
