"""What a task's life will train, and whether it can, before any work."""

from __future__ import annotations

from oliveira.errors import UserError
from oliveira.registry import entry
from oliveira.runs import parse_budget, section_for, split_values
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
    _, train_values = split_values(found, section.values)
    section_for(wanted, found, train_values, steps=1)
    wanted.check()
