"""Published numbers that anyone can have again: `recipes/NAME.toml` → `results/NAME.json` and its curve.

A recipe names a task, a model, a budget, sizes and seeds (or a whole world, `world_recipe`). Its result carries the
command, commit, seeds, machine, minutes, metric, the levels that need no learning, and a band: mean ± 3 standard
deviations over the seeds, where another machine's mean should fall.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.lifecycle.progress import Reporter
from oliveira.runs import Run, fit
from oliveira.training.curves import draw_seeds

ROOT = Path(__file__).parent.parent
RECIPES, RESULTS = ROOT / "recipes", ROOT / "results"


def names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    if name not in names():
        raise UserError(f"recipe {name!r} is unknown. Choose one of: {', '.join(names())}.")
    return tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))


def results_by_model() -> dict[str, list[dict[str, Any]]]:
    """Every published result, by the model that it is of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names():
        if (result := stored(name)) is not None:
            found.setdefault(result.get("model", load(name).get("model", "gpt")), []).append(result)
    return found


def stored(name: str) -> dict[str, Any] | None:
    """The published result of a recipe."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def commit() -> str:
    """What is checked out, "-dirty" when a file of the program or a recipe differs."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "oliveira", "recipes", "pyproject.toml")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def reproduce(name: str, home: Path, *, write: bool, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Runs a recipe and prints ours now, stored and paper; stores the result when asked to. `list` and `all` work."""
    console = Console(highlight=False, soft_wrap=True)
    if name == "list":
        for known in names():
            found = stored(known)
            value = f"{found['metric']['mean']:.4g} {found['metric']['name']}" if found else "no result yet"
            console.print(f"{known:<28} {value:<28} {load(known)['title']}", markup=False)
        return {}
    if name == "all":
        return {known: reproduce(known, home, write=write, should_stop=should_stop) for known in names()}
    recipe = load(name)
    if "world" in recipe:
        from oliveira.world_recipe import reproduce_world

        return reproduce_world(name, recipe, home, write=write)
    runs = []
    with Reporter(console=console) as report:
        report.begin(name)
        for number, seed in enumerate(recipe["seeds"]):
            runs.append(_fit(recipe, seed, number, home / "recipes", report, should_stop))
    result = _result(name, recipe, runs)
    _show(console, result, stored(name))
    if write:
        write_json_atomic(RESULTS / f"{name}.json", result)
        metric = result["metric"]
        draw_seeds(
            [run.folder / "curve.jsonl" for run in runs],
            RESULTS / f"{name}.png",
            title=recipe["title"],
            metric=f"validation_{metric['name']}",
            lines=result["baselines"],
        )
        if (picture := runs[0].folder / "picture.png").exists():
            shutil.copyfile(picture, RESULTS / f"{name}-picture.png")
    return result


def _fit(
    recipe: dict[str, Any],
    seed: int,
    number: int,
    home: Path,
    report: Reporter,
    should_stop: Callable[[], bool],
) -> Run:
    count = len(recipe["seeds"])
    return fit(
        recipe["task"],
        model=recipe["model"],
        seed=seed,
        budget=recipe["budget"],
        home=home,
        say=report.say,
        on_progress=lambda p: report.progress((number + p.step / p.steps) / count, f"seed {seed} loss {p.loss:.4f}"),
        should_stop=should_stop,
        **recipe.get("config", {}),
        **recipe.get("train", {}),
    )


def _result(name: str, recipe: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    first, values = runs[0].result, [run.metric for run in runs]
    mean, std = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    higher = first["metric"]["better"] == "higher"
    expect = recipe.get("expect", {})
    met = {key: mean >= level if key == "at_least" else mean <= level for key, level in expect.items()}
    return {
        "recipe": name,
        "command": f"oliveira reproduce {name}",
        "commit": commit(),
        "title": recipe["title"],
        "task": recipe["task"],
        "model": recipe["model"],
        "budget": recipe["budget"],
        "config": first["config"],
        "train": first["train"],
        "seeds": recipe["seeds"],
        "device": first["device"],
        "minutes": round(sum(run.result["seconds"] for run in runs) / 60, 2),
        "steps": first["steps"],
        "parameters": first["parameters"],
        "flops_per_step": first["flops_per_step"],
        "metric": {
            **first["metric"],
            "values": values,
            "mean": mean,
            "std": std,
            "band": [mean - 3 * std, mean + 3 * std],
        }
        | {"value": mean},
        "test": {key: statistics.mean(run.result["test"][key] for run in runs) for key in first["test"]},
        "baselines": first["baselines"],
        "beats": {key: (mean > level) == higher for key, level in first["baselines"].items()},
        "paper": recipe.get("paper", {}),
        "expect": expect,
        "met": met,
        "counts": first["counts"],
        "licence": first["licence"],
    }


def _show(console: Console, result: dict[str, Any], published: dict[str, Any] | None) -> None:
    metric = result["metric"]
    table = Table(result["recipe"], f"{metric['name']} ({metric['better']} is better)")
    table.add_row("ours now", f"{metric['mean']:.4f} ± {metric['std']:.4f}", style="bold")
    if published:
        low, high = published["metric"]["band"]
        inside = "inside" if low <= metric["mean"] <= high else "OUTSIDE"
        table.add_row("stored", f"{published['metric']['mean']:.4f} ({inside} its band {low:.4f} … {high:.4f})")
    if result["paper"]:
        table.add_row(f"paper: {result['paper']['source']}", str(result["paper"]["value"]))
    for name, value in result["baselines"].items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    for key, met in result["met"].items():
        console.print(f"expected {key.replace('_', ' ')} {result['expect'][key]}: {'met' if met else 'NOT MET'}")
