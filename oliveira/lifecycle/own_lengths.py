"""How long the documents of a user's own text are, read once for as long as the text is the same.

A folder of books as PDF takes minutes to read; a start that only goes on with its home has none of them to lose. What
is kept, HOME/cache/lengths.json, names the digest that it is of.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from oliveira.data.folder import list_folder, place_of, read_folder
from oliveira.data.sources import PATH, fingerprint
from oliveira.files import sha256_json, write_json_atomic
from oliveira.lifecycle.plan import lengths_of


def own_lengths(home: Path, spec: str, max_chars: int) -> dict[str, int] | None:
    """As `lengths_of` has it. Written in a home that is there only: nothing is, before a text was found good."""
    path = home / "cache" / "lengths.json"
    key = sha256_json({"text": fingerprint(spec, home=home), "max_chars": max_chars})
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_bytes())
        if kept["of"] == key:
            return None if kept["lengths"] is None else {str(name): int(n) for name, n in kept["lengths"].items()}
    folder, column = place_of(spec.removeprefix(PATH))
    read = read_folder(folder, list_folder(folder, home).files, lambda text: None, column)  # `collect` says it
    lengths = lengths_of(read, max_chars)
    if (home / "ledger.sqlite").is_file():
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            write_json_atomic(path, {"of": key, "lengths": lengths})
    return lengths
