"""Oliveira: a model's whole life in one Python program.

import oliveira
run = oliveira.fit("forecast/power", model="lstm")     # "gru", "mlp", "mamba": nothing else changes
model = oliveira.create("gpt", vocab_size=4096)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["compare", "create", "describe", "fit", "list_models", "list_tasks", "load", "save"]

_HOMES = {
    "fit": "oliveira.runs.run",
    "compare": "oliveira.study.comparison",
    "create": "oliveira.registry",
    "describe": "oliveira.study.inspection",
    "list_models": "oliveira.library",
    "list_tasks": "oliveira.library",
    "load": "oliveira.library",
    "save": "oliveira.library",
}


def __getattr__(name: str) -> Any:
    """Torch is imported when it is needed: the front must start without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'oliveira' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
