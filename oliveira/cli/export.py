"""The command that writes a model in the forms of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, Life, find_artifact, life_folder
from oliveira.errors import UserError
from oliveira.language import figure, translate


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN|ARTIFACT", help="TASK/MODEL or its folder; with --to also champion, or NAME.")
    ],
    weights: Annotated[
        Literal["fp32", "int8"],
        typer.Option(help="int8 holds linear layers in a byte a weight: smaller, a little less exact."),
    ] = "fp32",
    to: Annotated[
        Literal["onnx", "hf", "gguf", "peft"],
        typer.Option(help="hf for transformers, gguf for llama.cpp; peft: an adapter of the champion, by its name."),
    ] = "onnx",
    output: Annotated[Path | None, typer.Option(help="Folder (hf, peft) or file (gguf) that is made.")] = None,
    home: Home = DEFAULT_HOME,
    life: Life = "",
    as_json: AsJson = False,
) -> None:
    """Writes a trained run as ONNX beside its weights, or a model of text in the forms of other programs, checked.

    oliveira export forecast/power/lstm

    oliveira export forecast/power/mlp --weights int8

    oliveira export champion --to hf --output my-model

    oliveira export champion --to gguf --output my-model.gguf

    oliveira export ana --to peft --output ana-peft
    """
    if to != "onnx":
        figures = _write_out(run, to, output, home, life)
    elif output is not None:
        raise UserError("--output is of --to hf, gguf and peft: a graph stays beside its weights. Leave it out.")
    else:
        from oliveira.runs.predict import export as write
        from oliveira.runs.records import find_run

        folder = find_run(home.absolute(), run)
        figures = write(folder, lambda text: None if as_json else print(text), weights=weights)
    if as_json:
        print(json.dumps(figures, indent=2))
    elif to != "onnx":
        for line in _told(figures, to):
            print(line)


def _told(figures: dict[str, Any], to: str) -> list[str]:
    place = figures.get("folder") or figures["file"]
    size = figures.get("bytes")
    lines = [f"{place}, {figure(size / 1e6, '.1f')} MB" if size else str(place)]
    if figures.get("from", "fp32") != "fp32":
        lines.append(translate(f"weights of {figures['from']} are written as float32, with what they have lost"))
    if not figures.get("cut_alike", True):
        lines.append(
            translate(
                f"llama.cpp cuts words as {figures['cuts_words_as']} does: some texts become other tokens than here"
            )
        )
    return lines


def _write_out(name: str, to: Any, output: Path | None, home: Path, life: str) -> dict[str, Any]:
    from oliveira.artifact import open_artifact
    from oliveira.lifecycle.outward import write_out

    if output is None:
        raise UserError(f"--to {to} needs --output: where it is written.")
    artifact = open_artifact(find_artifact(home, "champion" if to == "peft" else name, life))
    return write_out(life_folder(home, life).absolute(), artifact, to, output.absolute(), adapter=name)
