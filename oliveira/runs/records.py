"""Finished runs on disk: what one holds, and how one is found by the words TASK/MODEL."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from oliveira import artifact
from oliveira.errors import CorruptError, UserError
from oliveira.tasks.catalogue import place_of

# What is read of a finished run's record, and of what kind it is.
RECORD: dict[str, Any] = {
    **dict.fromkeys(("task", "model", "budget", "device"), str),
    **dict.fromkeys(("steps", "flops_per_step", "parameters"), int),
    **dict.fromkeys(("config", "train", "metric", "validation", "test", "baselines", "fit"), dict),
    "seconds": (int, float),
}


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    result: dict[str, Any]

    @property
    def metric(self) -> float:
        """The task's metric on the test split."""
        return float(self.result["metric"]["value"])

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.result["test"])

    def load(self) -> nn.Module:
        """The trained model in `eval` mode, every byte verified."""
        return artifact.open_artifact(self.folder / "artifact").load_model()


def open_run(folder: Path) -> Run:
    """A finished run by its folder. `CorruptError` when its record is not what `fit` writes."""
    return Run(folder, read_record(folder / "run.json", RECORD))


def read_record(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """A JSON file of a run's folder that holds these fields; numbers are finite."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError("no JSON object")
        wrong = [name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
        if wrong:
            raise TypeError(f"{wrong[0]} is missing or wrong")
        if "metric" in fields:
            _numbers(found["test"] | found["baselines"] | {"value": found["metric"].get("value")})
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise CorruptError(
            f"{path} is damaged ({reason}). Train it anew: `oliveira train` with --fresh, or remove {path.parent}."
        ) from None
    return found


def _numbers(values: dict[str, Any]) -> None:
    wrong = [key for key, value in values.items() if not isinstance(value, int | float)]
    if wrong:
        raise TypeError(f"{wrong[0]} is no number")


def find_run(home: Path, name: str, *, fresh: bool = False) -> Path:
    """The folder of a finished run that kept its weights: a path, or TASK/MODEL for the newest such run of the two.

    Runs of `compare` are measured and keep none; they are passed over. `fresh`: so are those that started from another.
    """
    if (Path(name) / "run.json").is_file():
        if not (Path(name) / "artifact").is_dir():
            raise UserError(f"run {name} was measured by `compare` and kept no weights. {_how_to_train(Path(name))}")
        return Path(name)
    task_name, _, model = name.rpartition("/")
    folder, wanted = place_of(task_name)
    place = home / "runs" / folder / model
    runs = sorted(place.glob("*/run.json"), key=lambda path: path.stat().st_mtime) if model else []
    if wanted:
        records = {path: _record(path) for path in runs}
        runs = [path for path, record in records.items() if record and record["task"] == wanted]
        if not runs and (damaged := [path for path, record in records.items() if record is None]):
            open_run(damaged[-1].parent)  # says so
    if fresh:
        runs = [path for path in runs if "start" not in (_record(path) or {})]
    kept = [path.parent for path in runs if (path.parent / "artifact").is_dir()]
    if runs and not kept:
        raise UserError(
            f"run {name!r} in {home} was only measured by `compare`, which keeps no weights. "
            f"{_how_to_train(runs[-1].parent)}"
        )
    if not kept:
        there = sorted(
            f"{made['task']}/{path.parent.parent.name}"
            for path in (home / "runs").glob("*/*/*/run.json")
            if (path.parent / "artifact").is_dir() and (made := _record(path))
        )
        known = f"Runs here: {', '.join(dict.fromkeys(there))}." if there else "There is no run yet."
        raise UserError(f"run {name!r} is not in {home}. {known} Train one with `oliveira train TASK MODEL`.")
    return kept[-1]


def _record(path: Path) -> dict[str, Any] | None:
    """What a run's run.json holds; None if it is damaged."""
    with contextlib.suppress(CorruptError):
        return open_run(path.parent).result
    return None


def _how_to_train(folder: Path) -> str:
    made = open_run(folder).result
    return f"Train it with `oliveira train {shlex.quote(made['task'])} {made['model']}`."
