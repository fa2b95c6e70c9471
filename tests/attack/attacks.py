"""The list of attacks. Each is a function of a `Life`; its name is its function's, its sentence the docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.attack.life import Life

Act = Callable[["Life"], "str | None"]  # returns a word on what was seen; raises AssertionError when the house failed


class Attack(NamedTuple):
    name: str
    act: Act
    kills: bool  # processes of the house may die of it, on purpose

    @property
    def says(self) -> str:
        return (self.act.__doc__ or "").strip().splitlines()[0]


class Skipped(Exception):
    """This machine cannot do it: the reason."""


ATTACKS: dict[str, Attack] = {}


def attack(act: Act) -> Act:
    return _add(act, kills=False)


def killing(act: Act) -> Act:
    return _add(act, kills=True)


def _add(act: Act, *, kills: bool) -> Act:
    name = act.__name__.replace("_", "-")
    assert name not in ATTACKS and act.__doc__, name
    ATTACKS[name] = Attack(name, act, kills)
    return act
