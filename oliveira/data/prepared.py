"""Data that a task made once, kept under HOME/cache/tasks: used again as long as every byte is the one written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oliveira.data.routes import Say
from oliveira.files import atomic_directory, digest_directory, sha256_json, write_json_atomic

_MANIFEST = "manifest.json"


def prepared(home: Path, slug: str, key: dict[str, Any], build: Callable[[Path], None], say: Say) -> Path:
    """The folder HOME/cache/tasks/`slug`/digest-of-`key`, filled by `build(folder)` if it is not there whole.

    It appears when it is complete. `key` is JSON and names all that the files depend on: the sha256 of the rows, sizes,
    the number of the preparing code.
    """
    folder = home / "cache" / "tasks" / slug / sha256_json(key)[:16]
    if folder.is_dir():
        if _whole(folder):
            return folder
        say(f"{slug}: the prepared data in the cache are damaged: making them again")
    with atomic_directory(folder) as temporary:
        build(temporary)
        write_json_atomic(temporary / _MANIFEST, {"key": key, "files": digest_directory(temporary)})
    return folder


def _whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / _MANIFEST).read_bytes())["files"]
        found = digest_directory(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool({name: found.get(name) for name in files} == files)
