"""Commands that list what the house has, and reproduce a published number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home

READMES = [Path("README.md"), Path("README.pt-BR.md")]


def list_models(
    task: Annotated[str, typer.Option(help="Only the models that fit this task; `?` lists the tasks.")] = "",
    as_json: AsJson = False,
) -> None:
    """Lists the models of the catalogue with what they eat and give, and their best known result.

    oliveira list

    oliveira list --task forecast/power

    oliveira list --task ? --json
    """
    from oliveira.registry import entries
    from oliveira.tasks.catalogue import fitting, tasks
    from oliveira.tasks.catalogue import task as find_task

    rows: list[dict[str, Any]]
    if task == "?":
        rows = [
            {"task": t.name, "eats": t.eats, "gives": t.gives, "metric": t.metric.name, "title": t.title}
            | {"models": [found.name for found in fitting(t)], "licence": t.licence}
            for t in tasks().values()
        ]
    else:
        from oliveira.recipes import results_by_model

        results = results_by_model()
        rows = [
            {
                "name": e.name,
                "family": e.family,
                "paper": e.paper,
                "eats": list(e.eats),
                "gives": list(e.gives),
                "tasks": [t.name for t in tasks().values() if e.fits(t.eats, t.gives)],
                "causal": e.causal,
                "parity": e.reference,
                "exportable": e.exportable,
                "results": [_result(found) for found in results.get(e.name, [])],
            }
            for e in (fitting(find_task(task)) if task else entries())
        ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = ("task", "eats", "gives", "metric", "models") if task == "?" else ("name", "eats", "gives", "parity")
    table = Table(*shown, *([] if task == "?" else ["result"]))
    for row in rows:
        cells = [", ".join(row[key]) if isinstance(row[key], list) else str(row[key]) for key in shown]
        table.add_row(*cells, *([] if task == "?" else ["\n".join(row["results"])]))
    Console().print(table)


def _result(found: dict[str, Any]) -> str:
    metric = found["metric"]
    spread = f" ± {metric['std']:.2g}" if metric.get("std") else ""
    return f"{found['recipe']}: {metric['mean']:.4g}{spread} {metric['name']}"


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
    from oliveira import recipes
    from oliveira.lifecycle.process import Stop
    from oliveira.reproduction import reproduce_all

    if recipe == "list":
        console = Console(highlight=False, soft_wrap=True)
        for name in recipes.names():
            found = recipes.stored(name)
            value = f"{found['metric']['mean']:.4g} {found['metric']['name']}" if found else "no result yet"
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
    """
    from oliveira.comparison_pages import write_comparisons
    from oliveira.model_pages import write_pages
    from oliveira.quotes import write_quotes

    print(f"{len(write_pages(output))} pages in {output}")
    print(f"{len(write_comparisons(comparisons))} pages in {comparisons}")
    for path in readme:
        if path.is_file():
            print(f"{write_quotes(path)} results quoted in {path}")
