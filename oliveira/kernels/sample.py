"""The next tokens of many streams in one C call: mask, bias, penalties, temperature, top-k, top-p, min-p, and chance.

What each of them means stands in `oliveira/serving/engine/sampling.py`, whose torch functions are the oracle. A stream
is computed by one thread in one order: its token has the same bits alone and in a batch, on any number of threads.

Shapes: logits (V,) float32. Complexity: O(V), no sort; see docs/kernels.md for what it costs.
Checked against: `oliveira.serving.engine.sampling.distribution`, cumulated, to 1e-6.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from oliveira.kernels.build import library, mirrors


@mirrors("Draw")
class Draw(ctypes.Structure):
    """`Draw` of source/types.h. Whoever fills in addresses keeps what stands there."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("logits", "mask", "bias_tokens", "bias", "seen", "counts"),
                *("top_logprobs", "top_tokens"),
            )
        ),
        *((name, ctypes.c_double) for name in ("temperature", "greedy_below", "top_p", "min_p", "uniform", "logprob")),
        *((name, ctypes.c_float) for name in ("repetition", "frequency", "presence")),
        *((name, ctypes.c_int32) for name in ("top_k", "n_bias", "n_seen", "n_top", "token", "finite")),
    )


def sample(draws: Sequence[Draw], n_tokens: int, threads: int) -> None:
    """Fills in `token`, `finite` and the log-probabilities of each. Logits of `n_tokens` tokens each."""
    each = (ctypes.c_void_p * len(draws))(*map(ctypes.addressof, draws))
    library().oliveira_sample(each, len(draws), n_tokens, threads)
