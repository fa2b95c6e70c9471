"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oliveira.errors import UserError
from oliveira.lifecycle.ledger import Ledger

Home = Annotated[Path, typer.Option(help="Folder of all state.", envvar="OLIVEIRA_HOME")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_HOME = Path(".oliveira")


def open_ledger(home: Path) -> Ledger:
    """The ledger of a home that exists. Reading commands must not make one by a mistyped path."""
    if not (home / "ledger.sqlite").is_file():
        raise UserError(f"--home {home} holds no ledger. Start with `oliveira up`, or give the folder that it used.")
    return Ledger(home.absolute())
