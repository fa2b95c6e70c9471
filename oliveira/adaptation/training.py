"""LoRA trained: the one way of the stage `adapt`, of retrainings and of a user's own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from oliveira.adaptation.lora import Compute, add_lora
from oliveira.adaptation.settings import AdaptSection
from oliveira.training.loop import Job, Progress, train
from oliveira.training.seeds import seed_everything
from oliveira.training.settings import TrainSection


def train_adapter(
    model: nn.Module,
    section: AdaptSection,
    training: TrainSection,
    folder: Path,
    *,
    targets: Sequence[str] | None,
    batch: Callable[[int], Any],
    loss: Callable[[nn.Module, Any], Tensor],
    seed: int,
    tokens_per_batch: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    compute: Compute = "fp32",
) -> nn.Module:
    """Adds LoRA of `section` to `targets` of the model, in place, and teaches it alone; goes on from a checkpoint in
    `folder`. Returns the model with its LoRA, to be saved or merged, in `eval` mode. Raises as `train` and `add_lora`.
    """
    seed_everything(seed)  # A is random
    add_lora(model, section.rank, section.alpha, targets, compute=compute)
    job: Job[Any] = Job(
        batch=batch,
        loss=loss,
        tokens_per_batch=tokens_per_batch,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    train(model, job, training, folder, seed=seed)
    return model.eval()
