"""Commands that look inside a model: what it is made of and costs, and one step of its learning in numbers."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from oliveira.cli.models import parse_values
from oliveira.cli.options import DEFAULT_HOME, AsJson, Home
from oliveira.cli.table import Table
from oliveira.language import ENGLISH, current, figure, translate

Model = Annotated[str, typer.Argument(help="Name of a model; `oliveira list` shows them.")]
Values = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of the model's config.")]


def inspect(
    model: Model,
    values: Values = None,
    task: Annotated[str, typer.Option(help="Sizes and example of this task; empty: an example's.")] = "",
    batch: Annotated[int, typer.Option(help="Rows of the example.", min=1)] = 1,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Shows a model's layers, parameters, FLOPs, memory and speed on this machine.

    oliveira inspect mamba

    oliveira inspect lstm d_model=128 --task forecast/power --batch 32
    """
    from oliveira.study.inspection import describe

    found = describe(model, task or None, home=home, batch=batch, **parse_values(values or []))
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table("layer", "class", "output", "parameters", "calls")
    for layer in found.layers:
        depth = layer.path.count(".") + 1 if layer.path else 0
        name = layer.path or found.model
        table.add_row("  " * depth + name, layer.kind, layer.output, f"{layer.parameters:,}", str(layer.calls))
    console.print(table)
    weights = ", ".join(f"{kind} {_bytes(size)}" for kind, size in found.weight_bytes.items())
    facts = {
        "input": f"{', '.join(found.input)}  ({found.eats} → {found.gives})",
        "parameters": figure(found.parameters, ","),
        "weights": weights,
        "forward": f"{figure(found.flops, ',')} FLOPs, {_time(found.forward_ms, found.forward_ms_range)}",
        "with backward": _time(found.forward_backward_ms, found.forward_backward_ms_range),
        "kept for backward": f"{_bytes(found.activation_bytes)}",
        "times": translate(f"median (quickest to slowest) of {found.rounds} rounds on {found.threads} thread(s)"),
        "FLOPs leave out": ", ".join(found.uncounted) or translate("nothing"),
    }
    for name, text in facts.items():
        console.print(f"{translate(name):<18} {text}", markup=False)


def explain(
    model: Model,
    values: Values = None,
    task: Annotated[str, typer.Option(help="Where its examples come from; empty: the first that fits.")] = "",
    weight: Annotated[str, typer.Option(help="Name of a parameter; empty: the one with the steepest gradient.")] = "",
    lr: Annotated[float, typer.Option(help="Learning rate; 0: the task's.", min=0.0)] = 0.0,
    batch: Annotated[int, typer.Option(help="Examples.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.", min=0)] = 0,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Shows one step of learning in numbers: prediction, loss, gradient, update, loss again.

    oliveira explain lstm

    oliveira explain mamba --task probe/selective-copying --batch 2
    """
    from oliveira.study.explanation import explain as run

    chosen = parse_values(values or [])
    made = run(model, task, home=home, seed=seed, batch=batch, weight=weight, lr=lr, **chosen)
    print(
        json.dumps(made.as_json(), indent=2, ensure_ascii=False)
        if as_json
        else made.text("en" if current() == ENGLISH else "pt")
    )


def _time(median: float, extremes: tuple[float, float]) -> str:
    low, high = extremes
    return translate(f"{median:.2f} ms ({low:.2f} to {high:.2f} ms)")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{figure(size, '.1f')} {unit}"
        size /= 1024
    return f"{figure(size, '.1f')} GiB"
