"""Cross-entropy, one implementation for tokens, classes and soft targets, and one that never holds all logits.

    L = −1/N Σ_i Σ_c y_ic log softmax(z_i)_c          N counts the targets that are not ignored
    label smoothing ε: y ← (1 − ε) y + ε / C          Szegedy et al. 2016, arXiv:1512.00567

Computed through log-softmax, so that a probability of 0 costs a large number and not NaN (the seed document's
`log(y_pred)` would). Checked against: torch.nn.functional.cross_entropy, 1e-6, and the sum written out.

With z = H Wᵀ, the output matrix of a language model, `head_cross_entropy` computes L, ∂L/∂H and ∂L/∂W together, some
rows at a time:    ∂L/∂z = (softmax(z) − y) / N,   ∂L/∂H = ∂L/∂z W,   ∂L/∂W = (∂L/∂z)ᵀ H.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.kernels.products import add_product, pays, product
from oliveira.registry import can

IGNORED = -100  # a target that asks nothing: padding, or a word that is not hidden
ROWS = 512  # their logits are held at a time


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = IGNORED
) -> Tensor:
    """Mean loss in nats. logits (…, C); targets (…) int64 classes, or (…, C) probabilities."""
    n_classes = logits.shape[-1]
    soft = targets.dim() == logits.dim()
    return F.cross_entropy(
        logits.reshape(-1, n_classes),
        targets.reshape(-1, n_classes) if soft else targets.reshape(-1),
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
    )


def cross_entropy_reference(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = IGNORED
) -> Tensor:
    """The equation as it is written: the oracle."""
    log_probability = logits - logits.logsumexp(dim=-1, keepdim=True)
    n_classes = logits.shape[-1]
    if targets.dim() == logits.dim():
        soft, kept = targets, targets.new_ones(targets.shape[:-1])
    else:
        valid = _valid(targets, ignore_index, n_classes)
        kept = valid.to(logits.dtype)
        soft = F.one_hot(targets.where(valid, 0), n_classes).to(logits.dtype)
    soft = (1 - label_smoothing) * soft + label_smoothing / n_classes
    return -((soft * log_probability).sum(-1) * kept).sum() / kept.sum()


def _valid(targets: Tensor, ignore_index: int, n_classes: int) -> Tensor:
    """Which targets count. IndexError, as torch's, for one that is neither a class nor `ignore_index`."""
    valid = targets != ignore_index
    wrong = targets[valid & ((targets < 0) | (targets >= n_classes))]
    if len(wrong):
        raise IndexError(f"Target {int(wrong[0])} is out of bounds.")
    return valid


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, valid: Tensor, smoothing: float, rows: int
    ) -> Tensor:
        # (N, 1): what a row counts for in the mean. Nothing counts where all are ignored: no gradient, and no mean.
        share = (valid / valid.sum().clamp(min=1)).to(hidden.dtype)[:, None]
        wants_weight = ctx.needs_input_grad[1]
        mean_weight = weight.mean(0)  # the mean of a row's logits is H times this
        total, d_hidden, d_weight_t = hidden.new_zeros(()), torch.empty_like(hidden), None
        for h, t, n, d_h in zip(*(x.split(rows) for x in (hidden, targets, share, d_hidden)), strict=True):
            z = product(h, weight)
            true, largest = z.gather(1, t[:, None]), z.amax(1, keepdim=True)
            z.sub_(largest).exp_()
            sum_exp = z.sum(1, keepdim=True)
            wanted = (1 - smoothing) * true + smoothing * (h @ mean_weight)[:, None]
            total += ((sum_exp.log() + largest - wanted) * n).sum()
            scale = n / sum_exp  # softmax(z) / N is z times this: applied to the thin side of both products
            d_h.copy_(weight[t]).mul_(smoothing - 1).sub_(smoothing * mean_weight).mul_(n)
            d_h.addcmul_(product(z, weight.t()), scale)
            if wants_weight:
                d_weight_t = add_product(d_weight_t, (h * scale).t(), z.t())
        d_weight = None
        if d_weight_t is not None:
            d_weight = d_weight_t.t().contiguous().index_add_(0, targets, hidden * share, alpha=smoothing - 1)
            if smoothing:
                d_weight -= smoothing / len(weight) * (hidden * share).sum(0)
        ctx.save_for_backward(d_hidden, d_weight)
        return total if bool(valid.any()) else total.fill_(torch.nan)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        if gradient.item() != 1:
            d_hidden, d_weight = d_hidden * gradient, None if d_weight is None else d_weight * gradient
        return d_hidden, d_weight, None, None, None, None


def head_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORED,
    rows: int = ROWS,
) -> Tensor:
    """`cross_entropy(hidden @ weight.T, targets)` with `rows` of the logits in memory, for training on the CPU.

    hidden (…, D) and weight (V, D) float32 (float64 for checks), targets (…) int64; those equal to `ignore_index` do
    not count, and where none counts the loss is NaN and moves nothing, as torch's. One derivative only.
    """
    flat: Tensor = hidden.reshape(-1, hidden.shape[-1])
    targets = targets.reshape(-1)
    valid = _valid(targets, ignore_index, len(weight))
    result: Tensor = _HeadCrossEntropy.apply(flat, weight, targets.where(valid, 0), valid, label_smoothing, rows)
    return result


def next_token(model: nn.Module, tokens: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean loss in nats of `targets` (B, T) after `tokens` (B, T).

    A model that trains, has features and a plain matrix `head`, as `gpt` has, gives those states to
    `head_cross_entropy`; any other its logits to `cross_entropy`. The loss is the same to 1e-6.
    """
    parts: Any = model
    capped = getattr(getattr(model, "config", None), "logit_cap", 0.0)
    head: Any = parts.head if can(model, "matrix_head") and not capped else None
    plain = type(head) is nn.Linear and head.bias is None and head.weight.dtype == torch.float32
    if plain and torch.is_grad_enabled():
        hidden: Tensor = parts.features(tokens)
        if pays(hidden, len(head.weight)):
            return head_cross_entropy(hidden, head.weight, targets, label_smoothing=label_smoothing)
        return cross_entropy(head(hidden), targets, label_smoothing=label_smoothing)
    return cross_entropy(model(tokens), targets, label_smoothing=label_smoothing)
