"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from oliveira.errors import UserError
from oliveira.ledger import Ledger
from oliveira.ledger.lives import chosen, place
from oliveira.ledger.store import check_not_lost

Home = Annotated[Path, typer.Option(help="Folder of all state.", envvar="OLIVEIRA_HOME")]
Life = Annotated[str, typer.Option("--life", help="Of a home with several lives: the one that is meant.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Target = Annotated[str, typer.Option(help="Of your own table: the column to learn; empty: guessed, and said.")]
Time = Annotated[str, typer.Option(help="Of your own table: the column of times; empty: the first one, or none.")]
TextColumn = Annotated[str, typer.Option("--text", help="Of your own table: the column of texts; empty: guessed.")]
SourceColumn = Annotated[str, typer.Option("--source", help="Of your own pairs: the column to write from.")]
Size = Annotated[int, typer.Option(help="Side of your own pictures, pixels; 0: what suits them, up to 64.", min=0)]
Features = Annotated[str, typer.Option(help="Of your own series: columns that are inputs too, a,b.")]
KnownFuture = Annotated[str, typer.Option(help="Of your own series: inputs that are known for the horizon too, a,b.")]
Group = Annotated[str, typer.Option(help="Of your own series: the column that tells several apart.")]
Horizon = Annotated[int, typer.Option(help="Steps to forecast; 0: what suits the steps.", min=0)]
History = Annotated[int, typer.Option(help="Steps to forecast from; 0: what suits the steps.", min=0)]
DEFAULT_HOME = Path(".oliveira")
TableOptions = dict[str, Any]
ALIASES = ("champion", "previous", "challenger")


def life_folder(home: Path, life: str = "") -> Path:
    """Of the life that is meant. Raises `UserError` where that is not clear."""
    return place(home, chosen(home, life))


def _table(
    target: Target = "",
    time: Time = "",
    text: TextColumn = "",
    source: SourceColumn = "",
    size: Size = 0,
    features: Features = "",
    known_future: KnownFuture = "",
    group: Group = "",
    horizon: Horizon = 0,
    history: History = 0,
) -> None:
    """What may be said of a user's own table or folder."""


_OF_A_TABLE = inspect.signature(_table, eval_str=True).parameters


def of_a_table(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options in the place of its keyword `options`, which gets them as one dictionary."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        part.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, own in signature.parameters.items()
        for part in (_OF_A_TABLE.values() if name == "options" else [own])
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = {name: given.pop(name) for name in _OF_A_TABLE}
        command(**given, options=options)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {part.name: part.annotation for part in parameters}
    return run


def open_ledger(home: Path) -> Ledger:
    """The ledger of a home that exists, or of a life's folder, to write to. A mistyped path must not make one."""
    _check_ledger(home)
    return Ledger(home.absolute())


def read_ledger(home: Path) -> Ledger:
    """The same for a command that only looks: an older home stays as it is, for the version that wrote it."""
    _check_ledger(home)
    ledger = Ledger(home.absolute(), reads=True)
    if not ledger.is_made():
        ledger.close()
        raise _no_ledger(home)
    return ledger


def _check_ledger(home: Path) -> None:
    file = home / "ledger.sqlite"
    if not file.is_file() or not file.stat().st_size:  # an empty one is what a kill at the first moment leaves
        check_not_lost(home)
        raise _no_ledger(home)


def _no_ledger(home: Path) -> UserError:
    return UserError(f"--home {home} holds no ledger. Start with `oliveira up`, or give the folder that it used.")


def front_of(home: Path) -> tuple[str, int]:
    """Host and port of the server of this home."""
    try:
        front = json.loads((home / "front.json").read_bytes())
        return str(front["host"]), int(front["port"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--home {home} has no running server. Start `oliveira up` first.") from None


def find_artifact(home: Path, name: str, life: str = "") -> Path:
    """The folder of an artifact: a path, an alias of the ledger, or what a run (path or TASK/MODEL) has made."""
    from oliveira.artifact import MANIFEST
    from oliveira.runs.records import find_run

    path = Path(name).absolute()
    if (path / MANIFEST).is_file():
        return path
    if name in ALIASES:
        with read_ledger(life_folder(home, life)) as ledger:
            digest = ledger.alias(name)
            row = ledger.artifact(digest) if digest else None
        if row is None:
            raise UserError(f"there is no {name} in --home {home} yet. Give an artifact's folder, or a run TASK/MODEL.")
        return row.path
    return find_run(home.absolute(), name).absolute() / "artifact"
