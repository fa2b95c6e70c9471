"""Texts of the user's, a folder (or a .zip) with a folder a class, as the rows of a table of texts and labels."""

from __future__ import annotations

import functools
from pathlib import Path

from oliveira.data.collection import collection
from oliveira.data.encodings import decoded
from oliveira.data.labelled import Labelled
from oliveira.data.roles import FEWEST_TEXTS, TextRoles, enough
from oliveira.data.text import clean
from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_json

MAX_TEXT = 10 << 20  # bytes


def texts_of(path: Path) -> tuple[TextRoles, tuple[str, ...], str]:
    """The rows, how they were read, the digest of all. Raises `UserError` with one sentence."""
    with collection(path, "texts") as found:
        signature = found.signature
    return _read(path, signature)


@functools.lru_cache(maxsize=2)
def _read(path: Path, signature: str) -> tuple[TextRoles, tuple[str, ...], str]:
    rows: list[Labelled] = []
    digests, empty = [], 0
    with collection(path, "texts") as found:
        for member in found.members:
            raw = found.bytes_of(member, MAX_TEXT)
            if (read := decoded(raw)) is None:
                raise UserError(f"{path / member.name} is no text. Mend it, or move it out.")
            digests.append((member.label, sha256_bytes(raw)))
            text = clean(read[0])
            empty += not text
            rows += [(f"{digests[-1][1][:16]}-{len(rows):06d}", text, member.label)] if text else []
        labels, said = found.labels, list(found.said)
    kept = enough(rows)
    if len({label for _, _, label in kept}) < 2:
        raise UserError(f"fewer than two classes of {path} hold {FEWEST_TEXTS} different texts. Add texts.")
    said = [f"{len(rows)} texts in {len(labels)} classes", *said]
    said += [f"{empty} empty files are left out"] if empty else []
    if rare := len(rows) - len(kept):
        said.append(f"{rare} texts are left out: their class has fewer than {FEWEST_TEXTS} different ones")
    return TextRoles(kept, "text", "folder", ()), tuple(said), sha256_json(sorted(digests))
