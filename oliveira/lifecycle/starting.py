"""What `oliveira up` starts: which life is meant, and by what worlds the others of the home go on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from oliveira.errors import OliveiraError, UserError
from oliveira.language import translate
from oliveira.ledger.lives import OF_THE_HOME, chosen, lives, main_life, place
from oliveira.lifecycle.remembered import Asked, choose, fitted
from oliveira.serving.adapter_names import check_life
from oliveira.terminal import say_error
from oliveira.world import World


def life_to_start(home: Path, named: str, sets: Iterable[str], *, meant: bool) -> str:
    """The life that the flags are for; a new name adds one. `meant`: some flag is for a life. Raises `UserError`."""
    there = lives(home)
    if named:
        check_life(home, named)
    name = named or (chosen(home) if meant else main_life(home))
    if there and name != (main := main_life(home)):
        for field in sets:
            if field in OF_THE_HOME:
                raise UserError(f"{field} is of the whole home: set it with --life {main}, not with --life {name}.")
    return name


def worlds_of_others(home: Path, name: str) -> dict[str, World]:
    """Every other life goes on with what it remembers. One that cannot is told, and is served as it was."""
    found = {}
    for other in lives(home):
        if other == name:
            continue
        folder = place(home, other)
        try:
            planned = fitted(folder, choose(folder, Asked(environment={})))
            found[other] = planned.world
            if planned.warning:
                say_error(translate(f"life {other}: {translate(planned.warning)}"))
        except OliveiraError as error:
            say_error(translate(f"life {other}: {translate(str(error))}"))
    return found
