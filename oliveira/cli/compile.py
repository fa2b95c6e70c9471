"""The command that finds out what decodes a model fastest on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, Life, find_artifact, life_folder
from oliveira.cli.table import Table
from oliveira.errors import UserError
from oliveira.language import figure, translate
from oliveira.serving.settings import ServeSection


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
    max_loss: Annotated[
        float | None,
        typer.Option(help="Nats a token that a faster form may lose; left out: serve.max_loss of the home.", min=0),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Held-out text for --max-loss, UTF-8; left out: what the home keeps for it.")
    ] = None,
    home: Home = DEFAULT_HOME,
    life: Life = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors and the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Writes a gpt's decode step as an ONNX graph, times it beside the native step and torch, and notes the fastest.

    The engine reads the note when it starts. It stands beside the artifact and holds for this machine only.
    With --max-loss also forms that lose a little take part; they serve if serve.max_loss allows as much.

    oliveira compile champion

    oliveira compile champion --max-loss 0.01

    oliveira compile lm/machado/gpt --threads 2 --streams 1,16
    """
    from oliveira.export.choice import record_path
    from oliveira.export.compile import compile_artifact
    from oliveira.kernels.options import Options

    try:
        numbers = [int(number) for number in streams.split(",")]
    except ValueError:
        raise UserError(f"--streams {streams} is not a list of whole numbers. Use for example 1,8.") from None
    path, folder = find_artifact(home, artifact, life), life_folder(home, life)

    def say(text: str) -> None:
        if not quiet and not as_json:
            print(translate(text), file=sys.stderr)

    serve = served_by(folder)
    allowed = serve.max_loss if max_loss is None else max_loss
    timed = compile_artifact(
        path,
        provider=provider,
        threads=threads,
        streams=numbers,
        rounds=rounds,
        options=Options(activations=serve.activations),
        max_loss=allowed,
        text=held_out(folder, path, text) if allowed else (),
        say=say,
    )
    if as_json:
        print(json.dumps(timed, indent=2))
        return
    table = Table("", *(f"ms a step, {n} stream{'s' if n > 1 else ''}" for n in numbers), "weights, MB")
    for name, size in timed["weight_bytes"].items():
        times = (figure(timed["seconds"][str(n)][name] * 1e3, ".3f") for n in numbers)
        table.add_row(name, *times, f"{size / 1e6:.1f}", style="bold" if name == timed["fastest"] else "")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if timed["loss"] > serve.max_loss:
        console.print(
            translate(
                f"it loses {timed['loss']:.4f} nats a token and serve.max_loss of the home is {serve.max_loss:g}: "
                "raise that, or the form that loses nothing serves"
            ),
            markup=False,
        )
    console.print(translate(f"{timed['fastest']} serves from the engine's next start on"), markup=False)
    console.print(str(record_path(path)), markup=False)


def served_by(home: Path) -> ServeSection:
    """How this home serves; the defaults where no world was made yet."""
    from oliveira.serving.front.service import read_settings

    return read_settings(home) if (home / "world.json").is_file() else ServeSection()


def held_out(home: Path, artifact: Path, text: Path | None) -> list[int]:
    """Tokens that the artifact has not learnt: of a file, or the validation text of this home's preprocessing."""
    from oliveira.data.shards import TokenShard
    from oliveira.data.text import nfc
    from oliveira.data.tokenizer import Tokenizer
    from oliveira.files import sha256_file

    tokenizer = artifact / "tokenizer.json"
    if text is not None:
        try:
            return Tokenizer.load(tokenizer).encode(nfc(text.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--text {text} cannot be read as UTF-8 text: {error}. Give another file.") from None
    for folder in sorted((home / "stages" / "preprocess").glob("*/base"), key=lambda path: path.stat().st_mtime):
        known = folder / "tokenizer.json"
        if known.is_file() and sha256_file(known) == sha256_file(tokenizer):
            return [int(token) for token in TokenShard.open(folder, "validation").tokens]
    return []
