"""The user's own texts: every .txt, .md and .jsonl file below a folder, read in pieces so that no file
need fit in memory.

A file is a document named by its relative path; one longer than MAX_DOCUMENT characters is cut at an end
of paragraph, line or word into `path#1`, `path#2`, … A line of a .jsonl file (an object with the string
"text") is a document named `path:line`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from oliveira.data.documents import Document
from oliveira.data.text import cut
from oliveira.errors import UserError

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_DOCUMENT = 200_000  # characters
_MAX_LINE = 64 << 20  # bytes of one line of JSON
_CHUNK = 1 << 20


@dataclass
class Listing:
    """What was found, and what was passed over and why: nothing is left out in silence."""

    files: list[Path] = field(default_factory=list)
    links: int = 0  # symbolic links to folders: following them could go round in a circle
    special: int = 0  # pipes, sockets, devices, broken links
    others: int = 0  # other suffixes

    def left_out(self) -> str:
        counts = [
            (self.others, f"file(s) that are not {', '.join(SUFFIXES)}"),
            (self.links, "symbolic link(s) to folders"),
            (self.special, "broken link(s) or special file(s)"),
        ]
        return ", ".join(f"{count} {what}" for count, what in counts if count)


def list_folder(folder: Path) -> Listing:
    """Files in order of their relative path; hidden ones (`.name`) are not looked at."""
    if not folder.exists():
        raise UserError(f"folder {folder} does not exist. Give the folder that holds your {', '.join(SUFFIXES)} files.")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder. Give the folder it lies in: {folder.parent}.")
    found = Listing()
    _list(folder, found)
    if not found.files:
        passed = f" (passed over: {found.left_out()})" if found.left_out() else ""
        raise UserError(f"folder {folder} holds no {', '.join(SUFFIXES)} file{passed}. Put text there.")
    return found


def _list(folder: Path, found: Listing) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            _list(path, found)
        elif entry.is_symlink() and path.is_dir():
            found.links += 1
        elif path.suffix.lower() not in SUFFIXES:
            found.others += 1
        elif _is_regular(path):
            found.files.append(path)
        else:
            found.special += 1


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link to nowhere, or to itself
        return False


def digest_folder(folder: Path) -> str:
    """sha256 of names, sizes and contents of the files that would be read."""
    digest = hashlib.sha256()
    for path in list_folder(folder).files:
        digest.update(
            f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape")
        )
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise _unreadable(path, error) from None
    return digest.hexdigest()


def read_folder(folder: Path, files: list[Path]) -> Iterator[Document]:
    """Raises `UserError`, naming file, place and remedy, at the first thing that is not UTF-8 text."""
    for path in files:
        name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            if path.suffix.lower() == ".jsonl":
                yield from _read_jsonl(path, name)
            else:
                yield from _named_parts(name, cut(_read_text(path), MAX_DOCUMENT))
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({os.strerror(error.errno or 0).lower()}). Allow it (chmod u+r) or remove it."
    )


def _read_text(path: Path) -> Iterator[str]:
    """Pieces of at most 1 MiB of bytes each."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            if done == 0 and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(f"{path} is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
            if (place := chunk.find(b"\0")) >= 0:
                raise UserError(
                    f"{path} is not text (a NUL byte at position {done + place}). Move it out of the folder."
                )
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = max(0, done - pending + error.start)
                raise UserError(
                    f"{path} is not UTF-8 (byte {error.object[error.start]:#04x} at position {place}). "
                    "Convert it, for example iconv -f ISO-8859-1 -t UTF-8, or move it out of the folder."
                ) from None
            if not chunk:
                return
            done += len(chunk)


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


def _read_jsonl(path: Path, name: str) -> Iterator[Document]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise UserError(f"{path}:{number} is longer than {_MAX_LINE >> 20} MiB. Cut it into several lines.")
            if not line.strip():
                continue
            if b"\0" in line:
                raise UserError(f"{path}:{number} is not text (a NUL byte). Move the file out of the folder.")
            try:
                value = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number} is not UTF-8. Convert it: iconv -f ISO-8859-1 -t UTF-8.") from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number} is not a JSON object ({error}). Mend that line.") from None
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise UserError(f'{path}:{number} has no string "text". Every line must be like {{"text": "…"}}.')
            yield from _named_parts(f"{name}:{number}", cut([value["text"]], MAX_DOCUMENT))
