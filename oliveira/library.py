"""What a Python user calls by name: which models and tasks there are; a model to a folder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from oliveira import artifact
from oliveira.errors import UserError
from oliveira.registry import entries
from oliveira.tasks.catalogue import fitting, task, tasks


def list_models(task_name: str = "") -> list[str]:
    """Names of all models, or of those that fit a task."""
    return [found.name for found in (fitting(task(task_name)) if task_name else entries())]


def list_tasks() -> list[str]:
    return list(tasks())


def save(model: nn.Module, folder: str | Path) -> Path:
    """Writes weights and config with their sha256; `load` gives the same bits back.

    Raises `UserError` when the model is not one of the catalogue or the folder is taken.
    """
    folder = Path(folder).absolute()
    names = [found.name for found in entries() if type(model) is found.model]
    if not names:
        raise UserError(f"a {type(model).__name__} is not a model of the catalogue. `oliveira list` shows them.")
    if folder.exists():
        raise UserError(f"{folder} is there already. Choose another folder.")
    lineage: dict[str, Any] = {}
    return artifact.write(folder, model=model, name=names[0], lineage=lineage, metrics={}).path


def load(folder: str | Path) -> nn.Module:
    """The model that `save`, `fit` or `up` wrote, in `eval` mode, every byte verified."""
    return artifact.open_artifact(Path(folder).absolute()).load_model()
