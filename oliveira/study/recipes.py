"""Published numbers: `recipes/NAME.toml` says how one is made, `results/NAME.json` what came out (`reproduction`).

A recipe names a task, a model, a budget, sizes and seeds (or a whole world, `world_recipe`). Its result carries the
command, a clean commit, digests of the files that had a say (`provenance`), the first losses of its first seed, the
machine, minutes, every metric of the test split, the levels that need no learning, and a band: where another
machine's mean should fall.
"""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Sequence
from typing import Any

from oliveira.errors import UserError
from oliveira.study.provenance import ROOT, differing, files_of, is_clean

RECIPES, RESULTS = ROOT / "recipes", ROOT / "results"
SIGMAS = 3.0  # of the seeds, to either side of their mean: the band
FLOOR = 1e-3  # of the mean: the least half width, where the seeds agree to the last digit
LONE = 1e-2  # of the value: the half width where there is one seed and no spread to go by


def names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    if name not in names():
        raise UserError(f"recipe {name!r} is unknown. Choose one of: {', '.join(names())}.")
    return tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))


def stored(name: str) -> dict[str, Any] | None:
    """The published result of a recipe."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def results_by_model() -> dict[str, list[dict[str, Any]]]:
    """Every published result, by the model that it is of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names():
        if (result := stored(name)) is not None:
            found.setdefault(result.get("model", load(name).get("model", "gpt")), []).append(result)
    return found


def is_verified(result: dict[str, Any]) -> bool:
    """Whether it can be told that a result is of the code at hand: a clean commit, digests and losses."""
    return bool(result.get("files") and result.get("losses")) and is_clean(result.get("commit", "unknown"))


def changes(name: str) -> list[str]:
    """What has changed since a verified result was made, in words."""
    result = stored(name)
    return differing(result["files"], files_of(load(name))) if result else []


def measured(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and band of one number's values over the seeds."""
    mean = statistics.mean(values)
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    half = max(SIGMAS * std, FLOOR * abs(mean)) if len(values) > 1 else LONE * abs(mean)
    return {"values": list(values), "mean": mean, "std": std, "band": [mean - half, mean + half]}


def verdicts(
    mean: float, *, higher: bool, expect: dict[str, float], baselines: dict[str, float]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """`met`: each level that the recipe expects. `beats`: each level that needs no learning."""
    met = {key: mean >= level if key == "at_least" else mean <= level for key, level in expect.items()}
    beats = {key: mean > level if higher else mean < level for key, level in baselines.items()}
    return met, beats


def inside(result: dict[str, Any], mean: float) -> bool:
    """Whether a mean falls into the band of a published result."""
    low, high = result["metric"]["band"]
    return bool(low <= mean <= high)
