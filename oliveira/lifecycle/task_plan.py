"""What a task's life will train, and whether it can, before any work."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from oliveira.adaptation.lora import add_lora
from oliveira.errors import UserError
from oliveira.registry import Entry, create, entry
from oliveira.runs.run import parse_budget, section_for, split_values
from oliveira.tasks.base import Task
from oliveira.tasks.catalogue import fitting, pair, suits, task
from oliveira.world import TaskSection, World


def chosen_model(section: TaskSection) -> str:
    """The model's name, or the one that suits the task. `UserError` when they do not fit."""
    if section.model:
        pair(section.name, section.model)
        return section.model
    wanted = task(section.name)
    names = [fit.name for fit in fitting(wanted)]
    if not names:
        raise UserError(f"no model of the catalogue fits {section.name}. `oliveira list` shows what fits what.")
    return suits(wanted) if suits(wanted) in names else names[0]


def check_task(world: World) -> None:
    """Raises `UserError` for a task, a model, a value, a budget or a file that will not do."""
    section = world.task
    wanted, found = task(section.name), entry(chosen_model(section))
    parse_budget(section.budget or "steps=1")
    config_values, train_values = split_values(found, section.values)
    section_for(wanted, found, train_values, steps=1)
    if world.update.method == "lora":
        _check_lora(wanted, found, config_values, world.adapt.targets)
    wanted.check()


def _check_lora(wanted: Task, found: Entry, values: dict[str, Any], targets: list[str]) -> None:
    """Raises `UserError` where the model has no layer for it, or none of these names, whatever the data."""
    form = (wanted.eats, wanted.gives)
    suits = {key: value for key, value in wanted.model.items() if key in {f.name for f in fields(found.config)}}
    try:
        model = create(found.name, gives=wanted.gives, **{**suits, **found.sizes(form), **values})
    except (UserError, ValueError):
        return  # a value that needs the sizes of the data: the training says it
    add_lora(model, 1, 1.0, targets or None)
