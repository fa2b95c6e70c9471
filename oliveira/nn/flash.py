"""Flash attention: exact attention, tile by tile, in memory that grows with T and not with T².

Papers: Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; running softmax: Milakov & Gimelshein, arXiv:1805.02867.

    each tile of keys:  s = q kᵀ/√K,  m' = max(m, max s),  ℓ' = e^(m−m') ℓ + Σ e^(s−m'),  o' = e^(m−m') o + e^(s−m') v
    out = o/ℓ,  lse = m + log ℓ
    backward: p = e^(s−lse) is computed again,  δ = Σ out ⊙ dout − dlse,  ds = p ⊙ (dout vᵀ − δ)

Shapes: q (…, T, K); k, v (…, S, K), the same leading axes; out (…, T, K); lse (…, T).
Mask: boolean, True = may attend, broadcast to (…, T, S). `causal` is aligned at the end (bottom right), as in a cache:
query t sees the keys up to S − T + t. torch's `is_causal` is aligned at the beginning; the two are one where T = S.
A row that may attend to nothing gives zeros, lse = −∞, and no gradient.
Complexity: O(T·S·K) time, as dense attention; O((T + S)·K) memory.
Deviations from the papers: the tiles serve memory only. On a CPU, `F.scaled_dot_product_attention` runs torch's own
flash kernel in C++ and is faster: `nn.attention` uses that. This file is the algorithm for reading, with lse.
Checked against: F.scaled_dot_product_attention, 1e-6 forward and 1e-5 gradients; torch's CPU flash kernel for lse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, tile: int = 256
) -> tuple[Tensor, Tensor]:
    """(out, lse): attention and the logarithm of its denominator, both differentiable once.

    `tile`: rows and columns of scores held at a time. Raises ValueError when `tile` is below 1.
    """
    if tile < 1:
        raise ValueError(f"tile = {tile} holds no score. Use 1 or more, for example 256.")
    if mask is not None:
        mask = mask.expand(*q.shape[:-1], k.shape[-2])
    return _Flash.apply(q, k, v, mask, causal, tile)


def _tiles(q: Tensor, k: Tensor, causal: bool, tile: int) -> Iterator[tuple[slice, list[slice]]]:
    """Each tile of queries, with the tiles of keys that any of them may see."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    for start in range(0, n_queries, tile):
        rows = slice(start, min(start + tile, n_queries))
        seen = max(0, n_keys - n_queries + rows.stop) if causal else n_keys
        yield rows, [slice(first, min(first + tile, seen)) for first in range(0, seen, tile)]


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, rows: slice, columns: slice) -> Tensor:
    """(…, rows, columns) of q kᵀ/√K, −∞ where the query may not attend."""
    scores = (q[..., rows, :] * q.shape[-1] ** -0.5) @ k[..., columns, :].transpose(-2, -1)
    if mask is not None:
        scores.masked_fill_(~mask[..., rows, columns], float("-inf"))
    last = k.shape[-2] - q.shape[-2] + rows.start  # the last key that the first row sees
    if causal and columns.stop > last + 1:
        row = torch.arange(rows.stop - rows.start, device=q.device)[:, None] + last
        scores.masked_fill_(torch.arange(columns.start, columns.stop, device=q.device) > row, float("-inf"))
    return scores


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, tile: int
    ) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1])
        for rows, key_tiles in _tiles(q, k, causal, tile):
            peak = q.new_full((*q.shape[:-2], rows.stop - rows.start, 1), float("-inf"))
            total, sums = torch.zeros_like(peak), torch.zeros_like(q[..., rows, :])
            for columns in key_tiles:
                scores = _scores(q, k, mask, causal, rows, columns)
                new_peak = torch.maximum(peak, scores.amax(dim=-1, keepdim=True))
                shift = new_peak.masked_fill(new_peak == float("-inf"), 0.0)  # nothing seen so far: e^(−∞ − 0) = 0
                keep = (peak - shift).exp_()
                weights = scores.sub_(shift).exp_()
                total.mul_(keep).add_(weights.sum(dim=-1, keepdim=True))
                sums.mul_(keep).add_(weights @ v[..., columns, :])
                peak = new_peak
            out[..., rows, :] = sums / total.masked_fill(total == 0, 1.0)
            lse[..., rows] = (peak + total.log()).squeeze(-1)
        ctx.save_for_backward(q, k, v, mask, out, lse)
        ctx.causal, ctx.tile = causal, tile
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, out, lse = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = ((out * d_out).sum(dim=-1) - d_lse)[..., None]
        shift = lse.masked_fill(lse == float("-inf"), 0.0)[..., None]
        for rows, key_tiles in _tiles(q, k, ctx.causal, ctx.tile):
            for columns in key_tiles:
                weights = _scores(q, k, mask, ctx.causal, rows, columns).sub_(shift[..., rows, :]).exp_()
                dv[..., columns, :] += weights.transpose(-2, -1) @ d_out[..., rows, :]
                d_scores = d_out[..., rows, :] @ v[..., columns, :].transpose(-2, -1)
                d_scores = d_scores.sub_(delta[..., rows, :]).mul_(weights).mul_(scale)
                dq[..., rows, :] += d_scores @ k[..., columns, :]
                dk[..., columns, :] += d_scores.transpose(-2, -1) @ q[..., rows, :]
        return dq, dk, dv, None, None, None
