"""Cross-entropy, one implementation for tokens, classes and soft targets.

    L = −1/N Σ_i Σ_c y_ic log softmax(z_i)_c          N counts the targets that are not ignored
    label smoothing ε: y ← (1 − ε) y + ε / C          Szegedy et al. 2016, arXiv:1512.00567

Computed through log-softmax, so that a probability of 0 costs a large number and not NaN (the seed's `log(y_pred)`
would). Checked against: torch.nn.functional.cross_entropy, 1e-6, and the sum written out.
"""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
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
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> Tensor:
    """The equation as it is written: the oracle."""
    log_probability = logits - logits.logsumexp(dim=-1, keepdim=True)
    n_classes = logits.shape[-1]
    if targets.dim() == logits.dim():
        soft, kept = targets, targets.new_ones(targets.shape[:-1])
    else:
        kept = (targets != ignore_index).to(logits.dtype)
        soft = F.one_hot(targets.clamp(min=0), n_classes).to(logits.dtype)
    soft = (1 - label_smoothing) * soft + label_smoothing / n_classes
    return -((soft * log_probability).sum(-1) * kept).sum() / kept.sum()
