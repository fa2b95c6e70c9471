"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oliveira.errors import DiskError, UserError

_CHUNK = 1 << 20
_ASIDE = ".aside"  # an older folder, while a new one takes its name
# The last two: a file stands where a folder is needed.
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def expand(path: str | Path) -> Path:
    """`~` is the home folder. Raises `UserError` where there is none, and for what is no path."""
    try:
        if "\0" in str(path):
            raise ValueError("a NUL character in a path")
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".").lower()
        raise UserError(f"the path {str(path)!r} cannot be used: {reason}. Write the whole path.") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(value: Any) -> str:
    return sha256_bytes(canonical_json(value))


def digest_directory(directory: Path) -> dict[str, str]:
    """Relative POSIX path → sha256 of every regular file below `directory`."""
    return {
        path.relative_to(directory).as_posix(): sha256_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def fsync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turns what a disk can refuse into a sentence that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free // 2**20
            raise DiskError(
                f"no space left at {path} ({free} MiB free). Free some space and start again: finished stages are kept."
            ) from error
        if error.errno == errno.EFBIG:
            raise DiskError(
                f"cannot write to {error.filename or path}: the file would be larger than this session or this disk "
                "takes. Raise the limit (`ulimit -f unlimited`), or choose another folder with --home."
            ) from error
        if error.errno == errno.EIO:
            raise DiskError(
                f"the disk under {error.filename or path} fails (input/output error). "
                "Mend it, or choose a folder on another one with --home."
            ) from error
        if error.errno in _NOT_WRITABLE:
            reason = os.strerror(error.errno).lower()
            raise DiskError(
                f"cannot write to {error.filename or path}: {reason}. Choose a folder you may write to with --home."
            ) from error
        raise


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def make_folder(path: Path) -> None:
    """`mkdir -p` that survives power loss: the entry of each new folder is on disk when it returns."""
    if not path.is_dir():
        make_folder(path.parent)
        try:
            path.mkdir(exist_ok=True)
        except FileNotFoundError:  # its parent is there, and takes no folders: /proc
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
        fsync_path(path.parent)


def check_writable(folder: Path) -> None:
    """Makes `folder` if need be and writes into it: raises `DiskError` before any work rather than after it."""
    with explain_disk(folder):
        make_folder(folder)
        temporary = _temporary(folder / "probe")
        try:
            temporary.touch()
            temporary.unlink()
        except OSError as error:
            error.filename = str(folder)  # the probe's own name says nothing to anybody
            raise


def write_atomic(path: Path, data: bytes) -> None:
    """`path` holds the old bytes or the new ones, also after `kill -9` or power loss."""
    temporary = _temporary(path)
    with explain_disk(path):
        make_folder(path.parent)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_path(path.parent)


def readable_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_json_atomic(path: Path, value: Any) -> None:
    write_atomic(path, readable_json(value))


@contextlib.contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """A folder that appears under its final name only when it is complete and on disk.

    An older folder of that name is moved aside whole, never deleted in place: a kill between the two renames leaves
    it for `sweep_temporary` to put back. What else a killed process left behind is swept there too.
    """
    temporary, aside = _temporary(final), final.with_name(f".{final.name}{_ASIDE}")
    with explain_disk(final):
        make_folder(final.parent)
        temporary.mkdir()
        try:
            yield temporary
            _fsync_below(temporary)
            if final.exists():
                shutil.rmtree(aside, ignore_errors=True)
                final.replace(aside)
            temporary.replace(final)
            fsync_path(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if aside.exists() and not final.exists():
                aside.replace(final)
            raise
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` to make it in, gone afterwards. Those that killed processes left there go first; one in
    which somebody works is locked."""
    make_folder(final.parent)
    for left in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = _temporary(final)
    temporary.mkdir()
    with _locked(temporary):
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """A folder that appears, complete and on disk, where nothing or an empty folder stands: nothing is replaced."""
    with explain_disk(final), scratch_folder(final) as temporary:
        yield temporary
        _fsync_below(temporary)
        temporary.rename(final)
        fsync_path(final.parent)


def _fsync_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() or path.is_file():
            fsync_path(path)
    fsync_path(folder)


def sweep_temporary(root: Path) -> int:
    """Removes what killed writers left below `root`, and puts back what they had moved aside. Returns how many."""
    count = 0
    for aside in list(root.rglob(f".*{_ASIDE}")):
        final = aside.with_name(aside.name[1 : -len(_ASIDE)])
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.replace(final)
        count += 1
    for path in list(root.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():  # not if it went with its folder
            path.unlink(missing_ok=True)
        else:
            continue
        count += 1
    return count
