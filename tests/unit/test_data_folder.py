"""A folder as people have them: homes, links, pipes, old encodings, odd names, files that change meanwhile."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from oliveira.data.documents import DocumentFile, write_documents
from oliveira.data.folder import digest_folder, list_folder, read_folder
from oliveira.errors import UserError
from oliveira.ledger import Ledger

CASES = Path(__file__).parents[1] / "cases"
WIDE = ("16-le", "16-be", "32-le", "32-be")
PROSE = "A casa não é só nossa — disse ele: “é também água”. "


def names(folder: Path, home: Path | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_folder(folder, home).files]


def texts(folder: Path, say: Callable[[str], None] = print) -> dict[str, str]:
    return dict(read_folder(folder, list_folder(folder).files, say))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "texts"
    made.mkdir()
    (made / "a.txt").write_text(PROSE)
    return made


# Homes -------------------------------------------------------------------------------------------------------


def test_a_home_inside_the_folder_is_never_read(folder: Path, tmp_path: Path) -> None:
    """By resolved path: also through a link, also a home that is not the one in use, also before it has a ledger."""
    before = digest_folder(folder, folder / "mine")
    with Ledger(folder / "sub" / "other"):
        pass
    for home in ("mine", "sub/other"):
        (folder / home / "stages").mkdir(parents=True)
        (folder / home / "stages" / "report.md").write_text("our own output")
        (folder / home / "prompts.jsonl").write_text('{"text": "a live prompt"}')
    (folder / "trained" / "cache" / "tasks").mkdir(parents=True)
    (folder / "trained" / "runs").mkdir()
    (folder / "trained" / "report.md").write_text("our own output")
    (folder / "way-in.md").symlink_to(folder / "mine" / "stages" / "report.md")
    with Ledger(tmp_path / "far"):
        (tmp_path / "far" / "notes.txt").write_text("our own output")
    (folder / "far.txt").symlink_to(tmp_path / "far" / "notes.txt")
    (folder / "also-read.txt").symlink_to(folder / "a.txt")
    linked = tmp_path / "linked"
    linked.symlink_to(folder / "mine")
    listing = list_folder(folder, linked)
    assert [path.name for path in listing.files] == ["a.txt", "also-read.txt"]
    said = listing.left_out()
    assert "texts/mine (a home of oliveira)" in said and "texts/sub/other (a home of oliveira)" in said
    assert "2 symbolic link(s) into a home of oliveira" in said
    (folder / "also-read.txt").unlink()
    assert digest_folder(folder, linked) == before, "what a second start finds is what the first one found"


def test_a_home_is_no_folder_of_texts_but_may_hold_one(tmp_path: Path) -> None:
    with Ledger(tmp_path):
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("x")
        with pytest.raises(UserError, match="is a home of oliveira"):
            list_folder(tmp_path)
    assert names(tmp_path / "texts", tmp_path) == ["a.txt"]


# What is no file ---------------------------------------------------------------------------------------------


def test_what_is_no_text_file_is_counted_and_never_opened(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    (folder / "device.txt").symlink_to("/dev/zero")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "up").symlink_to(folder)
    (folder / "round").symlink_to("round")
    (folder / "empty.txt").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # a socket's path may have 107 bytes
        listener.bind("socket.md")
        os.chdir(tmp_path)
        listing = list_folder(folder)
    assert [path.name for path in listing.files] == ["a.txt", "empty.txt"]
    assert (listing.special, listing.links) == (4, 1)
    said: list[str] = []
    assert set(texts(folder, said.append)) == {"a.txt"}
    assert said == [f"passed over: {folder}/empty.txt is empty. Put text there, or remove it."]


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(folder: Path) -> None:
    found = list_folder(folder).files
    (folder / "a.txt").unlink()
    with pytest.raises(UserError, match="has gone while the folder was read"):
        list(read_folder(folder, found))
    os.mkfifo(folder / "a.txt")
    with pytest.raises(UserError, match="cannot be read"):
        list(read_folder(folder, found))


def test_a_file_that_grows_is_read_as_long_as_it_was(folder: Path) -> None:
    """A program that writes faster than we read would never end otherwise."""
    for name, start, more in (("log.txt", "linha\n" * 300_000, "mais\n"), ("log.jsonl", '{"text": "um"}\n', "{")):
        path = folder / name
        path.write_text(start)
        stream = read_folder(folder, [path])
        first = next(stream)
        with path.open("a") as file:
            file.write(more)
        whole = first.text + "".join(document.text for document in stream)
        assert whole == (start if name == "log.txt" else "um")


def test_very_deep_folders_and_a_line_of_many_megabytes(folder: Path) -> None:
    (folder / "long.txt").write_text("palavra " * 1_500_000)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1010):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deep.txt", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        assert len(names(folder)) == 3
        assert sum(map(len, texts(folder).values())) == 12_000_000 + len(PROSE)
    finally:  # deeper than Python's own rmtree goes
        subprocess.run(["rm", "-rf", str(folder / "d")], check=True)


# Names -------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_stay_distinct_and_fit_into_json(folder: Path, tmp_path: Path) -> None:
    odd = [b"\xe7.txt", b"\xe9.txt", b"\\xe7.txt", "ç.txt".encode(), b"new\nline.txt"]
    for number, name in enumerate(odd):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(str(number))
    found = texts(folder)
    assert len(found) == len(odd) + 1 and found["\\xe7.txt"] == "0" and found["\\\\xe7.txt"] == "2"
    json.dumps(found, ensure_ascii=False).encode()
    write_documents(tmp_path / "documents.jsonl", read_folder(folder, list_folder(folder).files))
    assert {document.name for document in DocumentFile(tmp_path / "documents.jsonl")} == set(found)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xe7.txt")).write_bytes(b"\0")
    told: list[str] = []
    texts(folder, told.append)
    assert "NUL" in told[0] and told[0].encode()


# Encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text", "read_as"),
    [
        ((CASES / "cp1252.txt").read_bytes(), (CASES / "cp1252.txt").read_text("cp1252"), "Windows-1252"),
        ("só água".encode("latin-1"), "só água", "Windows-1252"),
        ((PROSE * 9).encode() + b"\xe7\xe3o", PROSE * 9 + "\ufffd\ufffdo", "UTF-8 with damaged letters"),
        ((PROSE * 9 + "é").encode()[:-1], PROSE * 9 + "\ufffd", "UTF-8 with damaged letters"),
        *((PROSE.encode(name), PROSE, name.upper()) for name in ("utf-16", "utf-32")),
        *((PROSE.encode(f"utf-{name}"), PROSE, f"UTF-{name.replace('-', '').upper()}") for name in WIDE),
    ],
    ids=["case", "latin-1", "damaged", "cut", "16", "32", "16LE", "16BE", "32LE", "32BE"],
)
def test_an_encoding_is_guessed_and_said(folder: Path, data: bytes, text: str, read_as: str) -> None:
    """Also where the letters that tell come after the first piece."""
    for number, whole in enumerate((data, b"a" * 1_100_000 + data if "UTF-" not in read_as else data)):
        (folder / "a.txt").write_bytes(whole)
        said: list[str] = []
        assert "".join(texts(folder, said.append).values()) == ("a" * (len(whole) - len(data)) if number else "") + text
        assert f"a.txt: read as {read_as}" in said


@pytest.mark.parametrize("data", [b"\0" * 5000, PROSE.encode() + b"\0"], ids=["zeros", "a zero"])
def test_what_is_no_text_is_passed_over_by_name(folder: Path, data: bytes) -> None:
    said: list[str] = []
    for name in ("b.txt", "c.jsonl", "d.html"):
        (folder / name).write_bytes(data)
    assert set(texts(folder, said.append)) == {"a.txt"}
    assert [line.split(" is not text (it holds NUL bytes)")[0] for line in said] == [
        f"passed over: {folder}/{name}" for name in ("b.txt", "c.jsonl", "d.html")
    ]


def test_what_a_wrong_conversion_leaves_behind_is_said(folder: Path) -> None:
    """The advice that was given once: dashes and quotes become C1 characters, which cleaning deletes."""
    (folder / "b.txt").write_text((CASES / "cp1252.txt").read_bytes().decode("latin-1"))
    (folder / "c.jsonl").write_text('{"text": "um \\u0093dois\\u0094"}\n')
    said: list[str] = []
    texts(folder, said.append)
    assert [line.split(":")[0] for line in said] == ["b.txt", "c.jsonl"]
    assert all("WINDOWS-1252" in line for line in said) and ": 6 control" in said[0] and ": 2 control" in said[1]
    (folder / "b.txt").write_text((CASES / "cp1252.txt").read_bytes().decode("cp1252"))
    (folder / "c.jsonl").unlink()
    said.clear()
    texts(folder, said.append)
    assert not said, "after the right advice there is nothing to say"
