"""A file or folder of the user's that a life was learnt from and that is gone: the life serves from its artifact.

Drift is watched all the same. A text's retraining learns from requests and from what was prepared of the text, and goes
on; a task's needs the data beside the truths, and waits until they are back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oliveira.console.flow import BASE_FLOW, FLOW, TASK_FLOW
from oliveira.data.folder import place_of
from oliveira.data.own_names import place_in
from oliveira.data.sources import PATH
from oliveira.ledger import Ledger
from oliveira.world import World


def gone(world: World) -> Path | None:
    """The first that is not there; None where all are, or none is the user's own."""
    if world.task.name:
        places = [place for place in (place_in(world.task.name),) if place is not None]
    else:
        specs = (world.data.base, world.data.new, world.base.name)
        places = [place_of(spec.removeprefix(PATH))[0] for spec in specs if spec.startswith(PATH)]
    return next((place for place in places if not place.exists()), None)


def gone_in(home: Path) -> str:
    """What there is to say of it of the world in force; "" for nothing."""
    try:
        world = World.model_validate_json((home / "world.json").read_bytes())
    except (OSError, ValueError):  # before the first start, or of another version
        return ""
    place = gone(world)
    return gone_line(world, place) if place else ""


def gone_line(world: World, place: Path) -> str:
    if world.task.name:
        return (
            f"{place} is gone: what was learnt from it is served and watched, and retraining waits for it. Put it back "
            "there; --life NAME with --task and --data learns from another beside it"
        )
    if str(place) in world.base.name:
        return f"{place} is gone: what began with it is served, watched and retrained. Put it back there"
    return (
        f"{place} is gone: what was learnt from it is served, watched and retrained. Put it back there, or learn anew "
        "from another with --text"
    )


def serves_without(ledger: Ledger, world: World, in_force: dict[str, Any]) -> bool:
    """Whether every stage of this life is done, from the same data, and a champion is there."""
    done = {row.name for row in ledger.stages() if row.state == "done"}
    same = world.task.name == in_force["task"]["name"] and all(
        getattr(world.data, name) == in_force["data"][name] for name in ("base", "new")
    )
    same = same and world.base.name == in_force["base"]["name"]
    flow = TASK_FLOW if world.task.name else BASE_FLOW if world.base.name else FLOW
    return same and done.issuperset(flow) and ledger.alias("champion") is not None


def kept_plan(world: World, in_force: dict[str, Any], remembered: dict[str, Any]) -> World:
    """`world` with what was planned for the data when they were there; what a person changed since is changed."""
    return World.model_validate(_kept(world.model_dump(), remembered, in_force))


def _kept(now: Any, then: Any, planned: Any) -> Any:
    if isinstance(now, dict) and isinstance(then, dict) and isinstance(planned, dict):
        return {key: _kept(value, then.get(key), planned.get(key, value)) for key, value in now.items()}
    return planned if now == then else now


def recorded_inputs(ledger: Ledger, stage: str, config: dict[str, Any]) -> dict[str, str] | None:
    """Digests that the finished stage of this config was made from: of the life in force, else of the last one."""
    known = [*ledger.life(), *sorted(ledger.stages(), key=lambda row: -(row.finished or 0.0))]
    wanted = json.loads(json.dumps(config))
    return next((row.inputs for row in known if (row.name, row.state, row.config) == (stage, "done", wanted)), None)
