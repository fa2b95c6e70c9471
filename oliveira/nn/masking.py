"""From a row's real steps to who may attend to whom.

Mask: (B, S) boolean, True = a real step, False = padding. What comes out broadcasts to (B, H, T, S), True = may attend.
A row without any real step attends to everything, so that its numbers stay finite; nobody reads them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keys(mask: Tensor | None) -> Tensor | None:
    """(B, 1, 1, S): every query may attend to every real step."""
    return None if mask is None else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


def causal_keys(mask: Tensor) -> Tensor:
    """(B, 1, T, T): every query may attend to itself and to the real steps before it."""
    step = torch.arange(mask.shape[1], device=mask.device)
    before, itself = step[None, :] < step[:, None], step[None, :] == step[:, None]  # (T, T)
    return mask[:, None, None, :] & before | itself
