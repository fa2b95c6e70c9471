"""The few functions that several checks share, in plain numpy and double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(z: Array, axis: int = -1) -> Array:
    """e^z / Σ e^z, the maximum subtracted first."""
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(z: Array, axis: int = -1) -> Array:
    shifted = z - z.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def sigmoid(x: Array | float) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x)))


def kl(p: Array, q: Array) -> float:
    """Σ p log(p/q) in nats; both positive with sum 1."""
    return float((p * np.log(p / q)).sum())


def spin_rows(n: int) -> Array:
    """All 2^n rows of ±1; row b holds 1 − 2·(bit i of b) in column i."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return (1 - 2 * bits).astype(float)
