"""Measures the feature monitor on real requests of each kind of task and writes what came out.

`python -m benchmarks.drift_features [--home .oliveira] [--windows 10000] [--window 50] [--only forecast/power …]`

A small model is trained on each task; requests of its validation and test splits, answered, observed and judged, are
the held-out samples. False alarms: `measure_feature_false_alarms` on them, and the test split replayed in its own order
against a reference of the validation split. Delay: in requests, from the first that is changed.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from oliveira import terminal
from oliveira.files import write_json_atomic
from oliveira.monitoring.drift_report import table
from oliveira.monitoring.feature_statistics import block_of
from oliveira.monitoring.features import (
    FeatureMonitor,
    build_feature_reference,
    measure_feature_delay,
    measure_feature_false_alarms,
)
from oliveira.processors import processors
from oliveira.runs.run import fit
from oliveira.study.provenance import commit
from oliveira.tasks import catalogue
from oliveira.tasks.scoring import runner

ALPHA, CONFIRM, SPLITS, TRIALS, REQUESTS = 1e-4, 2, 10, 20, 600
MODELS = {
    "forecast/power": ("mlp", "steps=300"),
    "classify/bncc": ("bigru", "steps=150"),
    "classify/told-br": ("bilstm", "steps=200"),
    "classify/digits": ("mlp", "steps=600"),
}
Pair = tuple[dict[str, Any], Any]  # request, truth (None: there is none)
Change = Callable[[list[Pair]], list[Pair]]


def levelled(deviations: float, scale: float, state: dict[str, Any]) -> Change:
    """A household that uses more, or more unevenly."""

    def moved(values: list[float]) -> list[float]:
        shifted = (np.array(values) - state["mean"]) * scale + state["mean"] + deviations * state["std"]
        return [float(value) for value in shifted]

    return lambda pairs: [({**asked, "history": moved(asked["history"])}, moved(truth)) for asked, truth in pairs]


def promised(more: float) -> Change:
    """What comes is no longer what such a week was followed by."""
    return lambda pairs: [(asked, [value + more for value in truth]) for asked, truth in pairs]


def pictured(change: Callable[[Any], Any], brightest: int) -> Change:
    def changed(asked: dict[str, Any]) -> dict[str, Any]:
        return {"image": np.clip(change(np.array(asked["image"], float)), 0, brightest).tolist()}

    return lambda pairs: [(changed(asked), truth) for asked, truth in pairs]


def texts(task: str, home: Path, field: Callable[[Pair], str]) -> Change:
    """Texts of another task; what the truth would be nobody knows."""
    rows = catalogue.task(task).open(home, lambda text: None).requests("test", REQUESTS)
    return lambda pairs: [({"text": field(row)}, None) for row in rows]


def mislabelled(pairs: list[Pair]) -> list[Pair]:
    """The same requests, every third truth another one: the world has changed its mind."""
    truths = [truth for _, truth in pairs]
    turned = truths[7:] + truths[:7]
    return [(asked, turned[n] if n % 3 == 0 else truth) for n, (asked, truth) in enumerate(pairs)]


def changes(name: str, state: dict[str, Any], home: Path) -> dict[str, Change]:
    if name.startswith("forecast/"):
        return {
            "level +2 sigma": levelled(2.0, 1.0, state),
            "spread × 2": levelled(0.0, 2.0, state),
            "truth +1 sigma": promised(state["std"]),
        }
    if "brightest" in state:
        top = state["brightest"]
        return {
            "inverted": pictured(lambda image: top - image, top),
            "brighter by 1/8": pictured(lambda image: image + top / 8, top),
            "a third of the truths": mislabelled,
        }
    other = "classify/told-br" if name == "classify/bncc" else "classify/bncc"
    return {
        other.removeprefix("classify/"): texts(other, home, lambda row: str(row[0]["text"])),
        "English": texts("translate/almeida-web", home, lambda row: str(row[0]["text"])),
        "a third of the truths": mislabelled,
    }


class Requests:
    """What the monitor is given of requests, answered by a small model that is trained here."""

    def __init__(self, name: str, home: Path) -> None:
        model, budget = MODELS[name]
        self.task = catalogue.task(name)
        self.data = self.task.open(home, lambda text: None)
        self.state = self.data.state()
        self.run = runner(fit(name, model=model, budget=budget, home=home).load())

    def observed(self, pairs: list[Pair]) -> list[dict[str, float]]:
        samples = []
        for request, truth in pairs:
            answer = self.task.answer(self.state, self.run, request)
            sample = self.task.observe(self.state, request, answer)
            if truth is not None:
                sample["error"] = self.task.error(self.state, request, answer, truth)
            samples.append(sample)
        return samples


def replayed(known: list[Any], live: list[Any], rule: dict[str, Any]) -> dict[str, int]:
    """The test split in its own order against the validation split: time goes on, and seasons change."""
    monitor = FeatureMonitor(build_feature_reference(known, **rule), **rule)
    alarms = 0
    for sample in live:
        if monitor.update(sample):
            alarms += 1
            monitor.reset()
    return {"windows": monitor.windows, "alarms": alarms}


def measure(name: str, home: Path, n_windows: int, windows: list[int]) -> list[dict[str, Any]]:
    """A row a window size."""
    requests = Requests(name, home)
    validation, test = (requests.data.requests(split, REQUESTS) for split in ("validation", "test"))
    start = time.perf_counter()
    known, live = requests.observed(validation), requests.observed(test)
    seconds = (time.perf_counter() - start) / (len(known) + len(live))
    drifted = {key: requests.observed(change(test)) for key, change in changes(name, requests.state, home).items()}
    rows = []
    for window in windows:
        rule: dict[str, Any] = {"window": window, "alpha": ALPHA, "confirm": CONFIRM}
        samples = known + live
        row = {
            "order": name,
            "window": window,
            "samples": len(samples),
            "block": block_of(samples),
            "answered, observed and judged, ms a request": round(1000 * seconds, 2),
            "false_alarms": measure_feature_false_alarms(samples, n_windows, **rule, splits=SPLITS),
            "replayed": replayed(known, live, rule) if len(known) >= 2 * window else None,
            "delay": {
                key: measure_feature_delay(samples, changed, **rule, trials=TRIALS) for key, changed in drifted.items()
            },
        }
        rows.append(row)
        print(table([row]), row["replayed"], flush=True)
    return rows


def main() -> None:
    terminal.set_up()
    parser = argparse.ArgumentParser(prog="benchmarks.drift_features", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".oliveira"), help="where data lie already, and runs go")
    parser.add_argument("--windows", type=int, default=10_000, help="windows without drift to look at, a row")
    parser.add_argument("--window", type=int, nargs="+", default=[50], help="requests a window")
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS), help="these tasks")
    parser.add_argument("--out", type=Path, default=Path("results/drift-features.json"))
    given = parser.parse_args()
    start = time.monotonic()
    result = {
        "command": f"python -m benchmarks.drift_features --windows {given.windows}",
        "commit": commit(),
        "config": {"alpha": ALPHA, "confirm": CONFIRM, "splits": SPLITS, "trials": TRIALS, "requests": REQUESTS},
        "models": {name: list(MODELS[name]) for name in given.only},
        "seeds": [0],
        "device": f"{processors()} x {platform.machine()}, Python {platform.python_version()}",
        "rows": [row for name in given.only for row in measure(name, given.home, given.windows, given.window)],
        "minutes": round((time.monotonic() - start) / 60, 1),
    }
    write_json_atomic(given.out, result)


if __name__ == "__main__":
    main()
