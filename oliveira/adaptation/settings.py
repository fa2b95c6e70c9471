"""Settings of LoRA."""

from __future__ import annotations

from pydantic import (
    Field,
)

from oliveira.settings import Section
from oliveira.training.settings import TrainSection


class AdaptSection(Section):
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: list[str] = Field(
        default=[],
        description="linear layers by name; empty = of text every one inside the blocks, of a task's model every one",
    )
    steps: int = Field(100, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(2e-3, gt=0)
    replay: float = Field(
        0.5, ge=0, lt=1, description="share of base-domain sequences in each batch, against forgetting"
    )

    def training(self, base: TrainSection, *, steps: int, n_threads: int) -> TrainSection:
        """`base` for a LoRA run: with the batch and rate of this section, and no decay."""
        return base.model_copy(
            update=dict(
                steps=steps,
                batch_size=self.batch_size,
                lr=self.lr,
                warmup_steps=max(1, steps // 10),
                schedule="cosine",
                optimizer="adamw",
                weight_decay=0.0,
                accumulate=1,
                threads=n_threads,
                checkpoint_every=max(1, min(50, steps)),
                evaluate_every=steps,
                sample_every=steps,
            )
        )
