"""Prompts are private: whether they are kept is asked at the first start, and `oliveira status` says it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oliveira.lifecycle.remembered import IN_FORCE, Chosen, is_new

FIELD = "serve.keep_traffic"
QUESTION = (
    "Keep the {} that clients send, in home {}? Drift and retraining need them; `oliveira forget` deletes a key's."
)


def ask_recording(home: Path, chosen: Chosen, confirm: Callable[[str], bool]) -> Chosen:
    """Asks in a home in which nothing was learnt yet, unless the world, the environment or --set say it."""
    if not is_new(home) or FIELD in chosen.explicit:
        return chosen
    keep = confirm(QUESTION.format(_what(chosen.world.task.name), home))
    serve = chosen.world.serve.model_copy(update={"keep_traffic": keep})
    world = chosen.world.model_copy(update={"serve": serve})
    return dataclasses.replace(chosen, world=world, explicit=chosen.explicit | {FIELD})


def _what(task: str) -> str:
    return "requests" if task else "prompts"


def recording(home: Path) -> dict[str, Any] | None:
    """What the world in force says of it; None before there is one."""
    try:
        world = json.loads((home / IN_FORCE).read_bytes())
        names = ("keep_traffic", "traffic_megabytes", "traffic_days")
        kept = {name: world["serve"].get(name, 0) for name in names}
        return {"what": _what(world.get("task", {}).get("name", "")), **kept}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def recording_line(kept: dict[str, Any]) -> str:
    if not kept["keep_traffic"]:
        return f"no {kept['what']} are kept: no drift is seen and nothing is learnt from them"
    size = f"{kept['what']} are kept, at most {kept['traffic_megabytes']} MiB"
    return f"{size} and {kept['traffic_days']:g} days" if kept["traffic_days"] else size
