"""Learning rate as a function of the step, counted from 1.

noam    lr = factor · d_model^−0.5 · min(step^−0.5, step · warmup^−1.5)  Vaswani et al. 2017, §5.3; the seed document's
warm-up cosine  linear to the peak over `warmup`, then half a cosine down to `min_lr` · peak
"""

import math


def noam(step: int, *, d_model: int, warmup_steps: int, factor: float = 1.0) -> float:
    """Raises ValueError at step 0, where the seed document's formula divides by zero."""
    if step < 1:
        raise ValueError(f"step = {step}: the Noam schedule counts from 1")
    return factor * d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


def cosine(step: int, *, peak: float, warmup_steps: int, steps: int, min_lr: float = 0.0) -> float:
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (min_lr + (1 - min_lr) * 0.5 * (1 + math.cos(math.pi * done)))
