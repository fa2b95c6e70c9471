"""The command that looks at a user's own table or folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, TableOptions, of_a_table
from oliveira.cli.table import Table, printable
from oliveira.language import figure, translate


@of_a_table
def data(
    file: Annotated[
        str,
        typer.Argument(help="A table (.csv, .tsv, .xlsx, .parquet), or texts or pictures: a folder, a .zip or a file."),
    ],
    *,
    options: TableOptions,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Says what a table, folder or document of yours is, which tasks fit it and what is wrong with it, and draws it.

    oliveira data consumo.csv

    oliveira data fotos

    oliveira data livro.pdf

    oliveira data consumo.csv --target kwh --json
    """
    from oliveira.study.own_data import describe_data

    facts = describe_data(file, home=home.absolute(), **options)
    if as_json:
        print(json.dumps(facts.as_json(), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(printable(translate(text)), markup=False)

    if facts.documents:
        say(f"{facts.file}: {facts.documents} documents, {facts.characters} characters")
    else:
        say(
            f"{facts.file}: {facts.rows} files in class folders"
            if facts.classes
            else f"{facts.file}: {facts.rows} rows"
        )
    for line in facts.read:
        say(line)
    if facts.classes:
        classes = Table("class", "files")
        for name, count in facts.classes.items():
            classes.add_row(name, f"{count:,}")
        console.print(classes)
    if facts.columns:
        table = Table("column", "type", "missing", "distinct", "smallest", "largest")
        for column in facts.columns:
            counts = (figure(column.missing, ","), figure(column.distinct, ","))
            ends = map(translate, (column.smallest, column.largest))
            table.add_row(column.name, translate(column.kind), *counts, *ends)
        console.print(table)
    for task in facts.tasks:
        if not task.fits:
            verdict = f"fits, once {task.needs} says which column" if task.needs else "does not fit"
            console.print(printable(f"{task.kind}: {translate(verdict)}: {translate(task.why)}"), markup=False)
        else:
            console.print(f"{task.kind}: {', '.join(task.models)}", markup=False)
        for line in task.said:
            console.print(printable(f"    {translate(line)}"), markup=False)
        for command in task.commands:
            console.print(printable(f"  {command}"), markup=False)
    for line in facts.wrong or ["nothing is wrong with it"]:
        say(line)
    if facts.picture:
        console.print(facts.picture, markup=False)
