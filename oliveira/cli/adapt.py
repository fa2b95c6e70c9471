"""The command that teaches the served model one's own texts, beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, Life, find_artifact, life_folder
from oliveira.errors import OliveiraError, UserError
from oliveira.language import figure, translate
from oliveira.process.progress import Reporter
from oliveira.process.stop import Stop


def adapt(
    name: Annotated[str, typer.Argument(help="What clients will send as `model`.")],
    texts: Annotated[Path, typer.Argument(help="Folder, .zip or file of your texts; a tenth of them is held out.")],
    artifact: Annotated[str, typer.Option(help="Folder of an artifact or run, champion, or TASK/MODEL.")] = "champion",
    rank: Annotated[int, typer.Option(help="Of the thin matrices; at most the model's narrowest side.", min=1)] = 16,
    alpha: Annotated[float, typer.Option(help="Their product counts alpha / rank.", min=0.0)] = 32.0,
    steps: Annotated[int, typer.Option(help="Updates of the thin matrices.", min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="Windows of text in an update.", min=1)] = 8,
    max_len: Annotated[int, typer.Option(help="Tokens of a window; 0 = the model's.", min=0)] = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same bits.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="0 = all cores.", min=0)] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Take the name from the adapter that has it.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Also an adapter that is worse than the model alone.")] = False,
    home: Home = DEFAULT_HOME,
    life: Life = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors and the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trains a LoRA adapter on a folder of texts; the engine finds it by name, also while it runs. 4 bits stay.

    oliveira adapt ana my-texts

    oliveira adapt ana my-texts --steps 300 --rank 8 --artifact champion
    """
    from oliveira.adaptation.settings import AdaptSection
    from oliveira.artifact import open_artifact
    from oliveira.lifecycle.own_adapter import make_adapter
    from oliveira.training.loop import Progress

    if lr <= 0 or alpha <= 0:
        raise UserError(f"--lr {lr} and --alpha {alpha} must be above 0.")
    section = AdaptSection(rank=rank, alpha=alpha, steps=steps, batch_size=batch_size, lr=lr)
    with Reporter(quiet=quiet or as_json) as report:
        report.begin("adapt")

        def show(progress: Progress) -> None:
            report.progress(
                progress.step / progress.steps,
                f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} tokens/s",
            )

        numbers = make_adapter(
            life_folder(home, life).absolute(),
            open_artifact(find_artifact(home, artifact, life)),
            name,
            texts,
            section,
            seed=seed,
            n_threads=threads,
            max_len=max_len,
            replace=replace,
            keep=keep,
            say=lambda line: report.say(translate(line)),
            on_progress=show,
            should_stop=Stop(within=1.0),
        )
    if as_json:
        print(json.dumps(numbers, indent=2))
    elif numbers["active"]:
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"{name}: {_measured(numbers)}", markup=False)
        console.print(f"{home / 'adapters' / name}, {figure(numbers['bytes'] / 1e6, '.1f')} MB", markup=False)
        console.print(translate(f'next: send "model": "{name}" to the server'), markup=False)
    if not numbers["active"]:
        raise OliveiraError(
            f"{name} is worse than the model without it: {_measured(numbers)}. It is not kept. "
            "Add text, or train less (--lr, --steps); the same command with --keep takes it all the same."
        )


def _measured(numbers: dict[str, Any]) -> str:
    bits, documents = numbers["bits_per_byte"], numbers["documents"]
    said = [
        translate(
            f"{bits['before']:.3f} → {bits['after']:.3f} bits per byte on {documents['held_out']} held-out document(s)"
        )
    ]
    if documents["duplicates"]:
        said.append(translate(f"{documents['duplicates']} that repeated others left out"))
    return ", ".join(said)
