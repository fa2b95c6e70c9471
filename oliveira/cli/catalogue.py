"""Commands that list what the house has, and reproduce a published number."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home
from oliveira.cli.table import Table
from oliveira.language import local, translate

WIDTH = 80  # columns of a terminal that nobody has widened
READMES = [Path("README.md"), Path("README.pt-BR.md")]


def list_models(
    task: Annotated[str, typer.Option(help="Only the models that fit this task; `?` lists the tasks.")] = "",
    only_tasks: Annotated[
        bool, typer.Option("--tasks", help="List the tasks instead; a shell may take the `?` for a file's name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lists the models of the catalogue with what they eat and give, and their best known result.

    oliveira list --task forecast/power

    oliveira list --tasks
    """
    rows = _tasks() if only_tasks or task == "?" else _models(task)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print("\n".join(_lines(row)))
    print("\n".join(_places()))


def _tasks() -> list[dict[str, Any]]:
    from oliveira.tasks.catalogue import fitting, tasks

    return [
        {"task": t.name, "eats": t.eats, "gives": t.gives, "metric": t.metric.name, "unit": t.metric.unit}
        | {"title": t.title, "models": [found.name for found in fitting(t)], "licence": t.licence}
        for t in tasks().values()
    ]


def _models(task: str) -> list[dict[str, Any]]:
    from oliveira.registry import entries
    from oliveira.study.recipes import results_by_model
    from oliveira.tasks.catalogue import fitting, tasks
    from oliveira.tasks.catalogue import task as find_task

    results = results_by_model()
    return [
        {
            "name": e.name,
            "family": e.family,
            "paper": e.paper,
            "runs": e.in_words,
            "forms": [list(form) for form in e.forms],
            "can": list(e.can),
            "tasks": [t.name for t in tasks().values() if e.fits(t.eats, t.gives)],
            "causal": e.causal,
            "parity": e.reference,
            "exportable": e.exportable,
            "results": [_result(found) for found in results.get(e.name, [])],
        }
        for e in (fitting(find_task(task)) if task else entries())
    ]


def _lines(row: dict[str, Any]) -> list[str]:
    """A row as a person reads it, in WIDTH columns and whole."""
    if "task" in row:
        unit = f" ({row['unit']})" if row["unit"] else ""
        head = f"{row['task']:<26} {row['eats']} → {row['gives']}, {row['metric']}{unit}"
        rest = [", ".join(row["models"])]
    else:
        head = f"{row['name']:<14} {row['runs']}"
        rest = [f"as in {row['parity']}", *map(local, row["results"])]
    indent = " " * 4
    wrapped = (wrap(text, WIDTH, initial_indent=indent, subsequent_indent=2 * indent) for text in rest if text)
    return [head, *(line for lines in wrapped for line in lines)]


def _places() -> list[str]:
    """Where the files lie that a person would look at."""
    places = [
        "",
        "published results  results/RECIPE.json, -picture.png and .png (its curve)",
        "pages of models    docs/models/MODEL.md",
        "your runs          HOME/runs/TASK/MODEL/…/curve.png, picture.png, run.json",
        "your comparisons   HOME/comparisons/TASK-MODELS/report.md, compare.png",
    ]
    return [translate(place) for place in places]


def _result(found: dict[str, Any]) -> str:
    metric = found["metric"]
    spread = f" ± {metric['std']:.2g}" if metric.get("std") else ""
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    return f"{found['recipe']}: {metric['mean']:.4g}{spread} {metric['name'].replace('_', ' ')}{unit}"  # for JSON too


def sources(as_json: AsJson = False) -> None:
    """Lists the texts that a world can name, with licence and size.

    oliveira sources

    oliveira up --set data.base=machado
    """
    from oliveira.data.sources import SOURCES

    rows = [{"name": s.name, "title": s.title, "licence": s.licence} for s in SOURCES.values()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "title", "licence")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def reproduce(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `list` shows them, `all` runs them.")],
    home: Home = DEFAULT_HOME,
    write: Annotated[bool, typer.Option("--write", help="Store the result in results/; needs a clean commit.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Only results that are not of the code at hand.")] = False,
) -> None:
    """Runs a recipe again and shows its number beside the stored one; fails when they differ by more than the band.

    oliveira reproduce list

    oliveira reproduce forecast-lstm
    """
    from oliveira.process.stop import Stop
    from oliveira.study import recipes
    from oliveira.study.reproduction import reproduce_all

    if recipe == "list":
        console = Console(highlight=False, soft_wrap=True)
        for name in recipes.names():
            found = recipes.stored(name)
            value = local(f"{found['metric']['mean']:.4g} {found['metric']['name']}") if found else "no result yet"
            console.print(f"{name:<28} {value:<28} {recipes.load(name)['title']}", markup=False)
        return
    wanted = recipes.names() if recipe == "all" else [recipe]
    reproduce_all(wanted, home.absolute(), write=write, stale=stale, should_stop=Stop(within=1.0))


def pages(
    output: Annotated[Path, typer.Option(help="Folder of the models' pages.")] = Path("docs/models"),
    comparisons: Annotated[Path, typer.Option(help="Folder of the comparisons.")] = Path("docs/comparisons"),
    readme: Annotated[list[Path], typer.Option(help="Texts that quote results.")] = READMES,
) -> None:
    """Writes all text that quotes figures from the stored results: models, comparisons, quotes in the READMEs.

    oliveira pages

    oliveira pages --output pages
    """
    from oliveira.study.comparison_pages import write_comparisons
    from oliveira.study.model_pages import write_pages
    from oliveira.study.quotes import write_quotes

    print(f"{len(write_pages(output))} pages in {output}")
    print(f"{len(write_comparisons(comparisons))} pages in {comparisons}")
    for path in readme:
        if path.is_file():
            print(f"{write_quotes(path)} results quoted in {path}")
