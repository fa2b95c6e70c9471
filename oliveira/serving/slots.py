"""A key-value cache of fixed size for several streams decoded together.

Each stream owns one row. The rows in use are always 0 … n-1, so that a batch reads a view of the cache and
copies nothing; when a stream leaves, the last row moves into its place.

Shapes: keys, values (L, R, H_kv, S_max, K). L layers, R rows (slots), S_max max_len, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SlotCache:
    def __init__(self, *, n_layers: int, rows: int, n_kv_heads: int, max_len: int, d_head: int) -> None:
        # Zeros, not `empty`: a masked position must hold a finite number, since 0 · NaN is NaN.
        self.keys = torch.zeros(n_layers, rows, n_kv_heads, max_len, d_head)
        self.values = torch.zeros_like(self.keys)

    def move(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of row `source` become those of row `target`."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :length] = tensor[:, source, :, :length]

    def window(self, first_row: int, positions_BT: Tensor) -> Window:
        """The rows `first_row` … `first_row + B - 1`, about to be written at `positions_BT`."""
        return Window(self, first_row, positions_BT)


class Window:
    """One batch's view of the cache (a `KeyValueCache`); reaches as far as its longest stream."""

    def __init__(self, cache: SlotCache, first_row: int, positions_BT: Tensor) -> None:
        self.cache, self.positions_BT = cache, positions_BT
        self.rows = slice(first_row, first_row + positions_BT.shape[0])
        self.rows_B1 = torch.arange(self.rows.start, self.rows.stop)[:, None]
        self.reach = int(positions_BT.max()) + 1

    @property
    def mask(self) -> Tensor:
        """(B, 1, T, S): a query sees every position up to its own."""
        return (torch.arange(self.reach) <= self.positions_BT[..., None])[:, None]

    def length(self) -> int:
        return int(self.positions_BT.min())

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows_B1, :, self.positions_BT] = k_BHTK.transpose(1, 2)
        values[self.rows_B1, :, self.positions_BT] = v_BHTK.transpose(1, 2)
        return keys[self.rows, :, : self.reach], values[self.rows, :, : self.reach]
