"""Models side by side on one task: equal budgets, several seeds, one table, one picture, a verdict in words.

The verdict says only what the figures carry: two models are called different when the difference of their means is
more than twice its standard error, √(s₁²/n + s₂²/n); otherwise they are called not separable.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.files import check_writable, write_atomic, write_json_atomic
from oliveira.language import CODES, local, translate
from oliveira.process.progress import Reporter
from oliveira.runs.records import Run
from oliveira.runs.run import fit
from oliveira.study.provenance import commit
from oliveira.tasks import classical
from oliveira.tasks.base import Metric
from oliveira.tasks.catalogue import pair
from oliveira.training.curves import read_curve


@dataclass(frozen=True)
class Comparison:
    result: dict[str, Any]
    text: str  # the English report
    folder: Path


def compare(
    task: str,
    models: Sequence[str],
    *,
    seeds: int = 3,
    budget: str = "",
    home: str | Path = ".oliveira",
    folder: Path | None = None,
    report: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    values: dict[str, dict[str, Any]] | None = None,
) -> Comparison:
    """Runs what is missing, writes compare.json, compare.png, report.md and report.pt-BR.md. Resumable like `fit`.

    `values`: per model, fields of its config or training section. Raises `UserError` for fewer than two models.
    """
    names = list(dict.fromkeys(models))
    if len(names) < 2:
        raise UserError(f"a comparison needs two models or more, not {', '.join(names)}. Name another.")
    found = {name: pair(task, name)[0] for name in names}[names[0]]
    found.check()
    if folder:
        check_writable(folder)
    task = found.name
    report = report or Reporter(quiet=True)
    say = _once(report.say)
    runs: dict[str, list[Run]] = {}
    total = len(names) * seeds
    for number, (name, seed) in enumerate((name, seed) for name in names for seed in range(seeds)):
        run = fit(
            task,
            model=name,
            seed=seed,
            budget=budget,
            home=home,
            say=say,
            on_progress=lambda p, n=number, m=name, s=seed: report.progress(  # type: ignore[misc]
                (n + p.step / p.steps) / total, f"{m} seed {s} loss {p.loss:.4f}"
            ),
            should_stop=should_stop,
            package=False,
            **(values or {}).get(name, {}),
        )
        runs.setdefault(name, []).append(run)
    folder = folder or Path(home).absolute() / "comparisons" / f"{found.folder}-{'-'.join(names)}"
    folder.mkdir(parents=True, exist_ok=True)
    measured = next(iter(runs.values()))[0].result["metric"]
    metric = Metric(name=measured["name"], better=measured["better"], unit=measured["unit"])  # of an own file: its own
    result = _result(task, metric, runs, seeds, values or {})
    if found.eats == "series":
        result["peers"] = found.open(Path(home).absolute(), say).peers()
    write_json_atomic(folder / "compare.json", result)
    _draw(runs, metric, found.title, folder / "compare.png")
    texts = {language: report_text(result, found.title, language) for language in ("en", "pt")}
    write_atomic(folder / "report.md", texts["en"].encode())
    write_atomic(folder / "report.pt-BR.md", texts["pt"].encode())
    return Comparison(result, texts["en"], folder)


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """What every run of a comparison would say again is said once."""
    said: set[str] = set()

    def first(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return first


def _result(
    task: str, metric: Metric, runs: dict[str, list[Run]], seeds: int, changes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    rows = {}
    for name, made in runs.items():
        values = [run.metric for run in made]
        first = made[0].result
        rows[name] = {
            "values": values,
            "mean": statistics.mean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "parameters": first["parameters"],
            "steps": first["steps"],
            "seconds": statistics.mean(run.result["seconds"] for run in made),
            "flops": first["flops_per_step"] * first["steps"],
            "validation": statistics.mean(run.result["validation"][metric.name] for run in made),
            "config": first["config"],
            "train": first["train"],
        }
    first = next(iter(runs.values()))[0].result
    words = ["oliveira compare", shlex.quote(task), *runs, f"--seeds {seeds}", f"--budget {first['budget']}"]
    words += [f"--set {name}.{key}={value}" for name in runs for key, value in changes.get(name, {}).items()]
    return {
        "command": " ".join(words),
        "commit": commit(),
        "task": task,
        "metric": {"name": metric.name, "better": metric.better, "unit": metric.unit},
        "budget": first["budget"],
        "seeds": list(range(seeds)),
        "device": first["device"],
        "baselines": first["baselines"],
        "models": dict(sorted(rows.items(), key=lambda row: row[1]["mean"], reverse=metric.better == "higher")),
    }


def separable(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two means differ by more than twice the standard error of their difference."""
    n = len(left["values"])
    error = math.sqrt((left["std"] ** 2 + right["std"] ** 2) / n)
    return n > 1 and abs(left["mean"] - right["mean"]) > 2 * error


WORDS: dict[str, dict[str, str]] = {
    "en": {
        "head": "| model | {metric} (test) | parameters | seconds a run | GFLOP a run |",
        "naive": "no learning",
        "clear": "**{a}** is best: {x} against {y} of {b}, more than twice the standard error over {n} seeds.",
        "tie": "**{a}** ({x}) and **{b}** ({y}) cannot be told apart with {n} seeds: the difference is within twice "
        "its standard error.",
        "one": "One seed says nothing about spread: **{a}** {x}, **{b}** {y}.",
        "beats": "{names} beat {baseline} ({value}), the best that needs no network.",
        "loses": "{names} do not beat {baseline} ({value}), the best that needs no network.",
        "cost": "For one run {fast} needed {t:.0f} s, {slow} {u:.0f} s ({r:.1f} ×), on {device}.",
        "size": "{small} is the smallest ({p:,} parameters), {large} the largest ({q:,}).",
        "verdict": "Verdict",
        "command": "Made by `{command}`, test split, mean ± standard deviation over seeds.",
    },
    "pt": {
        "head": "| modelo | {metric} (teste) | parâmetros | segundos por treino | GFLOP por treino |",
        "naive": "sem aprendizado",
        "clear": "**{a}** é o melhor: {x} contra {y} de {b}, mais que o dobro do erro padrão em {n} sementes.",
        "tie": "**{a}** ({x}) e **{b}** ({y}) não se distinguem com {n} sementes: a diferença cabe no dobro do seu "
        "erro padrão.",
        "one": "Uma só semente nada diz sobre a dispersão: **{a}** {x}, **{b}** {y}.",
        "beats": "{names} vencem {baseline} ({value}), o melhor que não precisa de rede.",
        "loses": "{names} não vencem {baseline} ({value}), o melhor que não precisa de rede.",
        "cost": "Um treino de {fast} levou {t:.0f} s, o de {slow} {u:.0f} s ({r:.1f} ×), em {device}.",
        "size": "{small} é o menor ({p:,} parâmetros), {large} o maior ({q:,}).",
        "verdict": "Veredito",
        "command": "Feito por `{command}`, partição de teste, média ± desvio padrão entre sementes.",
    },
}


def verdict(result: dict[str, Any], language: str) -> list[str]:
    """Sentences that follow from the figures."""
    words, rows = WORDS[language], result["models"]
    names, n = list(rows), len(result["seeds"])
    best, second = names[0], names[1]
    kind = "one" if n == 1 else "clear" if separable(rows[best], rows[second]) else "tie"
    said = [words[kind].format(a=best, b=second, x=_value(rows[best]), y=_value(rows[second]), n=n)]
    higher = result["metric"]["better"] == "higher"
    if result["baselines"]:
        pick = max if higher else min
        baseline = pick(result["baselines"], key=result["baselines"].get)
        level, named = result["baselines"][baseline], translate(baseline, CODES[language])
        won = [name for name in names if (rows[name]["mean"] > level) == higher]
        for key, group in (("beats", won), ("loses", [name for name in names if name not in won])):
            if group:
                said.append(words[key].format(names=", ".join(group), baseline=named, value=f"{level:.4g}"))
    fast, slow = min(names, key=lambda m: rows[m]["seconds"]), max(names, key=lambda m: rows[m]["seconds"])
    t, u = rows[fast]["seconds"], rows[slow]["seconds"]
    said.append(words["cost"].format(fast=fast, slow=slow, t=t, u=u, r=u / max(t, 1e-9), device=result["device"]))
    small, large = min(names, key=lambda m: rows[m]["parameters"]), max(names, key=lambda m: rows[m]["parameters"])
    said.append(
        words["size"].format(small=small, large=large, p=rows[small]["parameters"], q=rows[large]["parameters"])
    )
    return [local(sentence, CODES[language]) for sentence in said]


def _value(row: dict[str, Any]) -> str:
    return f"{row['mean']:.4g} ± {row['std']:.2g}"


def report_text(result: dict[str, Any], title: str, language: str) -> str:
    words, metric = WORDS[language], result["metric"]
    unit = f", {metric['unit']}" if metric["unit"] else ""
    arrow = "↑" if metric["better"] == "higher" else "↓"
    code = CODES[language]
    lines = [f"# {result['task']}: {', '.join(result['models'])}", "", translate(title, code), ""]
    rows = [words["head"].format(metric=f"{metric['name']} {arrow}{unit}"), "| --- | --- | --- | --- | --- |"]
    for name, row in result["models"].items():
        rows.append(
            f"| {name} | {_value(row)} | {row['parameters']:,} | {row['seconds']:.1f} | {row['flops'] / 1e9:,.0f} |"
        )
    for name, value in result["baselines"].items():
        rows.append(f"| {translate(name, code)} ({words['naive']}) | {value:.4g} | – | – | – |")
    for name, value in result.get("peers", {}).items():
        rows.append(f"| {name} ({classical.PACKAGE}) | {value:.4g} | – | – | – |")
    lines += [local(row, code) for row in rows]
    lines += ["", "![](compare.png)", "", f"## {words['verdict']}", ""]
    lines += [f"- {sentence}" for sentence in verdict(result, language)]
    return "\n".join([*lines, "", words["command"].format(command=result["command"]), ""])


def _draw(runs: dict[str, list[Run]], metric: Metric, title: str, png: Path) -> None:
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    key = f"validation_{metric.name}"
    for colour, (name, made) in enumerate(runs.items()):
        for number, run in enumerate(made):
            points = [(row["seconds"], row[key]) for row in read_curve(run.folder / "curve.jsonl") if key in row]
            left.plot(*zip(*points, strict=True), color=f"C{colour}", lw=1, label=name if number == 0 else None)
        right.scatter([colour] * len(made), [run.metric for run in made], color=f"C{colour}", zorder=3)
        right.hlines(statistics.mean(run.metric for run in made), colour - 0.3, colour + 0.3, color=f"C{colour}")
    for name, value in next(iter(runs.values()))[0].result["baselines"].items():
        right.axhline(value, ls="--", lw=0.8, color="gray")
        right.annotate(name, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    left.set(xlabel="seconds of training", ylabel=f"validation {metric.name}", title=title)
    left.legend()
    right.set_xticks(range(len(runs)), list(runs))
    right.set(ylabel=f"test {metric.name}", title="each point a seed")
    figure.savefig(png, dpi=110, format="png")
    plt.close(figure)
