"""Scaled dot-product and multi-head attention, grouped queries included.

Papers: Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023, arXiv:2305.13245; a window: Jiang
et al. 2023, arXiv:2310.06825; normalised queries and keys: Dehghani et al. 2023, arXiv:2302.05442; soft cap: Gemma 2,
arXiv:2408.00118.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V                                          (eq. 1)
    head_i = Attention(x W_q, x W_k, x W_v),  MultiHead = concat(head_1 … head_h) W_o

Shapes: x (B, T, d_model); q (B, H, T, K); k, v (B, H_kv, S, K). B batch, T queries, S keys, H heads, K head width.
Mask: boolean, True = may attend, broadcast to (B, H, T, S).
Complexity: O(B·T·S·d_model) time; the fused kernel needs O(B·T·d_model) memory.
Checked against: torch.nn.functional.scaled_dot_product_attention, torch.nn.MultiheadAttention, 1e-5.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.nn.norm import RMSNorm


def check_heads(d_model: int, n_heads: int, n_kv_heads: int = 1, *, rotated: bool = False) -> None:
    """Raises ValueError, one sentence, unless `d_model` splits into heads and these into groups of one key each.

    `rotated`: RoPE turns pairs of numbers, so that a head's width is even.
    """

    def fits(heads: int) -> bool:
        return d_model % heads == 0 and not (rotated and d_model // heads % 2)

    if not fits(n_heads):
        near = sorted(filter(fits, range(1, d_model + 1)), key=lambda heads: abs(heads - n_heads))[:3]
        use = f"Use {', '.join(map(str, sorted(near)))} heads" if near else "Use an even d_model"
        even = " of even width, as RoPE needs them" if rotated else ""
        raise ValueError(f"d_model = {d_model} does not split into n_heads = {n_heads} heads{even}. {use}.")
    if n_heads % n_kv_heads:
        raise ValueError(
            f"n_heads = {n_heads} does not split over n_kv_heads = {n_kv_heads}. Use {n_heads} (no sharing) or 1."
        )


class KeyValueCache(Protocol):
    """Keys and values of the tokens already seen. The caller keeps it, the model only reads and extends it."""

    def length(self) -> int:
        """Tokens held before this call."""
        ...

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new keys and values of one layer. Returns all that may be attended to: (B, H_kv, S, K) each."""
        ...


class ConcatCache:
    """The plain cache: old ‖ new. `past` holds one (key, value) pair a layer, or nothing yet."""

    def __init__(self, past: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.past = list(past or [])

    def length(self) -> int:
        return self.past[0][0].shape[2] if self.past else 0

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self.past):
            self.past.append((k_BHTK, v_BHTK))
        else:
            k_old, v_old = self.past[layer]
            self.past[layer] = torch.cat([k_old, k_BHTK], dim=2), torch.cat([v_old, v_BHTK], dim=2)
        return self.past[layer]


def attention_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Equation 1 as it is written: the oracle of the fused kernel. Rows that may attend to nothing give zeros."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.nan_to_num(torch.softmax(scores, dim=-1)) @ v


def causal_mask(n_new: int, n_past: int, device: torch.device | None = None) -> Tensor:
    """(T, S): query t, at position n_past + t, may attend to every position up to its own."""
    position = torch.arange(n_past, n_past + n_new, device=device)
    return torch.arange(n_past + n_new, device=device) <= position[:, None]


def windowed(mask: Tensor, window: int) -> Tensor:
    """Of the keys that a query may see in `mask` (…, T, S), the last `window` ones; itself is the last of all.

    Counted, not measured: keys of padding or of other places between them take up no room.
    """
    seen = mask.long()
    return mask & (seen.sum(-1, keepdim=True) - seen.cumsum(-1) < window)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with `n_kv_heads` ≤ `n_heads` shared keys and values."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        *,
        d_head: int | None = None,
        bias: bool = False,
        qkv_bias: bool = False,
        norm_eps: float | None = None,
        scale: float | None = None,
        cap: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        """`bias`: everywhere; `qkv_bias`: of queries, keys and values. `norm_eps`: each head's queries and keys are
        normalised before they turn. `scale` of q·k, None = 1/√K. `cap`: scores s become cap · tanh(s / cap).
        """
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads or n_heads
        self.d_head, self.dropout = d_head or d_model // n_heads, dropout
        self.scale, self.cap = scale, cap
        self.query = nn.Linear(d_model, n_heads * self.d_head, bias=bias or qkv_bias)
        self.key = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias or qkv_bias)
        self.value = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias or qkv_bias)
        self.output = nn.Linear(n_heads * self.d_head, d_model, bias=bias)
        self.query_norm = None if norm_eps is None else RMSNorm(self.d_head, norm_eps)
        self.key_norm = None if norm_eps is None else RMSNorm(self.d_head, norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """`context` (B, S, d_model): attend to another sequence. `causal`: each position sees itself and the past.
        `rotation`: cosines and sines of RoPE. `cache`: earlier keys and values of this `layer`."""
        source = x_BTD if context is None else context
        q_BHTK = self._split(self.query(x_BTD), self.n_heads)
        k_BHSK = self._split(self.key(source), self.n_kv_heads)
        v_BHSK = self._split(self.value(source), self.n_kv_heads)
        if self.query_norm is not None and self.key_norm is not None:
            q_BHTK, k_BHSK = self.query_norm(q_BHTK), self.key_norm(k_BHSK)
        if rotation is not None:
            q_BHTK, k_BHSK = rotate(q_BHTK, *rotation), rotate(k_BHSK, *rotation)
        if cache is not None:
            k_BHSK, v_BHSK = cache.extend(layer, k_BHSK, v_BHSK)
        y_BHTK = self.attend(q_BHTK, k_BHSK, v_BHSK, mask, causal and mask is None)
        return self.output(y_BHTK.transpose(1, 2).flatten(2))

    def attend(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Equation 1 for every head, (B, H, T, K)."""
        if self.n_kv_heads < self.n_heads:
            groups = self.n_heads // self.n_kv_heads
            k_BHSK, v_BHSK = k_BHSK.repeat_interleave(groups, dim=1), v_BHSK.repeat_interleave(groups, dim=1)
        dropout = self.dropout if self.training else 0.0
        if self.cap:
            return self._capped(q_BHTK, k_BHSK, v_BHSK, mask, causal, dropout)
        return F.scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=self.scale
        )

    def _capped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
        """As `attention_reference`, with the soft cap that no fused kernel has."""
        scale = self.d_head**-0.5 if self.scale is None else self.scale
        scores = self.cap * torch.tanh(q @ k.transpose(-2, -1) * (scale / self.cap))
        if causal:
            mask = causal_mask(q.shape[2], k.shape[2] - q.shape[2], q.device)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        shares = torch.nan_to_num(torch.softmax(scores, dim=-1))  # a row that sees nothing gives zeros
        return F.dropout(shares, dropout) @ v

    def _split(self, x_BTD: Tensor, n_heads: int) -> Tensor:
        return x_BTD.unflatten(-1, (n_heads, self.d_head)).transpose(1, 2)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """RoPE in the half-rotation form of GPT-NeoX and Llama: (x₁, x₂) → (x₁ cos − x₂ sin, x₂ cos + x₁ sin).

    Tables narrower than a head turn its first part."""
    if (width := cos_TK.shape[-1]) < x_BHTK.shape[-1]:
        turned = rotate(x_BHTK[..., :width], cos_TK, sin_TK)
        return torch.cat([turned, x_BHTK[..., width:]], dim=-1)
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_TK + torch.cat([-second, first], dim=-1) * sin_TK
