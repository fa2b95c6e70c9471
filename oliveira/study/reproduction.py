"""`oliveira reproduce`: run a recipe again, compare with what is stored, store it; replay the first losses of one.

Runs are found again, and go on after a kill, as long as the code is the same: its digest is part of their name. A
result appears last and whole, after its pictures; it names their digests.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from oliveira.errors import Interrupted, OliveiraError
from oliveira.process.progress import Reporter
from oliveira.runs.records import Run
from oliveira.runs.run import fit
from oliveira.study import recipes
from oliveira.study.figures import EXPECTED
from oliveira.study.publication import LOSSES, THREADS, Origin, first_losses, publish, show
from oliveira.study.world_recipe import reproduce_world, train_world
from oliveira.training.curves import draw_seeds

TOLERANCE = 1e-3  # of a loss

Stop = Callable[[], bool]


def reproduce(name: str, home: Path, *, write: bool, should_stop: Stop = lambda: False) -> dict[str, Any]:
    """Runs a recipe and prints ours now, stored and paper; stores the result when asked to."""
    recipe = recipes.load(name)
    if "world" in recipe:
        return reproduce_world(name, recipe, home, write=write, should_stop=should_stop)
    origin = Origin(name, write=write)
    console = Console(highlight=False, soft_wrap=True)
    runs: list[Run] = []
    with Reporter(console=console) as report:
        report.begin(name)
        for number, seed in enumerate(recipe["seeds"]):
            share = (number, len(recipe["seeds"]))
            runs.append(_fit(recipe, seed, share, home / "recipes", report, should_stop, origin.code))
    result = result_of(name, recipe, runs) | origin.fields()
    show(console, result, recipes.stored(name))
    if write:
        publish(name, result, lambda folder: _draw(folder, recipe, runs, result))
    return result


def _fit(
    recipe: dict[str, Any],
    seed: int,
    share: tuple[int, int],
    home: Path,
    report: Reporter,
    should_stop: Stop,
    code: str,
) -> Run:
    number, count = share
    return fit(
        recipe["task"],
        model=recipe["model"],
        seed=seed,
        budget=recipe["budget"],
        home=home,
        say=report.say,
        on_progress=lambda p: report.progress((number + p.step / p.steps) / count, f"seed {seed} loss {p.loss:.4f}"),
        should_stop=should_stop,
        code=code,
        **_values(recipe),
    )


def _values(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"threads": THREADS, **recipe.get("config", {}), **recipe.get("train", {})}


def result_of(name: str, recipe: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    """The result of a recipe's runs, one a seed, in the order of the seeds."""
    first = runs[0].result
    metric = first["metric"] | recipes.measured([run.metric for run in runs])
    over_seeds = {key: [run.result["test"][key] for run in runs] for key in first["test"]}
    expect = recipe.get("expect", {})
    met, beats = recipes.verdicts(
        metric["mean"], higher=metric["better"] == "higher", expect=expect, baselines=first["baselines"]
    )
    return {
        "recipe": name,
        "command": f"oliveira reproduce {name}",
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
        "metric": metric | {"value": metric["mean"]},
        "test": {key: statistics.mean(values) for key, values in over_seeds.items()},
        "test_std": {key: recipes.measured(values)["std"] for key, values in over_seeds.items()},
        "validation": {
            key: statistics.mean(run.result["validation"][key] for run in runs) for key in first["validation"]
        },
        "baselines": first["baselines"],
        "beats": beats,
        "paper": recipe.get("paper", {}),
        "expect": expect,
        "met": met,
        "counts": first["counts"],
        "licence": first["licence"],
        "losses": first_losses(runs[0].folder / "curve.jsonl"),
    }


def _draw(folder: Path, recipe: dict[str, Any], runs: list[Run], result: dict[str, Any]) -> dict[str, str]:
    draw_seeds(
        [run.folder / "curve.jsonl" for run in runs],
        folder / "curve.png",
        title=recipe["title"],
        metric=f"validation_{result['metric']['name']}",
        lines=result["baselines"],
    )
    files = {".png": "curve.png"}
    if (picture := runs[0].folder / "picture.png").exists():
        shutil.copyfile(picture, folder / "picture.png")
        files["-picture.png"] = "picture.png"
    return files


def complaints(result: dict[str, Any], published: dict[str, Any] | None) -> list[str]:
    """What is not as published or not as the recipe expects, in words."""
    name, mean = result["recipe"], result["metric"]["mean"]
    said = [
        f"{name}: {result['metric']['name']} {mean:.4g} is not {EXPECTED.get(key, key)} {result['expect'][key]:.4g}"
        for key, met in result["met"].items()
        if not met
    ]
    if published and "band" in published["metric"] and not recipes.inside(published, mean):
        low, high = published["metric"]["band"]
        said.append(f"{name}: {result['metric']['name']} {mean:.4g} is outside the stored band {low:.4g} … {high:.4g}")
    return said


class Missed(OliveiraError):
    """A number is not as it was published, or not as its recipe expects."""


def reproduce_all(
    wanted: list[str], home: Path, *, write: bool, stale: bool = False, should_stop: Stop = lambda: False
) -> None:
    """Runs these recipes, the quickest first; raises `Missed` at the end naming all that is not as it should be.

    `stale`: only those whose result is missing, unverified, or of code that gives other losses. Several processes may
    share the work from homes of their own: a recipe that one of them holds is left to it.
    """
    missed, left = [], []
    for name in sorted(wanted, key=_minutes):
        with _held(name) as mine:
            if not mine:
                left.append(name)
                continue
            if stale and not (why := reason(name, home, should_stop)):
                continue
            if stale:
                print(f"{name}: {why}", flush=True)
            published = None if write else recipes.stored(name)  # what is written anew is its own measure
            try:
                missed += complaints(reproduce(name, home, write=write, should_stop=should_stop), published)
            except Interrupted:
                raise
            except OliveiraError as error:
                if len(wanted) == 1:
                    raise
                missed.append(f"{name}: {error}")
    if left:
        print(f"left to another process: {', '.join(left)}")
    if missed:
        raise Missed("; ".join(missed) + ".")


def _minutes(name: str) -> float:
    return float((recipes.stored(name) or {}).get("minutes", math.inf))


def reason(name: str, home: Path, should_stop: Stop = lambda: False) -> str:
    """Why a recipe is to be run again; empty when its result is of the code at hand."""
    if (result := recipes.stored(name)) is None:
        return "there is no result yet"
    if not recipes.is_verified(result):
        return f"its result (commit {result['commit']}) cannot be verified"
    if not (changed := recipes.changes(name)):
        return ""
    print(f"{name}: replaying {len(result['losses'])} steps, since {', '.join(changed[:3])} changed", flush=True)
    return disagreement(name, result["losses"], replay(name, home / "recipes", should_stop))


@contextlib.contextmanager
def _held(name: str) -> Iterator[bool]:
    """True for one process at a time a recipe; the lock is on the recipe's own file and goes with the process."""
    path = recipes.RECIPES / f"{name}.toml"
    if not path.exists():
        yield True  # `load` says what is wrong
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def replay(name: str, home: Path, should_stop: Stop = lambda: False) -> list[float]:
    """The first losses of a recipe's first seed, from scratch. Data are looked for in `home`; nothing else is kept."""
    recipe, losses = recipes.load(name), list[float]()
    (home / "cache").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="oliveira-replay-") as scratch:
        (Path(scratch) / "cache").symlink_to((home / "cache").absolute())

        def step(loss: float) -> None:
            losses.append(loss)

        if "world" in recipe:
            train_world(recipe, Path(scratch), step, lambda: len(losses) >= LOSSES or should_stop())
        else:
            with contextlib.suppress(Interrupted):
                fit(
                    recipe["task"],
                    model=recipe["model"],
                    seed=recipe["seeds"][0],
                    budget=recipe["budget"],
                    home=scratch,
                    on_progress=lambda p: step(p.loss),
                    should_stop=lambda: len(losses) >= LOSSES or should_stop(),
                    package=False,
                    **_values(recipe),
                )
    if len(losses) < LOSSES and should_stop():
        raise Interrupted(f"stopped while replaying {name}.")
    return losses[:LOSSES]


def disagreement(name: str, then: list[float], now: list[float]) -> str:
    """Where the losses part, with the remedy; empty when they are the same to `TOLERANCE`."""
    for step, (old, new) in enumerate(zip(then, now, strict=True), start=1):
        if not abs(new - old) <= TOLERANCE * abs(old):
            return (
                f"{name} is stale: the loss of step {step} was {old:.6g} and is {new:.6g}. "
                f"Run `oliveira reproduce {name} --write`."
            )
    return ""
