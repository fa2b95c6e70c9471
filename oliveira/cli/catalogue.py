"""Commands that list what the house has, and reproduce a published number."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home


def list_models(as_json: AsJson = False) -> None:
    """Lists the models of the catalogue.

    oliveira list

    oliveira list --json
    """
    from oliveira.registry import entries

    rows = [
        {
            "name": e.name,
            "family": e.family,
            "paper": e.paper,
            "eats": e.eats,
            "causal": e.causal,
            "exportable": e.exportable,
        }
        for e in entries()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


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
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `list` shows them.")],
    home: Home = DEFAULT_HOME,
    write: Annotated[bool, typer.Option("--write", help="Store the result in results/.")] = False,
) -> None:
    """Runs a recipe again and shows its number beside the stored one.

    oliveira reproduce list

    oliveira reproduce machado-gpt
    """
    from oliveira.recipes import reproduce as run

    run(recipe, home.absolute(), write=write)
