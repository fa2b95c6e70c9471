"""Texts of the user's, a folder (or a .zip) with a folder a class, as the rows of a table of texts and labels."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from oliveira.data.collection import Collection, Member, collection
from oliveira.data.folder import Teller
from oliveira.data.labelled import Labelled
from oliveira.data.roles import FEWEST_TEXTS, TextRoles, enough
from oliveira.data.text import clean
from oliveira.data.text_files import MAX_WHOLE, TextFile, read_file
from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_json


def texts_of(path: Path, column: str = "") -> tuple[TextRoles, tuple[str, ...], str]:
    """The rows, how they were read, the digest of all. `column` of .csv and .jsonl in it; "" = guessed.

    Raises `UserError` with one sentence.
    """
    with collection(path, "texts") as folder:
        signature = folder.signature
    return _read(path, column, signature)


@functools.lru_cache(maxsize=2)
def _read(path: Path, column: str, signature: str) -> tuple[TextRoles, tuple[str, ...], str]:
    rows: list[Labelled] = []
    digests: list[tuple[str, str]] = []
    told: list[str] = []
    empty, first, tell = 0, None, Teller(told.append)
    with collection(path, "texts") as folder:
        for member in folder.members:
            raw = folder.bytes_of(member, MAX_WHOLE)
            digests.append((member.label, sha256_bytes(raw)))
            try:
                texts = [clean(part.text) for part in read_file(_file(folder, member, raw), tell, column, MAX_WHOLE)]
            except UserError as error:
                first = first or error
                tell(f"passed over: {error}")
                continue
            empty += sum(not text for text in texts)
            rows += [
                (f"{digests[-1][1][:16]}-{len(rows) + number:06d}", text, member.label)
                for number, text in enumerate(filter(None, texts))
            ]
        labels, said = folder.labels, list(folder.said)
    tell.end()
    if first and not rows:
        raise first
    kept = enough(rows)
    if len({label for _, _, label in kept}) < 2:
        raise UserError(f"fewer than two classes of {path} hold {FEWEST_TEXTS} different texts. Add texts.")
    said = [f"{len(rows)} texts in {len(labels)} classes", *said, *told]
    said += [f"{empty} empty texts are left out"] if empty else []
    if rare := len(rows) - len(kept):
        said.append(f"{rare} texts are left out: their class has fewer than {FEWEST_TEXTS} different ones")
    return TextRoles(kept, "text", "folder", ()), tuple(said), sha256_json(sorted(digests))


def _file(folder: Collection, member: Member, raw: bytes) -> TextFile:
    @contextlib.contextmanager
    def opened() -> Iterator[tuple[BinaryIO, int]]:
        yield io.BytesIO(raw), len(raw)

    return TextFile(member.name, str(folder.path / member.name), opened)
