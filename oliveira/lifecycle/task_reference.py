"""What the live requests of a task are compared with: held-out requests, answered by the model that will serve."""

from __future__ import annotations

from typing import Any

from oliveira.errors import UserError
from oliveira.monitoring.features import build_feature_reference
from oliveira.tasks.base import Data, Run, Split, Task
from oliveira.world import World

MAX_REQUESTS = 600
SMALLEST_WINDOW = 20


def held_out_samples(task: Task, data: Data, state: dict[str, Any], run: Run) -> list[dict[str, float]]:
    """What `Task.observe` sees in requests of the validation and test splits, and how wrong each answer was."""
    samples = []
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        for request, truth in data.requests(split, MAX_REQUESTS // 2):
            answer = task.answer(state, run, request)
            seen = task.observe(state, request, answer)
            samples.append(seen | {"error": task.error(state, request, answer, truth)})
    return samples


def task_reference(samples: list[dict[str, float]], world: World) -> tuple[dict[str, Any] | None, str]:
    """The reference of the widest window that so few requests allow, at most `monitor.requests`; or None and why."""
    if not samples:
        return None, "this task says nothing of its requests that drift could be seen by"
    section, why = world.monitor, ""
    window = section.requests
    while window >= SMALLEST_WINDOW:
        try:
            found = build_feature_reference(
                samples, window=window, alpha=section.alpha, confirm=section.confirm, seed=world.seed
            )
            return found, ""
        except UserError as error:
            why, window = str(error), window // 2
    return None, why
