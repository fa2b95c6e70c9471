"""The lives of a home: each a folder with a ledger, artifacts and traffic of its own; keys and the server are shared.

HOME               the life `oliveira`, and what all lives share: keys, address, server, downloads
HOME/lives/NAME    another life, laid out as a home is
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from oliveira.errors import UserError
from oliveira.ledger.ledger import Ledger
from oliveira.process.locks import held

OWN = "oliveira"  # the life that lies in the home itself
FOLDER = "lives"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
SHARED = "cache"  # what one life has fetched, no other fetches again
MAIN = "main"  # setting of the home's ledger: the life that it began with
_WORLD = "world.json"
# What the front takes from the world of the main life for all of them.
OF_THE_HOME = (
    *("serve.host", "serve.connections", "serve.cors_origins", "serve.queue", "serve.deadline", "serve.drain"),
    *("serve.max_body", "serve.max_message", "serve.max_messages", "serve.memory", "serve.idle"),
)


def place(home: Path, name: str) -> Path:
    """The folder of a life."""
    return home if name == OWN else home / FOLDER / name


def home_of(folder: Path) -> Path:
    """The home to which the folder of a life belongs."""
    inside = folder.parent.name == FOLDER and NAME.fullmatch(folder.name) and folder.name != OWN
    return folder.parent.parent if inside else folder


def name_of(folder: Path) -> str:
    return OWN if home_of(folder) == folder else folder.name


def lives(home: Path) -> list[str]:
    """Names of those that were started here, `oliveira` first."""
    others = sorted(path.parent.name for path in (home / FOLDER).glob(f"*/{_WORLD}"))
    own = [OWN] if (home / _WORLD).is_file() else []
    return own + [name for name in others if NAME.fullmatch(name) and name != OWN]


def chosen(home: Path, name: str = "") -> str:
    """The life that is meant: the one that is named, the only one, or `oliveira`. Raises `UserError`."""
    there = lives(home)
    if name and name not in there and not (name == OWN and not there):
        raise UserError(f"--life {name[:80]} is not in --home {home}. Its lives: {', '.join(there) or 'none yet'}.")
    if name:
        return name
    if len(there) == 1:
        return there[0]
    if there and OWN not in there:
        raise UserError(f"--home {home} has several lives: {', '.join(there)}. Name one with --life.")
    return OWN


def main_life(home: Path) -> str:
    """The one whose world says how the home is served: `oliveira`, else the life that the home began with."""
    there = lives(home)
    if OWN in there or not there:
        return OWN
    if len(there) == 1 or not (home / "ledger.sqlite").is_file():
        return there[0]
    with Ledger(home, reads=True) as ledger:
        first = ledger.setting(MAIN) if ledger.is_made() else ""
    return str(first) if first in there else there[0]


def make_place(home: Path, name: str) -> Path:
    """The folder of a life, made where it is not there yet."""
    folder = place(home, name)
    if folder != home:
        folder.mkdir(parents=True, exist_ok=True)
        (home / SHARED).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / SHARED).symlink_to(Path("..") / ".." / SHARED)
    return folder


@contextlib.contextmanager
def work(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """One life of a home learns at a time. `waiting` is called with the name of the one that does, and may raise."""
    home = home_of(folder)
    with held(home / "work.lock", lambda number: waiting(_whose(home, number))):
        yield


def _whose(home: Path, number: str) -> str:
    """The life of a process, by the locks that it holds."""
    for name in lives(home):
        for role in ("loop", "update"):
            with contextlib.suppress(OSError):
                if (place(home, name) / f"{role}.lock").read_text().strip() == number:
                    return name
    return "another"
