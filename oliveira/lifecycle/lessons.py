"""What one retraining learns from and how it is judged: of text (`text_lesson`) or of a task (`task_lesson`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import nn

from oliveira.training.loop import Progress


class Judged(NamedTuple):
    passed: bool
    numbers: dict[str, Any]  # of the gate
    parts: dict[str, Any]  # arguments of `artifact.write` that are not the update's own


class Lesson(Protocol):
    """Made when a retraining begins; `OliveiraError` when too little came back to learn from."""

    keeps_bits: bool  # weights in 4 bits stay so while it learns; else they are float32 meanwhile
    identity: Any  # JSON: what is learnt, so that a retraining that was killed is found again
    origin: dict[str, Any]  # whose it is, and of when: keys, first, last
    amount: dict[str, Any]  # how much that is, for the decision's numbers

    def train(
        self,
        model: nn.Module,
        folder: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Teaches the champion's copy `model` in place, going on from a checkpoint in `folder`."""

    def judge(self, champion: nn.Module, challenger: nn.Module, folder: Path, name: str) -> Judged:
        """The gate's verdict on old and new data. `folder`: where the artifact called `name` will stand."""
