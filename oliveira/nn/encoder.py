"""One encoder block from parts: any attention, any feed-forward net, any norm.

Papers: Vaswani et al. 2017, arXiv:1706.03762 §3.1 (post-norm); Xiong et al. 2020, arXiv:2002.04745 (pre-norm).

    post-norm:  x ← Norm(x + f(x))          pre-norm:  x ← x + f(Norm(x))          f = attention, then feed-forward

Shapes: x (B, T, d_model) → same. Mask: what `attention(x, mask=mask)` takes.
Checked against: torch.nn.TransformerEncoderLayer, 1e-5 (through `oliveira.models.transformer`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def residual(
    x: Tensor, layer: Callable[[Tensor], Tensor], norm: nn.Module, dropout: nn.Module, *, pre_norm: bool
) -> Tensor:
    """`layer` around which the stream passes, in one of the two forms."""
    if pre_norm:
        return x + dropout(layer(norm(x)))
    return norm(x + dropout(layer(x)))


class EncoderBlock(nn.Module):
    """Attention, then feed-forward. `norms`: the one of each."""

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        norms: tuple[nn.Module, nn.Module],
        *,
        pre_norm: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norms
        self.pre_norm, self.dropout = pre_norm, nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.attention(x, mask=mask)

        x = residual(x_BTD, attend, self.attention_norm, self.dropout, pre_norm=self.pre_norm)
        return residual(x, self.feed_forward, self.feed_forward_norm, self.dropout, pre_norm=self.pre_norm)
