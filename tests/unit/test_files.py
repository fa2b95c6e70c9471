"""Whole or not there: atomic files and folders under kill, full disk and folders that cannot be written."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oliveira import files
from oliveira.errors import DiskError, UserError
from oliveira.files import (
    atomic_directory,
    canonical_json,
    digest_directory,
    expand,
    explain_disk,
    make_folder,
    sha256_bytes,
    sha256_file,
    sha256_json,
    sweep_temporary,
    write_atomic,
    write_json_atomic,
)
from oliveira.kernels.build import BuildError, cache_folder


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob(".*"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.json"
    write_atomic(path, b"old")
    write_atomic(path, b"")
    assert path.read_bytes() == b""
    write_json_atomic(path, {"ação": [1, 2.5, None]})
    assert path.read_text().endswith("}\n") and "ação" in path.read_text()
    assert leftovers(tmp_path) == []


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", 1)
    for value in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json_atomic(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == "1\n" and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"no space left at .*file \(\d+ MiB free\)\. Free some space"),
        (errno.EDQUOT, r"no space left at .*file \(\d+ MiB free\)\. Free some space"),
        (errno.EFBIG, r"cannot write to .*file: the file would be larger .*ulimit -f unlimited"),
        (errno.EROFS, r"cannot write to .*file: read-only file system\. Choose a folder"),
        (errno.EIO, r"the disk under .*file fails \(input/output error\)\. Mend it"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, said: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(DiskError, match=said):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


def test_a_folder_is_seen_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "stages" / "result"
    with atomic_directory(final) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.bin").write_bytes(b"1")
        assert not final.exists()
    assert digest_directory(final) == {"sub/a.bin": sha256_bytes(b"1")}
    with pytest.raises(ZeroDivisionError), atomic_directory(final) as folder:
        (folder / "a.bin").write_bytes(bytes([1 // 0]))
    assert digest_directory(final) == {"sub/a.bin": sha256_bytes(b"1")}
    with atomic_directory(final) as folder:
        (folder / "b.bin").write_bytes(b"3")
    assert digest_directory(final) == {"b.bin": sha256_bytes(b"3")}
    assert leftovers(tmp_path) == []


def test_a_failed_last_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "result"
    with atomic_directory(final) as folder:
        (folder / "a").write_text("old")
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DiskError), atomic_directory(final) as folder:
        (folder / "a").write_text("new")
    assert (final / "a").read_text() == "old" and leftovers(tmp_path) == []


def test_the_old_folder_is_never_deleted_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill inside a deletion would leave half of it under its final name."""
    deleted: list[Path] = []
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **_: deleted.append(path))
    for _ in range(2):
        with atomic_directory(tmp_path / "result") as folder:
            (folder / "a").write_text("")
    assert deleted and tmp_path / "result" not in deleted


def test_the_names_of_nested_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "fsync_path", lambda path: synced.append(path.name))
    with atomic_directory(tmp_path / "x" / "y") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "leaf").write_text("")
    assert {"leaf", "inner", "x", tmp_path.name} <= set(synced)


def test_sweep_removes_rests_and_restores_what_was_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "a" / ".model.12345678.tmp" / "deep").mkdir(parents=True)
    (tmp_path / "a" / ".model.12345678.tmp" / "deep" / ".x.1.tmp").write_text("")
    (tmp_path / "a" / ".curve.json.87654321.tmp").write_text("torn")
    (tmp_path / "a" / ".old.aside").mkdir()  # killed between the two renames
    (tmp_path / "a" / ".old.aside" / "kept").write_text("whole")
    (tmp_path / "a" / ".done.aside").mkdir()  # killed before the old one was deleted
    (tmp_path / "a" / "done").mkdir()
    (tmp_path / "a" / "notes.tmp").write_text("a user's own")
    assert sweep_temporary(tmp_path) == 4
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["done", "notes.tmp", "old"]
    assert (tmp_path / "a" / "old" / "kept").read_text() == "whole"
    assert sweep_temporary(tmp_path) == 0 == sweep_temporary(tmp_path / "missing")


WRITER = """
import sys
from pathlib import Path
from oliveira.files import atomic_directory, write_atomic
root, n = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    n += 1
    write_atomic(root / "file", str(n % 10).encode() * 200_000)
    with atomic_directory(root / "folder") as folder:
        for i in range(8):
            (folder / str(i)).write_bytes(str(n % 10).encode() * 5_000)
"""


def test_kill_in_the_middle_leaves_old_or_new(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(chance.uniform(0.02, 0.15))
            writer.send_signal(signal.SIGKILL)
        sweep_temporary(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"file", "folder"}
        if (tmp_path / "file").exists():
            data = (tmp_path / "file").read_bytes()
            assert len(data) == 200_000 and len(set(data)) == 1
        if (tmp_path / "folder").exists():
            parts = [(tmp_path / "folder" / str(i)).read_bytes() for i in range(8)]
            assert {len(part) for part in parts} == {5_000} and len(set(b"".join(parts))) == 1
    assert (tmp_path / "file").exists() and (tmp_path / "folder").exists()


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "occupied").write_text("")
    return tmp_path / "occupied" / "home" / "file"


def folder_is_a_file(tmp_path: Path) -> Path:
    (tmp_path / "occupied").write_text("")
    return tmp_path / "occupied" / "file"


@pytest.mark.parametrize("place", [below_a_file, folder_is_a_file])
def test_a_file_in_the_way_is_a_sentence(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    path = place(tmp_path)
    with pytest.raises(DiskError, match=r"cannot write to .*occupied.*Choose a folder .* --home\.$") as caught:
        write_atomic(path, b"")
    assert caught.value.exit_code == 4
    with pytest.raises(DiskError, match="occupied"), atomic_directory(path):
        pytest.fail("nothing is started in a folder that cannot be made")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_read_only_folder_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Root may write anywhere, so that the refusal is injected."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    reason = os.strerror(number).lower()
    with pytest.raises(DiskError, match=f"cannot write to .*sealed: {reason}. Choose a folder"):
        write_atomic(tmp_path / "sealed" / "file", b"")


def test_other_failures_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explain_disk(tmp_path):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(KeyError), explain_disk(tmp_path):
        raise KeyError("mine")


def test_full_disk_below_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="MiB free"), explain_disk(tmp_path / "a" / "b"):
        raise OSError(errno.ENOSPC, "full")


def test_make_folder_twice(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_digests(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "big").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "link").symlink_to(tmp_path / "big")
    assert sha256_file(tmp_path / "empty") == sha256_bytes(b"") == empty
    assert digest_directory(tmp_path) == {"big": sha256_bytes(b"x" * (2**20 + 1)), "empty": empty}


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": ["ã", None]}) == '{"a":["ã",null],"b":1}'.encode()
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 2.5})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id that no passwd entry knows, and no HOME: usual in containers."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_folder() -> None:
    assert expand("texts") == Path("texts")
    with pytest.raises(UserError, match=r"'~/texts' cannot be used: .*Write the whole path"):
        expand("~/texts")
    with pytest.raises(BuildError, match="torch does their work"):
        cache_folder()


def test_paths_that_are_none() -> None:
    for path in ("~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(UserError, match="Write the whole path"):
            expand(path)
