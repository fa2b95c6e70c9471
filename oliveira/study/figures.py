"""What the figures of a result are, and the sentences that follow from them: for pages, tables and READMEs alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from oliveira.study.recipes import is_verified

EXPECTED = {"at_least": "at least", "at_most": "at most"}
NOT_VERIFIED = "measured before results carried digests"


@dataclass(frozen=True)
class Figure:
    better: Literal["higher", "lower"]
    unit: str
    chance: float | None = None  # what guessing gives, where no baseline says it


# Every figure that a task gives, by its name.
FIGURES = {
    "accuracy": Figure("higher", "share"),
    "macro-F1": Figure("higher", "0 … 1"),
    "exact match": Figure("higher", "share"),
    "masked accuracy": Figure("higher", "share"),
    "NSP accuracy": Figure("higher", "share", chance=0.5),
    "explained": Figure("higher", "share of the variance"),
    "chrF": Figure("higher", "0 … 100"),
    "BLEU": Figure("higher", "0 … 100"),
    "phoneme error rate": Figure("lower", "%"),
    "MAE": Figure("lower", ""),  # in the unit of the task's metric
    "MSE": Figure("lower", "variances of the training series"),
    "mean squared error": Figure("lower", "squared units of the target"),
    "bits per byte": Figure("lower", "bits"),
    "loss": Figure("lower", "nats"),
    "nats per token": Figure("lower", "nats"),
    "nats per masked piece": Figure("lower", "nats"),
}


def unit_of(result: dict[str, Any], name: str) -> str:
    own = result["metric"]["unit"] if name == result["metric"]["name"] else ""
    return str(own) or FIGURES[name].unit


def spread(mean: float, std: float, digits: str = "#.4g") -> str:
    return f"{mean:{digits}}" + (f" ± {std:.2g}" if std else "")


def loses_to(result: dict[str, Any]) -> list[str]:
    """The baselines that the model does not beat."""
    return [name for name, beaten in result["beats"].items() if not beaten]


def words(result: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """Sentences about a result that a reader must not have to work out."""
    metric, model = result["metric"], result["model"]
    name, mean = metric["name"], metric["mean"]
    said = []
    if not is_verified(result):
        said.append(f"This was {NOT_VERIFIED} (commit {result['commit']}): it may not be of the code at hand.")
    if lost := loses_to(result):
        levels = ", ".join(f"{baseline} ({result['baselines'][baseline]:#.4g})" for baseline in lost)
        said.append(f"**{model} loses to {levels}** with its {name} of {mean:#.4g}.")
    elif result["baselines"]:
        pick = max if metric["better"] == "higher" else min
        best = pick(result["baselines"], key=result["baselines"].get)
        said.append(f"{model} beats every level beside it, the best of them {best} ({result['baselines'][best]:#.4g}).")
    if close := [baseline for baseline, level in result["baselines"].items() if _close(metric, level)]:
        said.append(f"Too close to call by these seeds (within twice the standard error): {', '.join(close)}.")
    for key, met in result["met"].items():
        level = f"{name} {EXPECTED.get(key, key)} {result['expect'][key]:#.4g}"
        if beside := recipe.get("fails_beside"):
            outcome = "as it should" if met else "**and it did not fail**"
            said.append(f"It is here to fail beside `{beside}`, {outcome}: expected {level}, reached {mean:#.4g}.")
        else:
            said.append(f"Expected: {level}; {'met' if met else '**not met**'}.")
    for other, value in result["test"].items():
        figure = FIGURES[other]
        margin = 2 * result.get("test_std", {}).get(other, 0.0)
        if figure.chance is not None and not _above(value, margin, figure):
            said.append(f"**Its {other} of {value:.3f} is no better than chance ({figure.chance:g}).**")
    return said


def _close(metric: dict[str, Any], level: float) -> bool:
    error = metric["std"] / math.sqrt(len(metric["values"]))
    return bool(abs(metric["mean"] - level) <= 2 * error)


def _above(value: float, margin: float, figure: Figure) -> bool:
    """Whether a figure is better than chance by more than its noise, and by a hundredth at least."""
    assert figure.chance is not None
    gain = value - figure.chance if figure.better == "higher" else figure.chance - value
    return gain > max(margin, 0.01)
