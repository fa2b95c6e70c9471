"""From one file of the user's to documents, whatever its form.

    .txt .md                   the file, read in pieces so that none need fit in memory
    .html .pdf .docx .epub     its text
    .jsonl .csv                a row a document, named `path:row`; the column of texts is guessed, and said, or named

A document longer than `longest` is cut at an end of paragraph, line or word into `path#1`, `path#2`, …
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from oliveira.data.columns import columns_of, listed, mean_length, text_named
from oliveira.data.documents import Document
from oliveira.data.encodings import UTF_8, encoding_of
from oliveira.data.html_text import html_text
from oliveira.data.packed_text import docx_text, epub_text
from oliveira.data.pdf_text import pdf_text
from oliveira.data.tables import table_in
from oliveira.data.text import cut
from oliveira.errors import UserError

Say = Callable[[str], None]
WHOLE: dict[str, Callable[[bytes, str], str]] = {
    ".html": html_text,
    ".htm": html_text,
    ".pdf": pdf_text,
    ".docx": docx_text,
    ".epub": epub_text,
}
PLAIN, ROWS = (".txt", ".md"), (".jsonl", ".csv")
SUFFIXES = (*PLAIN, *ROWS, *WHOLE)
MAX_WHOLE = 256 << 20  # bytes of a file that is read at once
MAX_DOCUMENT = 200_000  # characters
SHORTEST = 20  # characters, on average, of a column that nobody named and that holds texts
_MAX_LINE = 64 << 20  # characters of one line of JSON
_LOOKED_AT = 200  # lines
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TextFile:
    """A file on the disk, or in a .zip."""

    name: str  # of its documents
    place: str  # where it lies, for sentences
    open: Callable[[], AbstractContextManager[tuple[BinaryIO, int]]]  # and how many bytes to read of it

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    def chunks(self) -> Iterator[bytes]:
        with self.open() as (file, left):
            while left and (chunk := file.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk

    def whole(self) -> bytes:
        with self.open() as (file, size):
            if size > MAX_WHOLE:
                raise UserError(f"{self.place} has {size >> 20} MiB, more than {MAX_WHOLE >> 20}. Give a part of it.")
            return file.read(size)


def read_file(file: TextFile, say: Say, column: str = "", longest: int = MAX_DOCUMENT) -> Iterator[Document]:
    """Raises `UserError`, naming file and remedy, for what holds no text. `say` hears what was guessed.

    `column` of a .csv or .jsonl: "" = guessed. Nothing of a text is in any sentence.
    """
    if file.suffix == ".jsonl":
        rows: Iterable[tuple[int, str]] = _of_jsonl(file, say, column)
    elif file.suffix == ".csv":
        rows = _of_csv(file, say, column)
    else:
        pieces = [WHOLE[file.suffix](file.whole(), file.place)] if file.suffix in WHOLE else _pieces(file, say)
        yield from _named_parts(file.name, cut(pieces, longest))
        return
    for number, text in rows:
        yield from _named_parts(f"{file.name}:{number}", cut([text], longest))


def _named_parts(name: str, texts: Iterator[str]) -> Iterator[Document]:
    first = next(texts, None)
    if first is None:
        return
    second = next(texts, None)
    if second is None:
        yield Document(name, first)
        return
    yield Document(f"{name}#1", first)
    yield Document(f"{name}#2", second)
    for number, text in enumerate(texts, 3):
        yield Document(f"{name}#{number}", text)


def _pieces(file: TextFile, say: Say) -> Iterator[str]:
    """The text as it is written, in pieces. Raises `UserError` for what is none."""
    if (encoding := encoding_of(file.chunks())) is None:
        raise UserError(f"{file.place} is not text (it holds NUL bytes). Move it out of the folder.")
    if encoding != UTF_8:
        say(f"{file.name}: read as {encoding.said}")
    decoder = codecs.getincrementaldecoder(encoding.codec)("replace")
    empty = True
    for chunk in itertools.chain(file.chunks(), (b"",)):
        piece = decoder.decode(chunk, final=not chunk)
        empty = empty and not piece.strip("\ufeff \t\r\n")
        yield piece
    if empty:
        raise UserError(f"{file.place} is empty. Put text there, or remove it.")


# Rows ---------------------------------------------------------------------------------------------------------------


def _of_jsonl(file: TextFile, say: Say, column: str) -> Iterator[tuple[int, str]]:
    """Lines that are no object with that text are left out, and counted."""
    lines = enumerate(_lines(file, say), 1)
    head = [(number, _object(line)) for number, line in itertools.islice(lines, _LOOKED_AT)]
    if not column and any(isinstance((values or {}).get("messages"), list) for _, values in head):
        raise UserError(
            f"{file.place} holds chats (messages), of which only texts are learnt here. Give each text in a field "
            "of its own, or name such a field (?text=FIELD)."
        )
    texts: dict[str, list[str]] = {}
    for _, values in head:
        for key, value in (values or {}).items():
            if isinstance(value, str):
                texts.setdefault(key, []).append(value)
    if not texts:
        line = next((number for number, values in head if values is not _BLANK), 1)
        raise UserError(f'{file.place}: line {line} is not a JSON object with texts, like {{"text": "…"}}. Mend it.')
    name = _chosen({key: mean_length(some) for key, some in texts.items()}, file, say, column)
    left_out: list[int] = []
    for number, values in itertools.chain(head, ((number, _object(line)) for number, line in lines)):
        if values is not _BLANK:
            if isinstance(text := (values or {}).get(name), str):
                yield number, text
            else:
                left_out.append(number)
    if left_out:
        say(f"{file.name}: {len(left_out)} lines without a text are left out, the first is line {left_out[0]}")


_BLANK: dict[str, Any] = {}


def _object(line: str) -> dict[str, Any] | None:
    if not line.strip():
        return _BLANK
    try:
        value = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lines(file: TextFile, say: Say) -> Iterator[str]:
    rest, number = "", 0
    for piece in _pieces(file, say):
        *whole, rest = (rest + piece).split("\n")
        number += len(whole)
        yield from whole
        if len(rest) > _MAX_LINE:
            raise UserError(
                f"{file.place}: line {number + 1} is longer than {_MAX_LINE >> 20} million characters. "
                "Cut it into several lines."
            )
    yield rest


def _of_csv(file: TextFile, say: Say, column: str) -> Iterator[tuple[int, str]]:
    table = table_in(Path(file.place), file.whole())
    columns = {one.name: one for one in columns_of(table).values()}
    readable = {name: one for name, one in columns.items() if one.kind in ("text", "category")}
    lengths = {name: mean_length(one.written) for name, one in (columns if column else readable).items()}
    texts = columns[_chosen(lengths, file, say, column)].written
    return ((number, str(text)) for number, text in enumerate(texts, 1) if text)


def _chosen(lengths: dict[str, float], file: TextFile, say: Say, wanted: str) -> str:
    """The column of texts: the one named, one that is called so, else the one of the longest."""
    if wanted:
        if wanted not in lengths:
            raise UserError(f"{file.place} has no column of texts '{wanted}'. There are: {listed(list(lengths))}.")
        return wanted
    named = text_named(list(lengths))
    name = named or max(lengths, key=lambda each: lengths[each], default="")
    if not name or (not named and lengths[name] < SHORTEST):
        raise UserError(f"{file.place} has no column of texts. Name one: FOLDER?text=COLUMN, or leave the file out.")
    if name != "text":
        say(f"{file.name}: the texts are those of '{name}'")
    return name
