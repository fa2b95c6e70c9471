"""The command that finds out what decodes a model fastest on this machine."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, find_artifact
from oliveira.errors import UserError
from oliveira.language import translate


def compile_(
    artifact: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT|RUN", help="Folder of an artifact or run, champion, or TASK/MODEL of a run."),
    ],
    provider: Annotated[
        str, typer.Option(help="Where onnxruntime computes: tensorrt, cuda, cpu, or auto: the first that starts.")
    ] = "auto",
    threads: Annotated[int, typer.Option(help="Of every candidate; serve.threads of the world.", min=1)] = 1,
    streams: Annotated[str, typer.Option(help="Numbers of streams in a step, all of which count.")] = "1,8",
    rounds: Annotated[int, typer.Option(help="Turns of each candidate; the median counts.", min=1)] = 7,
    home: Home = DEFAULT_HOME,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors and the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Writes a gpt's decode step as an ONNX graph, times it beside the native step and torch, and notes the fastest.

    The engine reads the note when it starts. It stands beside the artifact and holds for this machine only.

    oliveira compile champion

    oliveira compile lm/machado/gpt --threads 2 --streams 1,16
    """
    from oliveira.export.choice import record_path
    from oliveira.export.compile import compile_artifact

    try:
        numbers = [int(number) for number in streams.split(",")]
    except ValueError:
        raise UserError(f"--streams {streams} is not a list of whole numbers. Use for example 1,8.") from None
    path = find_artifact(home, artifact)

    def say(text: str) -> None:
        if not quiet and not as_json:
            print(text, file=sys.stderr)

    found = compile_artifact(path, provider=provider, threads=threads, streams=numbers, rounds=rounds, say=say)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("", *(f"ms a step, {n} stream{'s' if n > 1 else ''}" for n in numbers), translate("weights, MB"))
    for name, size in found["weight_bytes"].items():
        times = (f"{found['seconds'][str(n)][name] * 1e3:.3f}" for n in numbers)
        table.add_row(name, *times, f"{size / 1e6:.1f}", style="bold" if name == found["choice"] else "")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(translate(f"{found['choice']} serves from the engine's next start on"), markup=False)
    console.print(str(record_path(path)), markup=False)
