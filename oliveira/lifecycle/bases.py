"""Trained weights that a life begins with: known by their bytes, read from a package or from a place of the user's.

A home keeps its base: the requests, adapters and older models of its clients are of that one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from oliveira.data import weights
from oliveira.data.routes import Say
from oliveira.data.sources import PATH
from oliveira.errors import UserError
from oliveira.files import expand, sha256_file, sha256_json, write_json_atomic
from oliveira.ledger import Ledger
from oliveira.world import World

STAGE = "bring_in"
PACKAGED = {"smollm2": weights.SMOLLM2}
_READ = (".gguf", ".safetensors", ".json", ".jinja", ".txt", ".model")  # of a folder; others change nothing
_MEMO = "bases.json"


def spec_of(given: str) -> str:
    """What --base means: a name of ours, else a place. Raises `UserError` where nothing is there."""
    if given in PACKAGED:
        return given
    place = expand(given.removeprefix(PATH)).absolute()
    if not place.exists():
        raise UserError(
            f"--base {given} is neither there nor one of {', '.join(PACKAGED)}. Give one of these, a Hugging Face "
            "folder or a .gguf file."
        )
    return f"{PATH}{place}"


def place_of(spec: str) -> Path | None:
    """Of the user's own; None for weights of a package."""
    return Path(spec.removeprefix(PATH)) if spec.startswith(PATH) else None


def fingerprint(spec: str, home: Path) -> str:
    """Of what the weights are, not of where they lie. Raises `UserError`."""
    if (place := place_of(spec)) is None:
        if spec not in PACKAGED:
            raise UserError(f"base.name = {spec} is not known. Use {', '.join(PACKAGED)}, or {PATH}PLACE of your own.")
        return sha256_json({"package": PACKAGED[spec].package.sha256})
    memo = home / "cache" / _MEMO
    known: dict[str, list[object]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads(memo.read_bytes()))
    try:
        found = {path.name: _digest(path, known) for path in _files(place)}
    except OSError as error:
        raise UserError(
            f"{place} cannot be read ({(error.strerror or str(error)).lower()}). Allow it (chmod u+r)."
        ) from None
    if (home / "ledger.sqlite").is_file():
        with contextlib.suppress(OSError):
            memo.parent.mkdir(exist_ok=True)
            write_json_atomic(memo, {str(place / name): row for name, row in found.items()})
    digests = {name: row[-1] for name, row in found.items()}
    return sha256_json({"file": digests[place.name]} if place.is_file() else {"files": digests})


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.exists():
        raise UserError(f"{place} is gone: nothing can begin with its weights. Put it back there.")
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in _READ and path.is_file())
    if not found:
        raise UserError(f"{place} holds no weights. Give a Hugging Face folder or a .gguf file.")
    return found


def _digest(path: Path, known: dict[str, list[object]]) -> list[object]:
    """Size, time of the last change and sha256: gigabytes are read again only where one of the first two is new."""
    about = path.stat()
    row = known.get(str(path))
    if isinstance(row, list) and row[:2] == [about.st_size, about.st_mtime_ns]:
        return row
    return [about.st_size, about.st_mtime_ns, sha256_file(path)]


@contextlib.contextmanager
def opened(spec: str, home: Path, say: Say) -> Iterator[Path]:
    """The file or folder, for as long as it is read."""
    if (place := place_of(spec)) is not None:
        yield place
        return
    known = PACKAGED[spec]
    with weights.on_disk(known, Path(known.package.probe).name, home / "cache", say) as file:
        yield file


def check_same_base(home: Path, mine: str, wanted: str) -> None:
    """Raises `UserError` where a life has begun otherwise. Its files may have moved."""
    if mine == wanted:
        return
    if mine and wanted and (begun := _begun_with(home)) is not None:
        with contextlib.suppress(UserError):
            if fingerprint(wanted, home) == begun:
                return
    raise UserError(
        f"home {home} lives with another base ({mine or 'trained from nothing'}), not {wanted or 'one from nothing'}. "
        "--life NAME adds a life beside it, served by that name."
    )


def check_unchanged(home: Path, world: World) -> None:
    """Raises `UserError` where other weights lie at the place that the life began with."""
    begun = _begun_with(home)
    if world.base.name and begun is not None and fingerprint(world.base.name, home) != begun:
        raise UserError(
            f"the weights at {place_of(world.base.name)} are not those that home {home} began with. Put those back, or "
            "begin another life with these: --life NAME --base PLACE."
        )


def _begun_with(home: Path) -> str | None:
    if not (home / "ledger.sqlite").is_file():
        return None
    with Ledger(home, reads=True) as ledger:
        rows = ledger.stages() if ledger.is_made() else []
        return next((row.inputs.get("weights") for row in rows if row.name == STAGE), None)


def licence(spec: str) -> str:
    """Of weights that are pinned here; "" for others, whose files may say it."""
    return PACKAGED[spec].licence if spec in PACKAGED else ""
