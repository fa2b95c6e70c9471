"""The user's own texts: the files below a folder, or one file, of any form that `text_files` reads, and .zip of them.

A file is a document named by its relative path, in a .zip behind that of the .zip. What cannot be read is passed over,
and said with its reason.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from oliveira.data.documents import Document
from oliveira.data.encodings import count_c1, wrong_conversion
from oliveira.data.tables import unreadable
from oliveira.data.text_files import SUFFIXES, TextFile, read_file
from oliveira.data.zips import DAMAGE, entries, is_link, open_zip
from oliveira.errors import UserError
from oliveira.files import expand

log = logging.getLogger(__name__)

ZIP = ".zip"
READ = (*SUFFIXES, ZIP)
COLUMN = "?text="  # behind a folder's name: the column of texts in its .csv and .jsonl
MOST_SAID = 20
# What a home holds from its first hour: its own output is never read as text.
_HOME_MARKS = ("ledger.sqlite", "cache/tasks", "runs")


def place_of(spec: str) -> tuple[Path, str]:
    """Where texts lie, and their column, of `FOLDER` or `FOLDER?text=COLUMN`."""
    folder, named, column = spec.rpartition(COLUMN)
    if not named or expand(spec).exists():
        folder, column = spec, ""
    return expand(folder).absolute(), column


@dataclass
class Listing:
    """What was found, and what was passed over and why: nothing is left out in silence."""

    suffixes: tuple[str, ...] = READ
    files: list[Path] = field(default_factory=list)
    homes: list[Path] = field(default_factory=list)  # of this program
    inside: int = 0  # symbolic links to files of a home
    links: int = 0  # symbolic links to folders: following them could go round in a circle
    special: int = 0  # pipes, sockets, devices, broken links
    others: int = 0  # other suffixes

    def left_out(self) -> str:
        counts = [
            (self.others, f"{self.others} file(s) that are not {', '.join(self.suffixes)}"),
            (self.links, f"{self.links} symbolic link(s) to folders"),
            (self.special, f"{self.special} broken link(s) or special file(s)"),
            (self.inside, f"{self.inside} symbolic link(s) into a home of oliveira"),
        ]
        homes = [f"{shown(path)} (a home of oliveira)" for path in self.homes]
        return ", ".join([*homes, *(said for count, said in counts if count)])


def list_folder(folder: Path, home: Path | None = None, suffixes: tuple[str, ...] = READ) -> Listing:
    """Files in order of their relative path; hidden ones (`.name`) are not looked at, nor are homes of this program:
    `home`, and what looks like one. One file is a listing of itself.
    """
    if not _exists(folder):
        raise UserError(f"folder {folder} does not exist. Give the folder that holds your {', '.join(suffixes)} files.")
    if not folder.is_dir():
        if folder.suffix.lower() not in suffixes or not _is_regular(folder):
            raise UserError(f"{folder} is no {', '.join(suffixes)} file. Give one, or a folder of them.")
        return Listing(suffixes, [folder])
    root, own = folder.resolve(), home.resolve() if home else None
    if _is_home(root, own):
        raise UserError(f"folder {folder} is a home of oliveira, not a folder of your files. Give another one.")
    listing, ahead = Listing(suffixes), [folder]
    while ahead:
        ahead += _look(ahead.pop(), folder, root, own, listing)
    listing.files.sort(key=lambda path: path.parts)
    if not listing.files:
        passed = f" (passed over: {listing.left_out()})" if listing.left_out() else ""
        raise UserError(f"folder {folder} holds no {', '.join(suffixes)} file{passed}. Put some there.")
    return listing


def _is_home(folder: Path, own: Path | None) -> bool:
    """`folder` is resolved."""
    ledger, cache, runs = (folder / mark for mark in _HOME_MARKS)
    return folder == own or ledger.is_file() or (cache.is_dir() and runs.is_dir())


def _look(folder: Path, top: Path, root: Path, own: Path | None, listing: Listing) -> list[Path]:
    """Sorts the entries of a folder into `listing`; returns the folders below. `root` is `top`, resolved."""
    try:
        children = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from None
    below = []
    for entry in children:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if _is_home(root / path.relative_to(top), own):
                listing.homes.append(path)
            else:
                below.append(path)
        elif entry.is_symlink() and _is_folder(path):
            listing.links += 1
        elif path.suffix.lower() not in listing.suffixes:
            listing.others += 1
        elif not _is_regular(path):
            listing.special += 1
        elif entry.is_symlink() and _leads_home(path.resolve(), root, own):
            listing.inside += 1
        else:
            listing.files.append(path)
    return below


def _leads_home(target: Path, root: Path, own: Path | None) -> bool:
    above = list(target.parents)
    if target.is_relative_to(root):
        above = above[: above.index(root)]
    return any(_is_home(folder, own) for folder in above)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, error) from None


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
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a file any more")
        yield file, about.st_size


def digest_folder(folder: Path, home: Path | None = None) -> str:
    """sha256 of names, sizes and contents of the files that would be read."""
    digest = hashlib.sha256()
    for path in list_folder(folder, home).files:
        try:
            name = os.fsencode(path.relative_to(folder).as_posix() if path != folder else path.name)
            digest.update(name + b"\0%d\0" % path.stat().st_size)
            for chunk in TextFile(path.name, shown(path), partial(_opened, path)).chunks():
                digest.update(chunk)
        except OSError as error:
            raise _unreadable(path, error) from None
    return digest.hexdigest()


def read_folder(
    folder: Path, files: list[Path], say: Callable[[str], None] = log.warning, column: str = ""
) -> Iterator[Document]:
    """The documents of the files that can be read; `say` hears which cannot, and why, and what was guessed.

    `column` of texts in .csv and .jsonl; "" = guessed. Raises `UserError` where no file can be read, the reason of the
    first; a folder that changes meanwhile is refused.
    """
    tell, first, any_read = Teller(say), None, False
    for path in files:
        try:
            for file in _text_files(path, folder):
                try:
                    for part in _checked(file, tell, column):
                        any_read = True
                        yield part
                except UserError as error:
                    first = first or error
                    tell(f"passed over: {error}")
        except OSError as error:
            raise _unreadable(path, error) from None
        except UserError as error:  # a .zip that is none, or not safe
            first = first or error
            tell(f"passed over: {error}")
    tell.end()
    if first and not any_read:
        raise first


def _checked(file: TextFile, tell: Callable[[str], None], column: str) -> Iterator[Document]:
    controls = 0
    try:
        for part in read_file(file, tell, column):
            controls += count_c1(part.text)
            yield part
    except DAMAGE as error:
        raise UserError(f"{file.place} is damaged ({type(error).__name__}). Pack it again.") from None
    if controls:
        tell(f"{file.name}: {wrong_conversion(controls)}")


class Teller:
    """Says the first of many things, and in the end how many more there were."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._count = say, 0

    def __call__(self, text: str) -> None:
        self._count += 1
        if self._count <= MOST_SAID:
            self._say(text)

    def end(self) -> None:
        if self._count > MOST_SAID:
            self._say(f"and {self._count - MOST_SAID} more of that kind")


def _text_files(path: Path, folder: Path) -> Iterator[TextFile]:
    """The file itself, or those in a .zip, one after the other while it is open."""
    name = shown(path.relative_to(folder) if path != folder else Path(path.name))
    if path.suffix.lower() != ZIP:
        yield TextFile(name, shown(path), partial(_opened, path))
        return
    with open_zip(path) as packed:
        inside = [
            (place, entry)
            for place, entry in entries(path, packed)
            if not entry.is_dir() and not is_link(entry) and place.suffix.lower() in SUFFIXES
        ]
        if not inside:
            raise UserError(f"{shown(path)} holds no {', '.join(SUFFIXES)} file. Put some there.")
        for place, entry in sorted(inside, key=lambda pair: pair[0].parts):
            yield TextFile(f"{name}/{place}", f"{shown(path)}/{place}", partial(_opened_in, packed, entry))


@contextlib.contextmanager
def _opened_in(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[tuple[BinaryIO, int]]:
    with packed.open(entry) as file:
        yield cast(BinaryIO, file), entry.file_size


def _unreadable(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOENT:
        return UserError(f"{shown(path)} has gone while the folder was read. Start again.")
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{shown(path)} cannot be read ({reason}). Allow it (chmod u+r) or remove it.")
