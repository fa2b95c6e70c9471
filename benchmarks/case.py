"""One comparison of speed: the same work, the same weights and inputs, by us and by a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str  # "lstm forward+backward, B 32 T 168 d_model 128"
    model: str  # registry name
    ours: Callable[[], object]
    reference: Callable[[], object]
    reference_name: str  # "torch.nn.LSTM"
