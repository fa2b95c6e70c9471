"""`oliveira adapters`: what `oliveira adapt` has made in a home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, Life, find_artifact, life_folder, read_ledger
from oliveira.cli.table import Table
from oliveira.language import figure, local, translate
from oliveira.serving import adapter_names

app = typer.Typer(
    help="LoRA adapters of a home: list, show, add, remove.\n\n"
    "  oliveira adapters list\n\n  oliveira adapters show ana",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="As `oliveira adapters list` shows it.")]


@app.command("list")
def list_adapters(home: Home = DEFAULT_HOME, life: Life = "", as_json: AsJson = False) -> None:
    """Lists the adapters, what they gained, and whether they fit the champion.

    oliveira adapters list

    oliveira adapters list --json
    """
    folder = life_folder(home, life)
    champion = _champion(folder)
    rows = [_told(folder, name, champion) for name in adapter_names.adapter_names(folder.absolute())]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("name", "fits the champion", "bits per byte", "rank", "MB")
    for row in rows:
        bits = row.get("bits_per_byte")
        gain = local(f"{bits['before']:.3f} → {bits['after']:.3f}") if bits else "–"
        size = figure(row["bytes"] / 1e6, ".1f") if "bytes" in row else "–"
        table.add_row(row["name"], translate("yes" if row["fits"] else "no"), gain, str(row.get("rank", "–")), size)
    Console(highlight=False).print(table)


@app.command()
def show(name: Name, home: Home = DEFAULT_HOME, life: Life = "", as_json: AsJson = False) -> None:
    """Shows how an adapter was made, on what, and what it gained.

    oliveira adapters show ana

    oliveira adapters show ana --json
    """
    folder = life_folder(home, life)
    told = _told(folder, name, _champion(folder))
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for key, value in told.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = ", ".join(map(str, value)) if isinstance(value, list) else text
        Console(highlight=False, soft_wrap=True).print(f"{key.replace('_', ' '):<14} {local(str(text))}", markup=False)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What clients will send as `model`.")],
    folder: Annotated[Path, typer.Argument(help="Of peft: adapter_config.json and adapter_model.safetensors.")],
    replace: Annotated[bool, typer.Option("--replace", help="Take the name from the adapter that has it.")] = False,
    home: Home = DEFAULT_HOME,
    life: Life = "",
) -> None:
    """Takes over an adapter that peft has trained on the champion's weights.

    oliveira adapters add ana my-peft-folder

    oliveira adapters add ana my-peft-folder --replace
    """
    from oliveira.artifact import open_artifact
    from oliveira.lifecycle.outward import add_peft

    artifact = open_artifact(find_artifact(home, "champion", life))
    stored = add_peft(life_folder(home, life).absolute(), artifact, name, folder, replace=replace)
    print(translate(f"adapter {name}: rank {stored.rank}, on {', '.join(stored.targets)}"))
    print(translate(f'next: send "model": "{name}" to the server'))


@app.command()
def remove(name: Name, home: Home = DEFAULT_HOME, life: Life = "") -> None:
    """Removes an adapter; a running server stops answering to its name at once.

    oliveira adapters remove ana

    oliveira adapters list
    """
    adapter_names.remove(life_folder(home, life).absolute(), name)
    print(translate(f"adapter {name} is removed"))


def _champion(home: Path) -> str:
    """SHA-256 of the champion's weights; "" before there is one."""
    with read_ledger(home) as ledger:
        digest = ledger.alias("champion")
        row = ledger.artifact(digest) if digest else None
    return adapter_names.weights_digest(row.path) if row else ""


def _told(home: Path, name: str, champion: str) -> dict[str, Any]:
    described = adapter_names.describe(home.absolute(), name)
    return {**described, "fits": bool(champion) and described["base"] == champion}
