"""`oliveira formulas`: the seed documents' formulas as written, as published, and checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console

from oliveira.cli.table import Table
from oliveira.files import write_atomic
from oliveira.formulas import Formula, Result, find, formulas, run
from oliveira.language import local, translate

app = typer.Typer(
    help="Every formula of the seed documents: as written, as published, and a numeric check.\n\n"
    "Examples:\n\n"
    "  oliveira formulas show chinchilla\n\n"
    "  oliveira formulas check ethics",
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value in the place of text.")]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Shows every formula: where it stands in the seed documents, whether it is right, and what computes it.

    Examples:

      oliveira formulas list

      oliveira formulas list --json
    """
    from oliveira.formulas.docs import headings

    found = formulas()
    if as_json:
        _print_json([formula.to_dict() for formula in found])
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in ("id", "seed document and heading", "verdict", "default", "where"):
        table.add_column(translate(name), no_wrap=True, ratio=1 if name == "seed document and heading" else None)
    for formula in found:
        table.add_row(
            formula.id,
            headings(formula),
            translate(formula.verdict),
            formula.default,
            formula.where.removeprefix("oliveira."),
        )
    piped = None if sys.stdout.isatty() else 140  # a pipe has no width of its own
    Console(highlight=False, width=piped).print(table)


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="As `oliveira formulas list` names it.")], as_json: AsJson = False
) -> None:
    """Shows one formula: the seed document's text, the published form, what is wrong, and its variants.

    Examples:

      oliveira formulas show lora

      oliveira formulas show clip --json
    """
    formula = find(id)
    if as_json:
        _print_json(formula.to_dict())
        return
    _console().print(_text(formula))


def _text(formula: Formula) -> str:
    lines = [f"{formula.id}: {formula.title} ({translate(formula.verdict)})"]
    for seed in formula.seeds:
        said = "in words" if seed.kind == "words" else "as written"
        lines += [
            "",
            f"Seed document {seed.number}, {seed.heading} ({said}):",
            *(f"  {line}" for line in seed.text.splitlines()),
        ]
    lines += [
        "",
        "Published:",
        f"  {formula.published}",
        f"  {formula.source}",
        "",
        formula.remarks,
        "",
        "Variants:",
    ]
    for name, what in formula.variants.items():
        mark = " (default)" if name == formula.default else " (unsafe)" if name in formula.unsafe else ""
        lines.append(f"  {name}{mark}: {what}")
    if formula.unsafe:
        lines.append("  An unsafe variant is for study; later modules run it only with allow_seed=True.")
    lines += [
        "",
        f"Units: {formula.units}",
        f"Where: {formula.where}",
        f"Check: oliveira formulas check {formula.id}",
    ]
    return "\n".join(lines)


@app.command()
def check(
    ids: Annotated[list[str] | None, typer.Argument(help="Which; without any, all.", show_default=False)] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only formulas with a claim that fails.")] = False,
) -> None:
    """Runs numeric checks and shows their figures; exit code 1 if a claim fails.

    Examples:

      oliveira formulas check nf4

      oliveira formulas check --json
    """
    results = [run(formula) for formula in ([find(id) for id in ids] if ids else formulas())]
    failed = sum(not claim.holds for result in results for claim in result.claims)
    if as_json:
        _print_json([result.to_dict() for result in results if not (quiet and result.holds)])
    else:
        console = _console()
        for result in results:
            if not (quiet and result.holds):
                console.print(_report(result))
        claims = sum(len(result.claims) for result in results)
        console.print(f"{len(results)} checked, {claims} claims, {failed} failed.")
    if not all(result.holds for result in results):
        raise typer.Exit(1)


def _report(result: Result) -> str:
    lines = [f"{result.id} ({'holds' if result.holds else 'FAILS'}, {result.milliseconds} ms)"]
    lines += [f"  {name}: {_number(value)}" for name, value in result.figures.items()]
    lines += [f"  {'✓' if claim.holds else '✗'} {claim.sentence}" for claim in result.claims]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return ", ".join(local(str(part)) for part in (value if isinstance(value, list) else [value]))


@app.command()
def docs(
    output: Annotated[
        Path | None, typer.Option(help="File to write; without it, standard output.", show_default=False)
    ] = None,
) -> None:
    """Writes all of it as one Markdown page.

    Examples:

      oliveira formulas docs

      oliveira formulas docs --output docs/formulas.md
    """
    from oliveira.formulas.docs import render

    page = render()
    if output is None:
        typer.echo(page, nl=False)
    else:
        write_atomic(output, page.encode())
