"""What the operator's page shows, as one JSON value read from the ledger. No HTTP here and no tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oliveira import __version__
from oliveira.console.flow import flow_of, task_of
from oliveira.ledger import ArtifactRow, Ledger, StageRow

NEWEST = 50  # decisions and events shown
RUNS = ARTIFACTS = 20

ServingState = Callable[[], dict[str, Any]]


def state_snapshot(ledger: Ledger, home: Path, serving_state: ServingState) -> dict[str, Any]:
    """Everything the page needs to draw itself, ready for JSON: a number that is not finite becomes null.

    `stages` are in the order of the loop, each by its latest row; a stage that never ran is `waiting`.
    `decisions`, `events`, `runs` and `artifacts` are newest first and bounded; aliased artifacts never fall out.
    """
    aliases = ledger.aliases()
    runs = ledger.runs()[::-1][:RUNS]
    return finite(
        {
            "version": __version__,
            "time": ledger.clock(),
            "world": _world(home),
            "stages": _stages(home, ledger.life(), runs),
            "aliases": aliases,
            "artifacts": _artifacts(ledger.artifacts(), set(aliases.values())),
            "decisions": [dataclasses.asdict(decision) for decision in ledger.decisions(NEWEST)],
            "gauges": gauges(ledger),
            "events": ledger.latest_events(NEWEST),
            "wishes": [dataclasses.asdict(wish) for wish in ledger.pending_wishes()],
            "paused": bool(ledger.setting("paused", False)),
            "runs": [_run(run) for run in runs],
            "serving": serving_state(),
        }
    )


def gauges(ledger: Ledger) -> list[dict[str, Any]]:
    names = ("name", "labels", "value", "time")
    return [dict(zip(names, row, strict=True)) for row in ledger.gauges()]


def finite(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _world(home: Path) -> dict[str, Any] | None:
    """The world in force; None before the first `oliveira up` has written it."""
    try:
        world = json.loads((home / "world.json").read_bytes())
        shown = {"name": world["name"], "seed": world["seed"], "gate": world["gate"], "task": task_of(home) or None}
        if shown["task"]:  # data, model and train are of text lives
            own = {"model": {"name": world["task"]["model"]}, "steps": None, "sources": {"base": "", "new": ""}}
        else:
            own = {"model": world["model"], "steps": world["train"]["steps"]}
            own["sources"] = {name: world["data"][name] for name in ("base", "new")}
        return shown | own
    except (OSError, ValueError, KeyError, TypeError):  # or of an older version
        return None


def _stages(home: Path, rows: list[StageRow], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    latest = {row.name: _stage(row) for row in rows}  # rows are oldest first
    if "update" not in latest and (run := next((run for run in runs if run["kind"] == "update"), None)):
        latest["update"] = _stage_of_run(run)
    names = (*flow_of(home), "update")
    return [latest.get(name, {"name": name, "state": "waiting", "outputs": {}}) for name in names]


def _stage(row: StageRow) -> dict[str, Any]:
    shown = ("name", "state", "digest", "outputs", "message", "started", "finished", "seconds", "attempts")
    return {name: getattr(row, name) for name in shown}


def _stage_of_run(run: dict[str, Any]) -> dict[str, Any]:
    """Continuous update has no stage row of its own: its newest run stands for it."""
    seconds = None if run["finished"] is None else run["finished"] - run["started"]
    times = {"started": run["started"], "finished": run["finished"], "seconds": seconds}
    return {"name": "update", "state": run["state"], "outputs": run["metrics"], **times}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ("id", "kind", "state", "started", "finished", "metrics")}


def _artifacts(rows: list[ArtifactRow], aliased: set[str]) -> list[dict[str, Any]]:
    newest_first = rows[::-1]
    kept = newest_first[:ARTIFACTS] + [row for row in newest_first[ARTIFACTS:] if row.digest in aliased]
    shown = ("digest", "kind", "created", "metrics", "lineage")
    return [{name: getattr(row, name) for name in shown} for row in kept]
