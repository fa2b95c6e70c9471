"""Which LoRA adapters a home has, their names, and what they were trained on. No tensors: the front asks as well."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from oliveira.errors import CorruptError, UserError
from oliveira.ledger.lives import NAME as LIFE_NAME
from oliveira.ledger.lives import OWN, home_of, lives, name_of, place

FOLDER, DESCRIPTION, MADE = "adapters", "adapter.json", "made.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What a client may mean by these is the model itself: no adapter takes its requests.
RESERVED = ("oliveira", "champion", "challenger", "previous")
_DIGEST = re.compile(r"[0-9a-f]{12}([0-9a-f]{52})?", re.IGNORECASE)


def allowed(name: str) -> bool:
    """Whether an adapter may have this name."""
    return bool(NAME.fullmatch(name)) and name.lower() not in RESERVED and not _DIGEST.fullmatch(name)


def check_name(home: Path, name: str, *, replace: bool = False) -> None:
    """Raises `UserError` for a name that is not one, that means a model, or that is taken (unless `replace`)."""
    if not NAME.fullmatch(name):
        raise UserError(f"name {name[:80]!r} is not an adapter's. Use letters, digits, '.', '_' and '-', at most 64.")
    if not allowed(name):
        raise UserError(f"name {name!r} means the served model itself. Choose another name for the adapter.")
    root, mine = home_of(home), name_of(home)
    if name in lives(root):
        raise UserError(f"name {name!r} is a life's of {root}. Choose another name for the adapter.")
    owner = next((life for life in lives(root) if life != mine and name in adapter_names(place(root, life))), "")
    if owner:
        raise UserError(f"name {name!r} is taken by an adapter of the life {owner}. Choose another.")
    if not replace and (home / FOLDER / name).exists():
        raise UserError(
            f"name {name!r} is taken by an adapter of this home. Choose another, or add --replace "
            f"(`oliveira adapters show {name}` tells what it is)."
        )


def check_life(home: Path, name: str) -> None:
    """Raises `UserError` for a name that a new life of this home cannot have: all of them are names of models."""
    if name in lives(home) or name == OWN:
        return
    if not LIFE_NAME.fullmatch(name):
        raise UserError(f"--life {name[:80]!r} is not a name. Use small letters, digits and '-', at most 32.")
    if not allowed(name):
        raise UserError(f"--life {name} means a model of another life. Choose another name.")
    for life in lives(home):
        if name in adapter_names(place(home, life)):
            raise UserError(f"--life {name} is taken by an adapter of the life {life}. Choose another name.")


def adapter_names(home: Path, base: str = "") -> list[str]:
    """Folders of HOME/adapters that hold an adapter: the names that a client may send as `model`.

    `base`: only those that were trained on the weights with this SHA-256.
    """
    found = sorted(path.parent.name for path in (home / FOLDER).glob(f"*/{DESCRIPTION}"))
    return [name for name in found if allowed(name) and base in ("", _read(home / FOLDER / name).get("base"))]


def describe(home: Path, name: str) -> dict[str, Any]:
    """What is known of an adapter: rank, alpha, targets and base, and how it was made and measured."""
    folder = home / FOLDER / name
    _check_there(home, name)
    told = _read(folder)
    if not told:
        raise CorruptError(f"adapter {name}: {DESCRIPTION} cannot be read. `oliveira adapters remove {name}` drops it.")
    return {"name": name, **told, **_read(folder, MADE), "base": told.get("base")}


def remove(home: Path, name: str) -> None:
    """Takes the adapter away at once and whole: no half of it can be found."""
    _check_there(home, name)
    gone = home / FOLDER / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
    (home / FOLDER / name).replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _check_there(home: Path, name: str) -> None:
    if name not in adapter_names(home):
        known = ", ".join(adapter_names(home)) or "none yet; `oliveira adapt NAME FOLDER` makes one"
        raise UserError(f"adapter {name[:80]!r} is not in {home}. There are: {known}.")


def weights_digest(artifact: Path) -> str:
    """SHA-256 of an artifact's weights, as its manifest tells it: what an adapter names as its base."""
    try:
        return str(json.loads((artifact / "manifest.json").read_bytes())["files"]["model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _read(folder: Path, name: str = DESCRIPTION) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
