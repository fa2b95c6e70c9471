"""What texts of the user's hold, and whether a life of text can be made of them. No text is told, counts are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oliveira.data.documents import Document
from oliveira.data.folder import COLUMN, list_folder, read_folder
from oliveira.data.text_files import SUFFIXES
from oliveira.errors import UserError
from oliveira.lifecycle.plan import lengths_of, plan
from oliveira.world import load_world


@dataclass(frozen=True)
class Texts:
    documents: int
    characters: int
    said: tuple[str, ...]  # how they were read, and what was passed over
    why: str  # a life cannot be made of them
    commands: list[str]


def is_text(path: Path) -> bool:
    """A document, or rows of JSON; a .csv is a table first."""
    return path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".csv" and path.is_file()


def texts_in(path: Path, column: str, file: str, home: Path) -> Texts:
    """`file`: `path` as the user wrote it. Raises `UserError` where none of it can be read."""
    listing = list_folder(path, home)
    said = [f"passed over: {listing.left_out()}"] if listing.left_out() else []
    counted = [0, 0]

    def read() -> Iterator[Document]:
        for document in read_folder(path, listing.files, said.append, column):
            counted[0] += 1
            counted[1] += len(document.text)
            yield document

    documents = read()
    lengths, why = lengths_of(documents), ""
    for _ in documents:  # of a large text the rest is only counted
        pass
    try:
        if lengths is not None:
            plan(load_world(environment={}), lengths)
    except UserError as error:
        why = str(error)
    words = shlex.quote(file + (f"{COLUMN}{column}" if column else ""))
    commands = [f"oliveira up --data {words}", f"oliveira adapt NAME {words}"]
    return Texts(counted[0], counted[1], tuple(said), why, commands)
