"""A .zip of the user's, or a document that is one, read without unpacking it onto the disk.

Refused with one sentence: what names a file outside of itself, is encrypted, holds too many files, or unpacks to far
more than it has. Links in it are not followed.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from oliveira.data.tables import check_regular
from oliveira.errors import UserError

MOST_FILES = 500_000
MAX_ZIP, MAX_UNPACKED = 4 << 30, 8 << 30  # bytes, of the archive and of all that is in it
MAX_RATIO, SMALL = 200, 1 << 20  # of unpacked to packed, of a file that unpacks to more than SMALL
# What reading a damaged archive raises; trouble with the disk is an OSError.
DAMAGE = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises `UserError` for what is no whole archive."""
    if (size := check_regular(path).st_size) > MAX_ZIP:
        raise UserError(f"{path} has {size >> 20} MiB, more than {MAX_ZIP >> 20}. Give a part of it.")
    try:
        return zipfile.ZipFile(path)
    except (OSError, *DAMAGE) as error:
        raise UserError(f"{path} is not a whole .zip file ({type(error).__name__}). Pack it again.") from None


def entries(path: Path, packed: zipfile.ZipFile) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """Files and folders in it that are not hidden, each with its place. Raises `UserError` for an unsafe archive."""
    kept: list[tuple[PurePosixPath, zipfile.ZipInfo]] = []
    total = 0
    if len(packed.infolist()) > MOST_FILES:
        raise UserError(f"{path} holds {len(packed.infolist())} files, more than {MOST_FILES}. Give a part of it.")
    for entry in packed.infolist():
        inside = PurePosixPath(entry.filename)
        if inside.is_absolute() or ".." in inside.parts or "\\" in entry.filename or ":" in str(inside)[:3]:
            raise UserError(f"{path} names a file outside of itself. Do not trust it; pack your own files again.")
        if not inside.parts or any(part.startswith(".") or part == "__MACOSX" for part in inside.parts):
            continue
        if entry.flag_bits & 1:
            raise UserError(f"{path} is encrypted. Pack your files without a password.")
        total += entry.file_size
        if entry.file_size > max(SMALL, MAX_RATIO * entry.compress_size):
            raise UserError(
                f"{path}: {inside} in it unpacks to {entry.file_size >> 20} MiB, more than {MAX_RATIO} times its size. "
                "Leave it out."
            )
        if total > MAX_UNPACKED:
            raise UserError(f"{path} unpacks to more than {MAX_UNPACKED >> 20} MiB. Give a part of it.")
        kept.append((inside, entry))
    return kept


def is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def unpacked(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Raises what DAMAGE names."""
    with packed.open(entry) as file:
        return file.read(entry.file_size)
