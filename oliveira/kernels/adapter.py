"""LoRA terms of one stream among others: W x + α/r · B A x, each row of a batch with its own A and B, or none.

The base weights are read once for all streams (S-LoRA, Sheng et al. 2023, arXiv:2311.03285). A and B are float32 beside
4-bit base weights. Shapes: A (r, d_in), B (d_out, r).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oliveira.errors import UserError
from oliveira.kernels.build import mirrors
from oliveira.models.gpt import GPTConfig

_LANES, _GROUP = 16, 64
# The layers of a block in the order of `Part` in source/decoder.h: (name, place among the outputs computed together).
PARTS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feed_forward.gate",
    "feed_forward.up",
    "feed_forward.down",
)


@mirrors("LowRank")
class LowRankStruct(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("rank", "d_out", "first", "step")),
    )


class Adapter:
    """The LoRA terms of a GPT, ready for `Run.adapter`.

    `layers`: name of a linear layer, such as `blocks.0.attention.query` → (A, B), with α/r already in B. Raises
    `UserError` for a layer that the model does not have, or that is not one of a block's.
    """

    def __init__(self, config: GPTConfig, layers: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.layers = {name: (a.detach().float(), b.detach().float()) for name, (a, b) in layers.items()}
        self._kept: list[Any] = []
        self.struct = (LowRankStruct * (config.n_layers * len(PARTS)))()
        shapes = _shapes(config)
        for name, (a, b) in self.layers.items():
            place = _place(name, config)
            d_out, d_in, first, step = shapes.get(PARTS[place % len(PARTS)] if place >= 0 else "", (0, 0, 0, 0))
            if not d_out:
                raise UserError(f"the adapter changes {name}, which is not a layer of a block of this model.")
            if a.shape[1:] != (d_in,) or b.shape != (d_out, len(a)):
                raise UserError(
                    f"the adapter's {name} has shapes {tuple(a.shape)} and {tuple(b.shape)}; this model needs "
                    f"(r, {d_in}) and ({d_out}, r). Train it for this model."
                )
            self.struct[place] = LowRankStruct(
                self._padded(a, _GROUP), self._padded(b.T, _LANES), len(a), d_out, first, step
            )

    def _padded(self, rows: Tensor, unit: int) -> int:
        """Address of the rows, each filled up with zeros to a multiple of `unit`."""
        whole = torch.zeros(len(rows), -(-rows.shape[1] // unit) * unit)
        whole[:, : rows.shape[1]] = rows
        self._kept.append(whole)
        return whole.data_ptr()


def _shapes(config: GPTConfig) -> dict[str, tuple[int, int, int, int]]:
    """(d_out, d_in, first panel, step) of each part, as `NativeDecoder` stacks them."""
    d, ff = config.d_model, config.d_ff
    wide, kv = config.head_width * config.n_heads, config.head_width * config.n_kv_heads
    q_panels, kv_panels = -(-wide // _LANES), -(-kv // _LANES)
    gated = config.feed_forward in ("swiglu", "geglu")
    shapes = {
        "attention.query": (wide, d, 0, 1),
        "attention.key": (kv, d, q_panels, 1),
        "attention.value": (kv, d, q_panels + kv_panels, 1),
        "attention.output": (d, wide, 0, 1),
        "feed_forward.up": (ff, d, int(gated), 1 + gated),
        "feed_forward.down": (d, ff, 0, 1),
    }
    return {**shapes, "feed_forward.gate": (ff, d, 0, 2)} if gated else shapes


def _place(name: str, config: GPTConfig) -> int:
    """Index of a layer among all parts of all blocks, -1 if it is none."""
    room, _, rest = name.partition(".")
    number, _, part = rest.partition(".")
    if room != "blocks" or not number.isdecimal() or int(number) >= config.n_layers or part not in PARTS:
        return -1
    return int(number) * len(PARTS) + PARTS.index(part)
