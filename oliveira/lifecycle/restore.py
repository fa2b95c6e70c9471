"""A home out of the file that `oliveira backup` wrote: verified member by member before any of it appears."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from oliveira import artifact
from oliveira.data.sources import PATH
from oliveira.errors import CorruptError, DiskError, UserError
from oliveira.files import expand, new_directory
from oliveira.ledger import Ledger
from oliveira.ledger.lives import OWN, lives, main_life, place
from oliveira.lifecycle.backup import FORMAT, LEDGER, MANIFEST, VERSION
from oliveira.lifecycle.remembered import IN_FORCE
from oliveira.process.progress import Reporter

_CHUNK = 1 << 20
_LARGEST_MANIFEST = 64 << 20  # bytes; a backup of 100,000 members has 12
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}  # EBUSY: a mounted volume cannot be renamed onto
# What a damaged zip makes of itself: wrong sums, torn streams, a method or an encryption that we never write.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def restore(file: Path, home: Path, report: Reporter) -> dict[str, Any]:
    """Makes `home`, which must not be there or be empty. Raises OliveiraError; then nothing of it is there."""
    _check_place(home)
    started = time.monotonic()
    report.begin("restore")
    with _explained(file, home), zipfile.ZipFile(file) as packed:
        about = _manifest(file, packed)
        members = _check_members(file, packed, about["members"])
        _check_space(home, sum(row["size"] for row in members.values()))
        with new_directory(home) as folder:
            _unpack(file, packed, members, folder, report)
            names = dict.fromkeys((OWN, *lives(folder)))
            champion = {name: _check_ledger(place(folder, name)) for name in names}[main_life(folder)]
    missing = [text for name in names for text in _missing_texts(place(home, name))]
    report.done("restore", time.monotonic() - started, champion or "", reused=False, text=str(home))
    for text in missing:
        report.say(f"its texts {text} are not here: `oliveira up` asks for them. Copy them there.")
    return {"home": str(home), "champion": champion, "members": len(members), "made": about.get("made")}


def _check_place(home: Path) -> None:
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise UserError(f"--home {home} is no folder. Give a new one.")
    if home.is_dir() and any(home.iterdir()):
        raise UserError(f"--home {home} is not empty. Give a new folder: a restore replaces nothing.")


@contextmanager
def _explained(file: Path, home: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != str(file):
            raise
        raise UserError(f"{file} is not there. Give the file that `oliveira backup` wrote.") from None
    except (IsADirectoryError, PermissionError) as error:
        if error.filename != str(file):
            raise
        raise UserError(f"{file} cannot be read. Give the file that `oliveira backup` wrote.") from None
    except _DAMAGE:
        raise CorruptError(f"{file} is damaged, or no backup of a home. Use another backup.") from None
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise UserError(f"--home {home} is in use or not empty. Give a folder that is not there yet.") from None


def _manifest(file: Path, packed: zipfile.ZipFile) -> dict[str, Any]:
    if MANIFEST not in packed.namelist() or packed.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
        raise UserError(f"{file} is no backup of a home. Give the file that `oliveira backup` wrote.")
    about = json.loads(packed.read(MANIFEST))
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{file} is no backup of a home. Give the file that `oliveira backup` wrote.")
    if about.get("version") != VERSION:
        raise UserError(
            f"{file} is a backup of version {about.get('version')}, this program knows {VERSION}. Use the version of "
            f"Oliveira that wrote it ({about.get('program')})."
        )
    return about


def _check_members(file: Path, packed: zipfile.ZipFile, told: Any) -> dict[str, dict[str, Any]]:
    """Exactly what the manifest names: regular files below the home, of the sizes that it says."""
    entries = [info for info in packed.infolist() if info.filename != MANIFEST]
    names = {info.filename for info in entries}
    exact = isinstance(told, dict) and names == told.keys() and len(names) == len(entries) and LEDGER in names
    if not exact or packed.namelist().count(MANIFEST) != 1:
        raise CorruptError(f"{file} does not hold what its manifest names. Use another backup.")
    above = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for info in entries:
        row = told[info.filename]
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG) and not info.is_dir()
        if not plain or not _is_below(info.filename) or info.filename in above:
            raise CorruptError(f"{file}: the name {info.filename[:80]!r} has no place in a home. Use another backup.")
        if not isinstance(row, dict) or row.get("size") != info.file_size or not isinstance(row.get("sha256"), str):
            raise CorruptError(f"{file}: {info.filename} is not the file that was written. Use another backup.")
    return dict(told)


def _is_below(name: str) -> bool:
    """A path that stays inside: no root, no way up, nothing that another system reads otherwise."""
    return not any(part in ("", ".", "..") for part in name.split("/")) and not set(name) & set("\\:\0")


def _check_space(home: Path, size: int) -> None:
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise DiskError(
            f"no space left at {home}: the backup needs {size / 2**20:.0f} MiB, {free / 2**20:.0f} are free. Free some "
            "space, or choose another --home."
        )


def _unpack(
    file: Path, packed: zipfile.ZipFile, members: dict[str, dict[str, Any]], folder: Path, report: Reporter
) -> None:
    total = max(1, sum(row["size"] for row in members.values()))
    done = 0
    for name, row in members.items():
        path, digest = folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(name) as source, path.open("xb") as target:
            if "traffic" in PurePosixPath(name).parts:
                path.chmod(0o600)  # as it was: prompts are private
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
                done += len(chunk)
                report.progress(done / total, f"{done / 1e6:.0f} MB")
        if digest.hexdigest() != row["sha256"]:
            raise CorruptError(f"{file}: {name} is not the file that was written. Use another backup.")


def _check_ledger(folder: Path) -> str | None:
    """It opens, its champion is whole, and wishes that waited in the old home are not acted upon in this one."""
    with Ledger(folder) as ledger:
        if not ledger.check():
            raise CorruptError("the ledger in the backup is damaged. Use another backup.")
        for wish in ledger.pending_wishes():
            ledger.withdraw_wish(wish.id, "it was asked for in the home that was backed up.")
        ledger.set_setting("serving", None)  # nothing serves here yet
        champion = ledger.alias("champion")
        if champion and (row := ledger.artifact(champion)):
            artifact.open_artifact(row.path, row.digest)
        return champion


def _missing_texts(home: Path) -> list[str]:
    """Folders of the person's own that the world names: they are not part of a home."""
    try:
        data = json.loads((home / IN_FORCE).read_bytes())["data"]
        named = [str(data[domain]) for domain in ("base", "new")]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    folders = [expand(spec.removeprefix(PATH)) for spec in named if spec.startswith(PATH)]
    return [str(folder) for folder in folders if not folder.exists()]
