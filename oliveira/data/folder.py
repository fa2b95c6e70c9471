"""The user's own texts: every .txt, .md and .jsonl file below a folder, read in pieces so that no file
need fit in memory.

A file is a document named by its relative path; one longer than MAX_DOCUMENT characters is cut at an end
of paragraph, line or word into `path#1`, `path#2`, … A line of a .jsonl file (an object with the string
"text") is a document named `path:line`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from oliveira.data.documents import Document
from oliveira.data.encodings import advice, count_c1, wide_encoding, wrong_conversion
from oliveira.data.text import cut
from oliveira.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_DOCUMENT = 200_000  # characters
_MAX_LINE = 64 << 20  # bytes of one line of JSON
_CHUNK = 1 << 20
# What a home holds from its first hour: its own output is never read as text.
_HOME_MARKS = ("ledger.sqlite", "cache/tasks", "runs")


@dataclass
class Listing:
    """What was found, and what was passed over and why: nothing is left out in silence."""

    suffixes: tuple[str, ...] = SUFFIXES
    files: list[Path] = field(default_factory=list)
    homes: list[Path] = field(default_factory=list)  # of this program
    inside: int = 0  # symbolic links to files of a home
    links: int = 0  # symbolic links to folders: following them could go round in a circle
    special: int = 0  # pipes, sockets, devices, broken links
    others: int = 0  # other suffixes

    def left_out(self) -> str:
        counts = [
            (self.others, f"file(s) that are not {', '.join(self.suffixes)}"),
            (self.links, "symbolic link(s) to folders"),
            (self.special, "broken link(s) or special file(s)"),
            (self.inside, "symbolic link(s) into a home of oliveira"),
        ]
        homes = [f"{shown(path)} (a home of oliveira)" for path in self.homes]
        return ", ".join([*homes, *(f"{count} {what}" for count, what in counts if count)])


def list_folder(folder: Path, home: Path | None = None, suffixes: tuple[str, ...] = SUFFIXES) -> Listing:
    """Files in order of their relative path; hidden ones (`.name`) are not looked at, nor are homes of this program:
    `home`, and what looks like one.
    """
    if not folder.exists():
        raise UserError(f"folder {folder} does not exist. Give the folder that holds your {', '.join(suffixes)} files.")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder. Give the folder it lies in: {folder.parent}.")
    root, own = folder.resolve(), home.resolve() if home else None
    if _is_home(root, own):
        raise UserError(f"folder {folder} is a home of oliveira, not a folder of your files. Give another one.")
    found, ahead = Listing(suffixes), [folder]
    while ahead:
        ahead += _look(ahead.pop(), folder, root, own, found)
    found.files.sort(key=lambda path: path.parts)
    if not found.files:
        passed = f" (passed over: {found.left_out()})" if found.left_out() else ""
        raise UserError(f"folder {folder} holds no {', '.join(suffixes)} file{passed}. Put some there.")
    return found


def _is_home(folder: Path, own: Path | None) -> bool:
    """`folder` is resolved."""
    ledger, cache, runs = (folder / mark for mark in _HOME_MARKS)
    return folder == own or ledger.is_file() or (cache.is_dir() and runs.is_dir())


def _look(folder: Path, top: Path, root: Path, own: Path | None, found: Listing) -> list[Path]:
    """Sorts the entries of a folder into `found`; returns the folders below. `root` is `top`, resolved."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from None
    below = []
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if _is_home(root / path.relative_to(top), own):
                found.homes.append(path)
            else:
                below.append(path)
        elif entry.is_symlink() and _is_folder(path):
            found.links += 1
        elif path.suffix.lower() not in found.suffixes:
            found.others += 1
        elif not _is_regular(path):
            found.special += 1
        elif entry.is_symlink() and _leads_home(path.resolve(), root, own):
            found.inside += 1
        else:
            found.files.append(path)
    return below


def _leads_home(target: Path, root: Path, own: Path | None) -> bool:
    above = list(target.parents)
    if target.is_relative_to(root):
        above = above[: above.index(root)]
    return any(_is_home(folder, own) for folder in above)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def shown(path: Path) -> str:
    """A path as text. Two names stay two: a byte that is not UTF-8 is `\\xff`, a backslash is doubled."""
    return os.fsencode(path.as_posix()).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, and how much of it to read: one that grows is read as long as it was. Never waits for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file any more")
        yield file, found.st_size


def _chunks(path: Path) -> Iterator[bytes]:
    with _opened(path) as (file, left):
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def digest_folder(folder: Path, home: Path | None = None) -> str:
    """sha256 of names, sizes and contents of the files that would be read."""
    digest = hashlib.sha256()
    for path in list_folder(folder, home).files:
        try:
            name = os.fsencode(path.relative_to(folder).as_posix())
            digest.update(name + b"\0%d\0" % path.stat().st_size)
            for chunk in _chunks(path):
                digest.update(chunk)
        except OSError as error:
            raise _unreadable(path, error) from None
    return digest.hexdigest()


def read_folder(folder: Path, files: list[Path], say: Callable[[str], None] = log.warning) -> Iterator[Document]:
    """Raises `UserError`, naming file, place and remedy, at the first thing that is not UTF-8 text.

    `say` hears of characters that look like a wrong conversion.
    """
    for path in files:
        name, controls = shown(path.relative_to(folder)), 0
        try:
            if path.suffix.lower() == ".jsonl":
                parts = _read_jsonl(path, name)
            else:
                parts = _named_parts(name, cut(_read_text(path), MAX_DOCUMENT))
            for part in parts:
                controls += count_c1(part.text)
                yield part
        except OSError as error:
            raise _unreadable(path, error) from None
        if controls:
            say(f"{name}: {wrong_conversion(controls)}")


def _unreadable(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOENT:
        return UserError(f"{shown(path)} has gone while the folder was read. Start again.")
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{shown(path)} cannot be read ({reason}). Allow it (chmod u+r) or remove it.")


def _read_text(path: Path) -> Iterator[str]:
    """Pieces of at most 1 MiB of bytes each."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done, accents = 0, False
    for chunk in itertools.chain(_chunks(path), (b"",)):
        if done == 0 and (wide := wide_encoding(chunk)):
            raise UserError(f"{shown(path)} is {wide}, not UTF-8. Convert it: iconv -f {wide} -t UTF-8.")
        if (place := chunk.find(b"\0")) >= 0:
            raise UserError(
                f"{shown(path)} is not text (a NUL byte at position {done + place}). Move it out of the folder."
            )
        pending = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            where = f"byte {error.object[error.start]:#04x} at position {max(0, done - pending + error.start)}"
            raise UserError(f"{shown(path)} is not UTF-8 ({where}). {advice(error, accents)}") from None
        accents = accents or not piece.isascii()
        yield piece
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
    with _opened(path) as (file, left):
        number = 0
        while left > 0 and (line := file.readline(min(left, _MAX_LINE + 1))):
            number, left = number + 1, left - len(line)
            if number == 1 and (wide := wide_encoding(line)):
                raise UserError(f"{shown(path)} is {wide}, not UTF-8. Convert it: iconv -f {wide} -t UTF-8.")
            if len(line) > _MAX_LINE:
                raise UserError(
                    f"{shown(path)}:{number} is longer than {_MAX_LINE >> 20} MiB. Cut it into several lines."
                )
            if not line.strip():
                continue
            if b"\0" in line:
                raise UserError(f"{shown(path)}:{number} is not text (a NUL byte). Move the file out of the folder.")
            try:
                value = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except UnicodeDecodeError as error:
                raise UserError(f"{shown(path)}:{number} is not UTF-8. {advice(error)}") from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{shown(path)}:{number} is not a JSON object ({error}). Mend that line.") from None
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise UserError(
                    f'{shown(path)}:{number} has no string "text". Every line must be like {{"text": "…"}}.'
                )
            yield from _named_parts(f"{name}:{number}", cut([value["text"]], MAX_DOCUMENT))
