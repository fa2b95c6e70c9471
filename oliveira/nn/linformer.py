"""Linformer attention: keys and values of T steps are mixed into k ≪ T slots, and queries attend to the slots.

Paper: Wang et al. 2020, arXiv:2006.04768, eq. 7 and §4 (parameter sharing).

    head = softmax(q (E K)ᵀ / √d) (F V),    E, F learned, (k, T)

Sharing of E and F, as in §4: "none", one pair a head; "headwise", one pair a layer; "key-value", E = F, one a layer;
"layerwise", E = F, one for the whole model. A shared E commutes with W_k, so it comes first: E (x W_k) = (E x) W_k.

Shapes: x (B, T, d_model) → same, T ≤ max_len; mask (B, T), True = a real step. Padded keys and values are zero before
they are mixed, so a short row is one whose other steps add nothing.
Complexity: O(T·k·d_model) time, O(T·(k·H + d_model)) memory.
Checked against: linformer.LinformerSelfAttention, 1e-5; E = F = identity with k = T is full attention.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sharing = Literal["none", "headwise", "key-value", "layerwise"]


def length_projection(max_len: int, projected_len: int, n_heads: int | None = None) -> nn.Parameter:
    """E or F, uniform of variance 1/(3 k) as the reference: (k, max_len), or (n_heads, k, max_len) for one a head."""
    shape = (projected_len, max_len) if n_heads is None else (n_heads, projected_len, max_len)
    bound = projected_len**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class LinformerAttention(nn.Module):
    """Multi-head attention to k mixed keys and values. `shared`: the E = F of the whole model ("layerwise")."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        max_len: int,
        projected_len: int,
        sharing: Sharing = "headwise",
        *,
        shared: nn.Parameter | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if (shared is None) == (sharing == "layerwise"):
            raise ValueError(f"sharing = {sharing!r}: pass `shared` for 'layerwise', and only then.")
        self.n_heads, self.dropout = n_heads, dropout
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model)
        heads = n_heads if sharing == "none" else None
        self.key_mix = length_projection(max_len, projected_len, heads) if shared is None else shared
        one = sharing in ("key-value", "layerwise")
        self.value_mix = self.key_mix if one else length_projection(max_len, projected_len, heads)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        length, known = x_BTD.shape[1], self.key_mix.shape[-1]
        if not torch.compiler.is_exporting() and length > known:
            raise ValueError(f"{length} steps are more than max_len = {known}: E and F have no column for the rest.")
        real_BTD = x_BTD if mask is None else x_BTD * mask[:, :, None]
        keys_BHkK = self._mixed(real_BTD, self.key, self.key_mix[..., :length])
        values_BHkK = self._mixed(real_BTD, self.value, self.value_mix[..., :length])
        y_BHTK = F.scaled_dot_product_attention(
            self._split(self.query(x_BTD)), keys_BHkK, values_BHkK, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(y_BHTK.transpose(1, 2).flatten(2))

    def _mixed(self, x_BTD: Tensor, project: nn.Module, mix: Tensor) -> Tensor:
        if mix.dim() == 3:  # one a head
            return mix @ self._split(project(x_BTD))
        return self._split(project(mix @ x_BTD))

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
