"""Settings of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from oliveira.settings import MOST_THREADS, Section


class TrainSection(Section):
    steps: int = Field(1200, ge=1)
    batch_size: int = Field(16, ge=1, description="sequences a step, before accumulation")
    accumulate: int = Field(1, ge=1, description="micro-batches a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate (cosine); factor (noam)")
    min_lr: float = Field(0.05, ge=0, le=1, description="last learning rate as a share of the peak (cosine)")
    warmup_steps: int = Field(60, ge=1)
    schedule: Literal["cosine", "noam"] = "cosine"
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints: what a kill can cost")
    evaluate_every: int = Field(200, ge=1)
    evaluate_tokens: int = Field(50_000, ge=256, description="validation tokens looked at while training")
    sample_every: int = Field(400, ge=1)
    threads: int = Field(0, ge=0, le=MOST_THREADS, description="0 = all cores")
