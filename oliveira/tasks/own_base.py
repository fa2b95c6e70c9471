"""What all tasks of a user's own data share: the file or folder, the name, what is said of how it was read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from oliveira.data.collection import Form
from oliveira.data.own_names import PATH
from oliveira.files import digest_directory, sha256_file, sha256_json
from oliveira.language import translate
from oliveira.tasks.base import Say, Task


@dataclass(frozen=True, kw_only=True)
class OwnTask(Task):
    OPTIONS: ClassVar[tuple[str, ...]]
    KIND: ClassVar[str]
    FORM: ClassVar[Form] = ""  # of a folder or .zip; "" = a table
    path: Path

    @property
    def options(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: getattr(self, name) for name in self.OPTIONS if getattr(self, name)}

    @property
    def folder(self) -> str:
        return folder_of(self.KIND, self.path)

    @property
    def label(self) -> str:
        return f"{self.KIND}{PATH}{self.path.name}"

    def fingerprint(self) -> str:
        self.check()  # says what is wrong with it
        return sha256_json(digest_directory(self.path)) if self.path.is_dir() else sha256_file(self.path)

    def say_all(self, lines: tuple[str, ...], say: Say) -> None:
        for line in lines:
            say(f"{self.path.name}: {translate(line)}")


def folder_of(kind: str, path: Path) -> str:
    """A short safe name: `forecast-consumo-1a2b3c4d`."""
    return f"{kind}-{short_name(path)}"


def short_name(path: Path) -> str:
    """Of a file with its whole path, in letters that every disk takes."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:32] or "table"
    return f"{word}-{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"
