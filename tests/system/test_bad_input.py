"""What a user can get wrong: one sentence that names field, value and remedy; no traceback; nothing lost."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import life_helpers as life
import pytest

from oliveira.ledger import Ledger


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int | None = 2) -> None:
    said = done.stderr.strip()
    assert done.returncode == code, (done.returncode, said, done.stdout)
    assert "Traceback" not in said + done.stdout
    lines = [line for line in said.splitlines() if line.startswith("oliveira: ")]
    assert len(lines) == 1, said
    for word in words:
        assert word in lines[0], lines[0]


def up_on(tmp_path: Path, text: Path, *arguments: str, **changes: object) -> subprocess.CompletedProcess[str]:
    return life.run(
        life.up(tmp_path / "home", text, "--text", str(text), "--quiet", "--once", *arguments, **changes), timeout=120
    )


def folder(tmp_path: Path, **files: bytes) -> Path:
    path = tmp_path / "text"
    path.mkdir()
    for name, data in files.items():
        (path / name.replace("__", ".")).write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["text", "folder"]),
        ({"a__txt": b"\0" * 50_000}, ["a.txt"]),
        ({"a__txt": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40}, ["a.txt"]),
        ({"a__pdf": b"%PDF-1.7 and no more", "b__docx": b"PK"}, ["a.pdf", "PDF"]),
        ({"a__txt": b"Muito pouco texto para aprender alguma coisa."}, ["characters"]),
    ],
    ids=["empty", "nul", "binary", "damaged", "too-little"],
)
def test_text_that_cannot_be_learnt_from(tmp_path: Path, files: dict[str, bytes], words: list[str]) -> None:
    refused(up_on(tmp_path, folder(tmp_path, **files)), *words)


def test_too_little_text_for_the_model_asked_for(tmp_path: Path) -> None:
    text = " ".join(f"A frase número {i} fala de outra coisa, a saber {i * i}." for i in range(300))
    done = up_on(tmp_path, folder(tmp_path, a__txt=text.encode()), **{"model.max_len": 8192})
    refused(done, "model.max_len = 8192", "tokens")


def test_a_text_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(up_on(tmp_path, tmp_path / "nowhere"), "nowhere")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.stepz=5", ["train.stepz", "steps"]),
        ("train.steps=many", ["train.steps", "many"]),
        ("model.n_heads=5", ["model.n_heads = 5", "d_model = 32"]),
        ("nonsense", ["section.field=value"]),
    ],
)
def test_world_mistakes(tmp_path: Path, setting: str, words: list[str]) -> None:
    home = tmp_path / "home"
    refused(life.run([*life.command(home, "up"), "--world", "tiny", "--set", setting]), *words)
    assert not home.exists(), "nothing was started"


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = life.run([*life.command(tmp_path / "home", "up"), "--world", "tiny", "--port", str(port)])
    refused(done, str(port), "--port")


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(life.run([*life.command(tmp_path / "file", "up"), "--world", "tiny"]), "file", "--home")
    done = life.run([*life.command(tmp_path / "file" / "below", "up"), "--world", "tiny"])
    assert done.returncode in (2, 4) and "Traceback" not in done.stderr and "--home" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("train", "probe/adding", "gru"),
        ("compare", "probe/adding", "gru", "mlp"),
        ("keys", "create", "ana"),
        ("up", "--world", "tiny", "--port", "0"),
    ],
    ids=lambda command: command[0],
)
def test_a_home_that_cannot_be_written_is_said_before_any_work(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A read-only file system where one can be mounted, a file in the way elsewhere."""
    home = tmp_path / "read-only"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(home)]
    mounted = shutil.which("mount") and not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        for place in (home, home / "below") if mounted else (tmp_path / "file" / "below",):
            (tmp_path / "file").touch()
            done = life.run(life.command(place, *command))
            refused(done, str(place), "--home", code=4)
            assert "%" not in done.stdout, "work was begun"
    finally:
        if mounted:
            subprocess.run(["umount", str(home)], check=True)


def test_two_programs_on_one_home(tmp_path: Path) -> None:
    from oliveira.process.holder import holder

    with holder(tmp_path, "up"):
        refused(life.run([*life.command(tmp_path, "up"), "--world", "tiny", "--port", "0"]), "another", "--home")


@pytest.mark.parametrize("verb", [["status"], ["history"], ["rollback"], ["swap", "abc"], ["pause"]])
def test_commands_on_a_folder_that_is_no_home(tmp_path: Path, verb: list[str]) -> None:
    refused(life.run(life.command(tmp_path / "none", *verb)), "--home", "oliveira up")
    assert not (tmp_path / "none").exists()


def test_a_ledger_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database" * 1000)
    done = life.run(life.command(tmp_path, "status"))
    refused(done, "ledger.sqlite", "--home", code=3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of a few megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


SMALL: dict[str, object] = {"data.max_chars": 100_000, "monitor.window": 200, "update.min_new_chars": 4000}


@pytest.mark.slow
def test_a_full_disk_in_every_stage_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    """A filler leaves less and less room: each start stops somewhere else; with room again the life is whole."""
    text = life.new_domain(tmp_path / "text")
    home, filler = small_disk / "home", small_disk / "filler"
    done: dict[str, str] = {}
    stopped_in = set()
    for kib in (5800, 5400, 4900, 4400, 3800, 3000, 2200):
        filler.write_bytes(b"x" * kib * 1024)
        result = life.run(life.up(home, text, "--quiet", "--once", **SMALL), timeout=200)
        if result.returncode == 0:
            break
        assert "Traceback" not in result.stderr and "space" in result.stderr, result.stderr
        filler.unlink()
        if (home / "ledger.sqlite").exists():
            with Ledger(home) as ledger:
                assert ledger.check()
                rows = {row.name: row for row in ledger.stages()}
            assert all(rows[name].digest == digest for name, digest in done.items())
            done = {name: row.digest or "" for name, row in rows.items() if row.state == "done"}
            stopped_in |= {name for name, row in rows.items() if row.state == "failed"}
    filler.unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    last = life.run(life.up(home, text, "--quiet", "--once", **SMALL))
    assert last.returncode == 0, last.stdout + last.stderr
    with Ledger(home) as ledger:
        assert all(row.digest == done[row.name] for row in ledger.stages() if row.name in done)
    assert stopped_in, "no stage met the full disk"
