"""The world a home was made with: a start without flags goes on with it, another text or world is asked for first.

    in force = remembered world + what changed in the world's file + environment + --text + --set

Remembered from the moment that something was learnt. `--set` and the environment name the field they change; what
--world and --text would change besides is shown, and done when a person at a terminal says yes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oliveira.data.sources import PATH
from oliveira.errors import CorruptError, UserError
from oliveira.files import expand, write_json_atomic
from oliveira.ledger import Ledger
from oliveira.ledger.lives import home_of
from oliveira.ledger.store import check_not_lost
from oliveira.world import ENVIRONMENT_PREFIX, World, load_world

if TYPE_CHECKING:
    from oliveira.lifecycle.plan import Plan

MEMORY = "remembered.json"
IN_FORCE = "world.json"  # what the running processes read: with what was planned for the text and this one start
SHOWN = 4  # changed fields named in a sentence
DEFAULT, OF_A_BASE = "default", "assistant"  # the worlds of a first start that names none
_FOLDER = re.compile(r"(?<=path:)[^?]*/")


@dataclass(frozen=True)
class Asked:
    """What a start asks for; what no flag gave is empty. `task`: its whole name."""

    world: str = ""
    text: str = ""
    overrides: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None
    task: str = ""
    model: str = ""
    base: str = ""  # a name of ours, or path:PLACE


@dataclass(frozen=True)
class Chosen:
    world: World
    name: str  # of the world's file
    explicit: frozenset[str]  # dotted fields that a person set, now or before: no plan changes them


def choose(home: Path, asked: Asked, confirm: Callable[[str], bool] | None = None) -> Chosen:
    """The world for this start. Raises `UserError` naming what differs from the home's own, before any work.

    `confirm` asks the person at the terminal; None where there is nobody.
    """
    own_sets = dict(asked.overrides or {})
    sets = dict(own_sets)
    if asked.text:
        sets.setdefault("data.base", json.dumps(f"path:{expand(asked.text).absolute()}"))
    for field, value in (("task.name", asked.task), ("task.model", asked.model), ("base.name", asked.base)):
        if value:
            sets.setdefault(field, json.dumps(value))
    environment = dict(os.environ if asked.environment is None else asked.environment)
    known = _recall(home)
    name = asked.world or (known["name"] if known else OF_A_BASE if asked.base else DEFAULT)
    explicit = frozenset([*(known["explicit"] if known else ()), *_explicit(asked.world, own_sets, environment)])
    if known is None:
        begun = None if asked.world or asked.text or asked.task or asked.base else _begun(home)
        world = (
            load_world(home / IN_FORCE, sets, environment, tree=begun) if begun else load_world(name, sets, environment)
        )
        return Chosen(world, name, explicit)
    tree = known["world"]
    if asked.world:
        now = load_world(asked.world, None, {}).model_dump()
        tree = _merged(tree, known["file"], now) if known["file"] else now
    wanted = load_world(home / IN_FORCE, sets, environment, tree=tree)
    _check_same_task(home, known["world"]["task"]["name"], wanted.task.name)
    if known["world"]["base"]["name"] or wanted.base.name:
        from oliveira.lifecycle.bases import check_same_base

        check_same_base(home, known["world"]["base"]["name"], wanted.base.name)
    consented = load_world(home / IN_FORCE, own_sets, environment, tree=known["world"])
    surprises = _differences(consented, wanted)
    surprises.pop("base.name", None)  # of the same weights: only their place has changed
    if surprises:
        _ask(home, asked, World.model_validate(known["world"]), surprises, confirm)
    return Chosen(wanted, name, explicit)


def fitted(home: Path, chosen: Chosen) -> Plan:
    """Its windows and budgets made to fit a text of the person's own. Raises `UserError` if that is too little."""
    from oliveira.lifecycle.own_lengths import own_lengths
    from oliveira.lifecycle.plan import Plan, plan

    if (without := _without_its_file(home, chosen.world)) is not None:
        return without
    if chosen.world.task.name:
        from oliveira.lifecycle.task_plan import check_task

        check_task(chosen.world)
        return Plan(chosen.world)
    if chosen.world.base.name:
        from oliveira.lifecycle.bases import check_unchanged

        check_unchanged(home, chosen.world)
    data = chosen.world.data
    lengths = own_lengths(home, data.base, data.max_chars) if data.base.startswith(PATH) else None
    return plan(chosen.world, lengths, chosen.explicit) if lengths is not None else Plan(chosen.world)


def _without_its_file(home: Path, world: World) -> Plan | None:
    """As it was planned, where the data are gone and all that is learnt from them is there."""
    from oliveira.lifecycle.own_file import gone, gone_line, kept_plan, serves_without
    from oliveira.lifecycle.plan import Plan

    if (place := gone(world)) is None or (known := _recall(home)) is None or not (home / IN_FORCE).is_file():
        return None
    in_force = World.model_validate(json.loads((home / IN_FORCE).read_bytes())).model_dump()
    with Ledger(home, reads=True) as ledger:
        if not serves_without(ledger, world, in_force):
            return None
    return Plan(kept_plan(world, in_force, known["world"]), warning=gone_line(world, place))


def remember(home: Path, chosen: Chosen) -> None:
    """For the next start: what was chosen, without what is planned for the text or meant for one start."""
    try:
        file = load_world(chosen.name, None, {}).model_dump()
    except UserError:  # the file of its first start is gone: the world itself is here
        file = None
    memory = {
        "name": chosen.name,
        "file": file,
        "world": chosen.world.model_dump(),
        "explicit": sorted(chosen.explicit),
    }
    write_json_atomic(home / MEMORY, memory)


def is_new(home: Path) -> bool:
    """Nothing was learnt in it yet."""
    return _recall(home) is None


def _explicit(world: str, sets: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[str]:
    """Fields named by --set, by the environment, and in a world file of the person's own."""
    yield from sets
    for name in environment:
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            yield name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
    if world.endswith(".toml"):
        with contextlib.suppress(OSError, ValueError):  # `load_world` says what is wrong with it
            yield from _flat(tomllib.loads(Path(world).read_text(encoding="utf-8")))


def _begun(home: Path) -> dict[str, Any] | None:
    """Of a life beside others: what it was started with before it had learnt anything. It was named: it is meant."""
    if home_of(home) == home or not (home / IN_FORCE).is_file():
        return None
    try:
        return World.model_validate_json((home / IN_FORCE).read_bytes()).model_dump()
    except ValueError:
        return None


def _recall(home: Path) -> dict[str, Any] | None:
    """What `remember` wrote; None for a home in which nothing was learnt yet."""
    ledger_file = home / "ledger.sqlite"
    if not ledger_file.is_file() or not ledger_file.stat().st_size:
        check_not_lost(home)
        return None
    with Ledger(home, reads=True) as ledger:
        if not ledger.is_made():
            return None
        if not any(row.name in ("train", "bring_in") for row in ledger.stages()):
            return None
    for path in (home / MEMORY, home / IN_FORCE):  # a home of an older version has the second alone
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_bytes())
            if path.name == IN_FORCE:
                found = {"name": DEFAULT, "file": None, "world": found, "explicit": []}
            _check(found)
            return found | {"world": World.model_validate(found["world"]).model_dump()}
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, _Damaged):
            raise CorruptError(
                f"{path} is damaged. Remove it and name the world again (--world, --text, --set): what was made stays."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} is not a world that this version reads ({reason}). Use the version of Oliveira that wrote it, "
                "or another --home."
            ) from None
    return None


class _Damaged(Exception):
    """JSON, and not of the form that `remember` writes."""


def _check(found: Any) -> None:
    kinds = {"name": str, "file": dict | None, "world": dict, "explicit": list}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise _Damaged
    if not all(isinstance(name, str) for name in found["explicit"]):
        raise _Damaged


def _merged(mine: dict[str, Any], then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """`mine` with what changed in the file between then and now."""
    result = dict(mine)
    for key, value in now.items():
        if isinstance(value, dict):
            result[key] = _merged(mine[key], then.get(key, {}), value)
        elif value != then.get(key):
            result[key] = value
    return result


def _check_same_task(home: Path, mine: str, wanted: str) -> None:
    """A life answers one task for good: its clients' requests, truths and older models are of that one. Its file may
    move to another folder."""
    if _FOLDER.sub("", mine) != _FOLDER.sub("", wanted):
        raise UserError(
            f"home {home} lives with another task ({mine or 'text'}), not {wanted or 'text'}. "
            "--life NAME adds a life beside it, served by that name."
        )


def _differences(before: World, after: World) -> dict[str, tuple[Any, Any]]:
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value and name != "name"}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _ask(
    home: Path,
    asked: Asked,
    made_with: World,
    surprises: dict[str, tuple[Any, Any]],
    confirm: Callable[[str], bool] | None,
) -> None:
    shown = [f"{name} = {old} → {new}" for name, (old, new) in surprises.items()]
    text = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    given = (("--world", asked.world), ("--text", asked.text), ("--task", asked.task), ("--model", asked.model))
    flags = " and ".join(flag for flag, value in given if value)
    if confirm is not None and confirm(f"home {home} was made otherwise: {text}. Learn anew in this home?"):
        return
    name, (_, new) = next(iter(surprises.items()))
    own = made_with.task.name or made_with.data.base
    raise UserError(
        f"home {home} was made with another world ({own}): {flags} would change {text}. Leave {flags} "
        f"out to go on with its own, change it on purpose (--set {name}={new}), or give another --home."
    )
