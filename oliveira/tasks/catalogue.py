"""All tasks by name, and which models fit which: every module of this room that has `TASKS` adds to it."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import oliveira.tasks
from oliveira.errors import UserError
from oliveira.registry import Entry, entries, entry
from oliveira.tasks.base import Task
from oliveira.tasks.own import is_own, resolve


@cache
def tasks() -> dict[str, Task]:
    found: dict[str, Task] = {}
    for module in iter_modules(oliveira.tasks.__path__, f"{oliveira.tasks.__name__}."):
        for task in getattr(import_module(module.name), "TASKS", ()):
            found[task.name] = task
    return dict(sorted(found.items()))


def task(name: str) -> Task:
    """By its name, or made of a user's own file: `kind/path:FILE`."""
    if is_own(name):
        return resolve(name)
    if name not in tasks():
        near = difflib.get_close_matches(name, tasks(), n=3, cutoff=0.4) or list(tasks())
        raise UserError(f"task {name!r} is not known. Did you mean {', '.join(near)}?")
    return tasks()[name]


def with_options(name: str, **options: Any) -> str:
    """The name of a user's own task with these options in it, those that are not empty. Other tasks take none."""
    if is_own(name):
        return resolve(name, **options).name if any(options.values()) else name
    for option, value in options.items():
        if value:
            raise UserError(f"--{option} has no effect on {name}: only a table of your own takes it. Leave it out.")
    return name


def place_of(name: str) -> tuple[str, str]:
    """The folder of a task's runs, and the one task that is meant, "" where any in it is: a user's file has several,
    of which a name without options means the newest."""
    if not is_own(name):
        return name.replace("/", "-"), ""
    found = resolve(name)
    return found.folder, found.name if found.options else ""


def fitting(wanted: Task) -> list[Entry]:
    """The models that run on a task."""
    return [found for found in entries() if found.fits(wanted.eats, wanted.gives)]


# Of what a task eats and gives: small, quick to train, and good on most data.
SUITS = {
    ("series", "one"): "gru",
    ("tokens", "one"): "bilstm",
    ("image", "one"): "cnn",
    ("pairs", "next"): "transformer",
}


def suits(wanted: Task) -> str:
    """The model to begin with; "" where none is known."""
    return SUITS.get((wanted.eats, wanted.gives), "")


def pair(task_name: str, model_name: str) -> tuple[Task, Entry]:
    """Both by name. Raises `UserError` with the models that fit when these two do not."""
    wanted, found = task(task_name), entry(model_name)
    if not found.fits(wanted.eats, wanted.gives):
        wanted.check()  # of data that are not there nobody knows what they are
        names = ", ".join(fit.name for fit in fitting(wanted)) or "none yet"
        raise UserError(
            f"{model_name} does not fit {task_name}, which eats {wanted.eats} and gives {wanted.gives}. "
            f"Models that do: {names}."
        )
    return wanted, found
