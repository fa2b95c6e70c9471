"""A home in one file, while it is served: everything that cannot be made again, each member with its sha256.

    manifest.json       format, version, when, champion, {member: {"size", "sha256"}}
    ledger.sqlite       one consistent moment; taken first, so that every artifact that it names is on disk already
    remembered.json, world.json, artifacts/, adapters/, runs/ (curves, no checkpoints), stages/ of the life in force
    lives/NAME/         the same of every other life
    traffic/            only if asked for, as the ledger's rows of requests: they are private

A zip, because it says where its members are before any is read. Caches, logs and locks stay behind.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oliveira import __version__, artifact
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.files import explain_disk, fsync_path, readable_json, scratch_folder
from oliveira.ledger import LIFE, Ledger
from oliveira.ledger.lives import FOLDER, OWN, lives, main_life
from oliveira.lifecycle.pipeline import RECORD
from oliveira.lifecycle.remembered import IN_FORCE, MEMORY
from oliveira.process.progress import Reporter
from oliveira.serving.adapter_names import FOLDER as ADAPTERS
from oliveira.serving.adapter_names import adapter_names
from oliveira.training.loop import CHECKPOINT

MANIFEST, LEDGER = "manifest.json", "ledger.sqlite"
FORMAT, VERSION = "oliveira-home", 1
PRIVATE = ("answer",)  # tables of requests and answers: as private as the traffic
_PACKED = {".safetensors", ".onnx", ".png"}  # a second time they get no smaller
_CHUNK = 1 << 20


def back_up(ledger: Ledger, file: Path, report: Reporter, *, with_traffic: bool) -> dict[str, Any]:
    """Writes `file`, whole or not at all. Returns what is in it. Raises OliveiraError."""
    if file.exists():
        raise UserError(f"{file} exists already. Give another name: a backup replaces nothing.")
    started, home = time.monotonic(), ledger.home
    report.begin("backup")
    main = main_life(home)
    with explain_disk(file), scratch_folder(file) as scratch:
        members, left_out, champion = _of_life(ledger, home, scratch, with_traffic=with_traffic)
        for name in lives(home):
            if name != OWN:
                inside = f"{FOLDER}/{name}"
                with Ledger(home / inside, reads=True) as other:
                    found, damaged, best = _of_life(other, home / inside, scratch / inside, with_traffic=with_traffic)
                members |= {f"{inside}/{member}": path for member, path in found.items()}
                left_out += damaged
                champion = best if name == main else champion
        about = {
            "format": FORMAT, "version": VERSION, "program": __version__, "made": ledger.clock(),
            "champion": champion, "traffic": with_traffic, "left_out": left_out,
        }  # fmt: skip
        made = scratch / "archive"
        _write(made, members, about, report)
        fsync_path(made)
        made.replace(file)
        fsync_path(file.parent)
    size = file.stat().st_size
    report.done("backup", time.monotonic() - started, champion or "", reused=False, text=f"{size / 1e6:.1f} MB")
    for name in left_out:
        report.say(f"artifact {name[:12]} is damaged or gone: it is not in the backup.")
    return {"file": str(file), "bytes": size, "members": len(members), **about}


def _of_life(
    ledger: Ledger, home: Path, scratch: Path, *, with_traffic: bool
) -> tuple[dict[str, Path], list[str], str | None]:
    """Members of one life's folder, its damaged artifacts, its champion."""
    scratch.mkdir(parents=True, exist_ok=True)
    ledger.copy_to(scratch / LEDGER, without=() if with_traffic else PRIVATE)
    with Ledger(scratch) as copy:
        champion = copy.alias("champion")
        artifacts, left_out = _whole_artifacts(copy, home)
        folders = [*artifacts, *_stages(copy, home)]
    folders += [home / ADAPTERS / name for name in adapter_names(home)]
    members = {LEDGER: scratch / LEDGER}
    members |= {name: home / name for name in (MEMORY, IN_FORCE) if (home / name).is_file()}
    members |= {path.relative_to(home).as_posix(): path for folder in folders for path in _files(folder)}
    members |= {path.relative_to(home).as_posix(): path for path in _runs(home)}
    if with_traffic:
        members |= {path.relative_to(home).as_posix(): path for path in _files(home / "traffic")}
    return members, left_out, champion


def _whole_artifacts(ledger: Ledger, home: Path) -> tuple[list[Path], list[str]]:
    """Verified folders, and digests of what is not as it was written. Raises CorruptError where that is the champion:
    a backup that cannot serve would be found out too late."""
    folders, left_out = [], []
    for row in ledger.artifacts():
        path = home / row.path.relative_to(ledger.home)
        try:
            artifact.open_artifact(path, row.digest)
            folders.append(path)
        except CorruptError as error:
            if row.digest == ledger.alias("champion"):
                raise CorruptError(
                    f"the champion {row.digest[:12]} is damaged ({error}). `oliveira swap` or `oliveira rollback` to "
                    "another, then back up."
                ) from None
            left_out.append(row.digest)
    return folders, left_out


def _stages(ledger: Ledger, home: Path) -> Iterator[Path]:
    """Finished ones of the life in force; others are made again when their world comes back."""
    for name, key in (ledger.setting(LIFE) or {}).items():
        folder = home / "stages" / name / str(key)[:16]
        if (folder / RECORD).is_file():
            yield folder


def _runs(home: Path) -> Iterator[Path]:
    return (path for path in _files(home / "runs") if not path.name.startswith(Path(CHECKPOINT).stem))


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below it; nothing that is being written, and no link."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
            if path.is_file() and not path.is_symlink():
                yield path


def _write(made: Path, members: dict[str, Path], about: dict[str, Any], report: Reporter) -> None:
    total = sum(path.stat().st_size for path in members.values())
    told: dict[str, dict[str, Any]] = {}
    done = 0
    with os.fdopen(os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
        with zipfile.ZipFile(file, "w", compresslevel=1) as packed:
            for name, path in members.items():
                digest, size = hashlib.sha256(), 0
                try:
                    with path.open("rb") as source, packed.open(_info(name), "w", force_zip64=True) as target:
                        while chunk := source.read(_CHUNK):
                            digest.update(chunk)
                            target.write(chunk)
                            size += len(chunk)
                            report.progress(min(1.0, (done + size) / max(1, total)), f"{(done + size) / 1e6:.0f} MB")
                except FileNotFoundError:
                    raise OliveiraError(f"{path} went away while it was copied. Back up once more.") from None
                done += size
                told[name] = {"size": size, "sha256": digest.hexdigest()}
            packed.writestr(_info(MANIFEST), readable_json({**about, "members": told}))
        file.flush()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    info.compress_type = zipfile.ZIP_STORED if Path(name).suffix in _PACKED else zipfile.ZIP_DEFLATED
    return info
