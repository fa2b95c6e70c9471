"""Documents on disk: one JSON object {"name", "text"} a line, read by position, never all in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Document(NamedTuple):
    name: str  # unique in its source: a path, a chapter, a book
    text: str


def write_documents(path: Path, documents: Iterable[Document]) -> tuple[int, int]:
    """Writes JSON lines. Returns how many documents and characters."""
    count = characters = 0
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(document._asdict(), ensure_ascii=False) + "\n")
            count += 1
            characters += len(document.text)
    return count, characters


class DocumentFile(Sequence[Document]):
    """Random access to a file of `write_documents`; keeps line positions (8 bytes a document), not texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        starts = [0]
        with path.open("rb") as file:
            for line in file:
                starts.append(starts[-1] + len(line))
        self._starts = np.array(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            return _parse(file.readline())

    def __iter__(self) -> Iterator[Document]:
        with self.path.open("rb") as file:
            for line in file:
                yield _parse(line)


def _parse(line: bytes) -> Document:
    value = json.loads(line)
    return Document(value["name"], value["text"])
