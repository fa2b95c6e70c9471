"""Files of the user's sorted into classes: a folder, or a .zip, in which each folder is a class.

    photos/cats/1.jpg      photos/cats/old/2.jpg      both of class "cats"

A folder around all of them is passed through. Of a .zip nothing is unpacked onto the disk: each file is read into
memory when it is wanted, at most as long as it says it is. Hidden files, links to folders and other suffixes are left
out, and counted.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from oliveira.data.columns import MOST_LABELS
from oliveira.data.folder import list_folder, shown
from oliveira.data.pictures import SUFFIXES as PICTURES
from oliveira.data.tables import check_regular, unreadable
from oliveira.data.text_files import SUFFIXES as TEXTS
from oliveira.data.zips import DAMAGE, MOST_FILES, entries, is_link, open_zip, unpacked
from oliveira.errors import UserError

Form = Literal["", "pictures", "texts"]

SUFFIXES: dict[Form, tuple[str, ...]] = {"pictures": PICTURES, "texts": TEXTS}
_LOOKED_AT = 1000  # files by which a folder is known
_SETS = {"train", "training", "treino", "test", "teste", "val", "valid", "validation", "validacao", "validação"}


@dataclass(frozen=True)
class Member:
    label: str
    name: str  # with the folders it lies in
    size: int
    stamp: int  # of the last change, or the checksum
    read: Callable[[], bytes]  # raises OSError, zipfile.BadZipFile and what zlib raises


@dataclass(frozen=True)
class Collection:
    path: Path
    members: tuple[Member, ...]  # in the order of their names
    said: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        return sorted({member.label for member in self.members})

    @property
    def signature(self) -> str:
        """Changes when a file does, without reading any."""
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(f"{member.label}\0{member.name}\0{member.size}\0{member.stamp}\0".encode())
        return digest.hexdigest()

    def bytes_of(self, member: Member, most: int) -> bytes:
        """Raises `UserError` for what cannot be read, or has more than `most` bytes."""
        if member.size > most:
            raise UserError(
                f"{self.path}: {member.name} in it has {member.size >> 20} MiB, more than {most >> 20}. Leave it out."
            )
        try:
            return member.read()
        except OSError as error:
            raise unreadable(self.path / member.name, error) from None
        except DAMAGE as error:
            raise UserError(
                f"{self.path}: {member.name} in it is damaged ({type(error).__name__}). Pack it again."
            ) from None


def form_of(path: Path) -> Form:
    """What a folder or a .zip holds most of; "" for any other file, and for what is not there."""
    try:
        if path.is_dir():
            names: Iterable[str] = (name for _, _, some in os.walk(path) for name in some if not name.startswith("."))
        elif path.suffix.lower() == ".zip" and path.is_file():
            with zipfile.ZipFile(path) as packed:
                names = packed.namelist()
        else:
            return ""
        suffixes = Counter(PurePosixPath(name).suffix.lower() for name in islice(names, _LOOKED_AT))
    except (OSError, ValueError, zipfile.BadZipFile):
        return "pictures"  # why it cannot be read is told when it is
    texts, pictures = (sum(suffixes[suffix] for suffix in some) for some in (TEXTS, PICTURES))
    return "texts" if texts > pictures else "pictures"


@contextmanager
def collection(path: Path, form: Form) -> Iterator[Collection]:
    """The files of a folder or a .zip that stays open meanwhile. Raises `UserError` with one sentence for what is not a
    folder a class, at least two and at most MOST_LABELS of them, or cannot safely be read."""
    if path.is_dir():
        yield _sorted(path, form, *_of_folder(path, form))
        return
    with open_zip(path) as packed:
        yield _sorted(path, form, *_of_zip(path, packed, form))


_File = tuple[PurePosixPath, int, int, Callable[[], bytes]]  # place, size, stamp, how it is read
_Listed = tuple[list[_File], set[PurePosixPath], list[str]]


def _of_folder(path: Path, form: Form) -> _Listed:
    with os.scandir(path) as entries:
        _refuse_many(path, sum(1 for _ in islice((e for e in entries if e.is_dir()), MOST_LABELS + 1)))
    listing = list_folder(path, suffixes=SUFFIXES[form])
    files, folders = [], set()
    for file in listing.files:
        about = check_regular(file)
        inside = PurePosixPath(shown(file.relative_to(path)))
        files.append((inside, about.st_size, about.st_mtime_ns, file.read_bytes))
    for base, below, _ in os.walk(path):
        inner = {name: Path(base) / name for name in below if not name.startswith(".")}
        below[:] = [name for name, where in inner.items() if not where.is_symlink() and where not in listing.homes]
        folders |= {PurePosixPath(shown(inner[name].relative_to(path))) for name in below}
    return files, folders, [f"left out: {listing.left_out()}"] if listing.left_out() else []


def _of_zip(path: Path, packed: zipfile.ZipFile, form: Form) -> _Listed:
    files: list[_File] = []
    folders: set[PurePosixPath] = set()
    others = 0
    for inside, entry in entries(path, packed):
        if entry.is_dir():
            folders.add(inside)
        elif is_link(entry) or inside.suffix.lower() not in SUFFIXES[form]:
            others += 1
        else:
            files.append((inside, entry.file_size, entry.CRC, partial(unpacked, packed, entry)))
    folders |= {folder for inside, *_ in files for folder in inside.parents if folder.parts}
    said = [f"left out: {others} file(s) that are not {', '.join(SUFFIXES[form])}"] if others else []
    if not files:
        raise UserError(f"{path} holds no {', '.join(SUFFIXES[form])} file. Put some there.")
    return files, folders, said


def _sorted(
    path: Path,
    form: Form,
    files: list[_File],
    folders: set[PurePosixPath],
    said: list[str],
) -> Collection:
    if len(files) > MOST_FILES:
        raise UserError(f"{path} holds {len(files)} files, more than {MOST_FILES}. Give a part of it.")
    around = _around(inside for inside, *_ in files)
    depth = len(around.parts)
    members = [
        Member(inside.parts[depth], str(inside), size, stamp, read)
        for inside, size, stamp, read in files
        if len(inside.parts) > depth + 1
    ]
    labels = {member.label for member in members}
    _refuse_many(path, len(labels))
    if labels and {label.lower() for label in labels} <= _SETS:
        listed = ", ".join(f"'{label}'" for label in sorted(labels))
        raise UserError(f"the folders of {path} are called {listed}, as parts of a split are. Give one of them.")
    empty = {folder.parts[depth] for folder in folders if len(folder.parts) == depth + 1} - labels
    if empty:
        raise UserError(
            f"the class '{min(empty)}' of {path} holds no {', '.join(SUFFIXES[form])} file. Put some there, or remove "
            "it."
        )
    if len(labels) < 2:
        raise UserError(
            f"{path} holds {len(labels)} folders of {form}; a class is a folder, and there must be two. Sort them so."
        )
    if loose := len(files) - len(members):
        said = [*said, f"{loose} file(s) beside the class folders are left out"]
    return Collection(path, tuple(sorted(members, key=lambda member: member.name)), tuple(said))


def _refuse_many(path: Path, count: int) -> None:
    if count > MOST_LABELS:
        raise UserError(f"{path} has more than {MOST_LABELS} class folders. Give a part of them.")


def _around(names: Iterable[PurePosixPath]) -> PurePosixPath:
    """The folders that all of them lie in, as long as class folders are left below."""
    tops: list[tuple[str, ...]] = [name.parts for name in names]
    depth = 0
    while len({parts[: depth + 1] for parts in tops}) == 1 and all(len(parts) > depth + 2 for parts in tops):
        depth += 1
    return PurePosixPath(*tops[0][:depth])
