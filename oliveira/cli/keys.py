"""`oliveira keys`: who may talk to the server."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, open_ledger, read_ledger
from oliveira.cli.table import Table
from oliveira.errors import UserError
from oliveira.language import translate
from oliveira.ledger import Ledger
from oliveira.ledger.lives import home_of

app = typer.Typer(
    help="Keys of the server: create, list, revoke.\n\n"
    "  oliveira keys create ana\n\n  oliveira keys create console --admin",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    admin: Annotated[bool, typer.Option("--admin", help="May also swap, roll back and retrain.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Makes a key and prints it once; only a salted hash is kept.

    oliveira keys create ana

    oliveira keys create console --admin
    """
    if not name.strip() or len(name) > 64 or not name.strip().isprintable():
        raise UserError(f"key name {name[:20]!r} must have 1 to 64 characters, all of which can be shown.")
    with Ledger(home_of(home.absolute())) as ledger:
        print(ledger.add_key(name.strip(), ("use", "admin") if admin else ("use",)))


@app.command("list")
def list_keys(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Shows every key, without its secret.

    oliveira keys list

    oliveira keys list --json
    """
    with read_ledger(home_of(home.absolute())) as ledger:
        found = ledger.keys()
    if as_json:
        print(json.dumps([vars(key) for key in found], indent=2))
        return
    table = Table("id", "name", "scopes", "created", "state")
    for key in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created))
        table.add_row(key.id, key.name, " ".join(key.scopes), when, _state(key.revoked))
    Console().print(table)


def _state(revoked: float | None) -> str:
    return (
        translate("good")
        if revoked is None
        else f"{translate('revoked')} {time.strftime('%Y-%m-%d %H:%M', time.localtime(revoked))}"
    )


@app.command()
def revoke(
    numbers: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of keys, as `keys list` shows them.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Makes keys worthless within a second, without a restart. Until then they are good, also over restarts.

    oliveira keys revoke 3f2a9c

    oliveira keys revoke 3f2a9c 81d04b
    """
    with open_ledger(home_of(home.absolute())) as ledger:
        for number in numbers:
            ledger.revoke_key(number)
            print(translate(f"key {number} is revoked"))
