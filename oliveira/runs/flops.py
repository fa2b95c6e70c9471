"""Floating point operations by torch's counter, with the rules of the CPU kernels that its table leaves out.

Two for each multiply-add of a matrix product, convolution, attention or LSTM kernel; attention counts every pair of
positions, causal or not, in whichever kernel it runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention_flops(query: Any, key: Any, value: Any, *arguments: Any, out_shape: Any = None, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _lstm_flops(x: Any, w_in: Any, w_hidden: Any, *arguments: Any, out_shape: Any = None, **options: Any) -> int:
    steps_and_rows = x[0] * x[1]
    return 2 * steps_and_rows * (math.prod(w_in) + math.prod(w_hidden))


# Kernels of the CPU that torch's own table leaves out.
MORE_RULES: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
}


def flop_counter() -> FlopCounterMode:
    """Torch's counter with the rules of `MORE_RULES`: a context; then `get_total_flops()`."""
    return FlopCounterMode(display=False, custom_mapping=MORE_RULES)
