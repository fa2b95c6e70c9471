"""A home in one file: all of it comes back, nothing private goes along, nothing damaged, foreign or half appears."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from oliveira import artifact
from oliveira.errors import CorruptError, DiskError, OliveiraError, UserError
from oliveira.files import digest_directory, write_json_atomic
from oliveira.ledger import LIFE, Ledger
from oliveira.lifecycle import backup, restore
from oliveira.lifecycle.backup import back_up
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.monitoring.traffic import TrafficLog
from oliveira.process.progress import Reporter
from oliveira.world import World

QUIET = Reporter(quiet=True)
SMALL = GPTConfig(vocab_size=37, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32, max_len=24)
LEFT = ("logs/front.log", "cache/x", "attention/x", "up.lock", "front.json", "work/x", "stages/train/old/stage.json")


def write(home: Path, name: str, content: bytes = b"x" * 100) -> None:
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_bytes(content)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two artifacts, one stage of the life and one of an older world, an adapter, a run, traffic, and what stays."""
    home = tmp_path / "home"
    with Ledger(home) as ledger:
        for seed in range(2):
            torch.manual_seed(seed)
            made = artifact.write(
                home / "artifacts" / f"a{seed}", model=GPT(SMALL), name="gpt", lineage={"seed": seed}, metrics={}
            )
            ledger.add_artifact(made.digest, "package", made.path, made.lineage, made.metrics)
            ledger.promote(made.digest, actor="test", numbers={})
        ledger.set_setting(LIFE, {"train": "k" * 64})
        ledger.wish("rollback", {}, "test")
        ledger.set_setting("serving", {"digest": made.digest})
    write_json_atomic(home / "world.json", World().model_dump())
    write_json_atomic(home / "remembered.json", {})
    for name in (*LEFT, f"stages/train/{'k' * 16}/stage.json", "runs/train-k/curve.jsonl", "runs/train-k/.c.tmp"):
        write(home, name)
    write(home, "runs/train-k/checkpoint.safetensors")
    write(home, "adapters/ana/adapter.json", b"{}")
    log = TrafficLog(home / "traffic", 1)
    log.append({"id": "1", "time": 0.0, "digest": "", "text": "private", "tokens": [], "loss": None})
    log.close()
    return home


def save(home: Path, file: Path, *, with_traffic: bool = False) -> Path:
    with Ledger(home) as ledger:
        back_up(ledger, file, QUIET, with_traffic=with_traffic)
    return file


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.tmp") if "runs" not in path.parts]


@pytest.mark.parametrize("with_traffic", [False, True])
def test_all_that_cannot_be_made_again_comes_back(home: Path, tmp_path: Path, with_traffic: bool) -> None:
    with Ledger(home) as ledger:
        key = ledger.add_key("ana", ("use",))
        file = tmp_path / "deep" / "home.zip"
        told = back_up(ledger, file, QUIET, with_traffic=with_traffic)
        champion, previous = ledger.alias("champion"), ledger.alias("previous")
    assert told["champion"] == champion and told["left_out"] == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "keys' hashes and texts are in it"
    new = tmp_path / "new"
    new.mkdir()  # an empty folder is nobody's home
    assert restore.restore(file, new, QUIET)["champion"] == champion
    kept = digest_directory(home)
    missing = {name for name in kept if not (new / name).exists()} - {"ledger.sqlite"}
    traffic = {name for name in kept if name.startswith("traffic/")}
    unfinished = {"runs/train-k/.c.tmp", "runs/train-k/checkpoint.safetensors"}
    assert missing == {*LEFT, *unfinished} | (set() if with_traffic else traffic)
    after = digest_directory(new)
    assert all(after[name] == kept[name] for name in after if name != "ledger.sqlite")
    assert all(stat.S_IMODE((new / name).stat().st_mode) == 0o600 for name in after.keys() & traffic)
    with Ledger(new) as ledger:
        assert (ledger.alias("champion"), ledger.alias("previous")) == (champion, previous)
        assert ledger.verify_key(key) is not None, "a key stays good"
        assert ledger.pending_wishes() == [], "nothing that was asked of the old home happens in the new one"
        assert ledger.setting("serving") is None
        for row in ledger.artifacts():
            artifact.open_artifact(row.path, row.digest)
    assert leftovers(tmp_path) == []


def test_what_was_deleted_is_not_in_the_copy(home: Path, tmp_path: Path) -> None:
    with Ledger(home) as ledger:
        ledger.event("note", {"text": "a secret word"})
        with ledger.transaction():
            ledger._connection.execute("DELETE FROM event")
    with zipfile.ZipFile(save(home, tmp_path / "home.zip")) as packed:
        assert b"a secret word" not in packed.read("ledger.sqlite")


@pytest.mark.parametrize("with_traffic", [False, True])
def test_requests_and_answers_are_private(home: Path, tmp_path: Path, with_traffic: bool) -> None:
    with Ledger(home) as ledger:
        asked = {"text": "a secret word"}
        ledger.add_answer("pred-1", time=1.0, digest="d", request=asked, answer={}, observed={})
        back_up(ledger, tmp_path / "home.zip", QUIET, with_traffic=with_traffic)
        assert len(ledger.answers()) == 1, "the home itself keeps them"
    with zipfile.ZipFile(tmp_path / "home.zip") as packed:
        assert (b"a secret word" in packed.read("ledger.sqlite")) == with_traffic


def test_nothing_is_replaced(home: Path, tmp_path: Path) -> None:
    file = save(home, tmp_path / "home.zip")
    with pytest.raises(UserError, match=r"home\.zip exists already"):
        save(home, file)
    before = digest_directory(home)
    with pytest.raises(UserError, match="is not empty"):
        restore.restore(file, home, QUIET)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no folder"):
        restore.restore(file, tmp_path / "link", QUIET)
    assert digest_directory(home) == before


def test_a_home_that_appears_meanwhile_is_kept(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, new = save(home, tmp_path / "home.zip"), tmp_path / "new"
    monkeypatch.setattr(restore, "_check_ledger", lambda folder: write(new, "ledger.sqlite", b"another's"))
    with pytest.raises(UserError, match="in use or not empty"):
        restore.restore(file, new, QUIET)
    assert (new / "ledger.sqlite").read_bytes() == b"another's" and leftovers(tmp_path) == []


def test_a_damaged_artifact_is_left_out_and_a_damaged_champion_refused(home: Path, tmp_path: Path) -> None:
    with Ledger(home) as ledger:
        champion, previous = ledger.alias("champion"), ledger.alias("previous")
        write(home, "artifacts/a0/model.safetensors")
        told = back_up(ledger, tmp_path / "one.zip", QUIET, with_traffic=False)
        assert told["left_out"] == [previous]
        assert restore.restore(tmp_path / "one.zip", tmp_path / "new", QUIET)["champion"] == champion
        write(home, "artifacts/a1/model.safetensors")
        with pytest.raises(CorruptError, match=r"the champion .* is damaged .*rollback"):
            back_up(ledger, tmp_path / "two.zip", QUIET, with_traffic=False)
    assert not (tmp_path / "two.zip").exists() and leftovers(tmp_path) == []


def packed_again(file: Path, change: Callable[[dict[str, bytes], dict], None]) -> Path:
    """The same archive after somebody's hands."""
    with zipfile.ZipFile(file) as packed:
        members = {info.filename: packed.read(info) for info in packed.infolist()}
    about = json.loads(members.pop("manifest.json"))
    change(members, about)
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
        if about:
            packed.writestr("manifest.json", json.dumps(about))
    return file


def rename(name: str) -> Callable[[dict[str, bytes], dict], None]:
    def change(members: dict[str, bytes], about: dict) -> None:
        members[name] = members.pop("world.json")
        about["members"][name] = about["members"].pop("world.json")

    return change


def flip(members: dict[str, bytes], about: dict) -> None:
    name = "artifacts/a1/model.safetensors"
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (flip, CorruptError, "a1/model.safetensors is not the file that was written"),
        (lambda m, a: m.pop("world.json"), CorruptError, "does not hold what its manifest names"),
        (lambda m, a: m.update(more=b"x"), CorruptError, "does not hold what its manifest names"),
        (lambda m, a: a["members"]["world.json"].update(size=1), CorruptError, "world.json is not the file"),
        (lambda m, a: a["members"].update({"world.json": 5}), CorruptError, "world.json is not the file"),
        (lambda m, a: a.update(members=[]), CorruptError, "does not hold what its manifest names"),
        (rename("../world.json"), CorruptError, "has no place in a home"),
        (rename("/etc/world.json"), CorruptError, "has no place in a home"),
        (rename("a/../../x"), CorruptError, "has no place in a home"),
        (rename("a//x"), CorruptError, "has no place in a home"),
        (rename("..\\x"), CorruptError, "has no place in a home"),
        (rename("ledger.sqlite/x"), CorruptError, "has no place in a home"),
        (rename("world/"), CorruptError, "has no place in a home"),
        (lambda m, a: a.update(version=2, program="9.0"), UserError, r"version 2, this program knows 1.*\(9\.0\)"),
        (lambda m, a: a.update(format="tar"), UserError, "is no backup of a home"),
        (lambda m, a: a.clear(), UserError, "is no backup of a home"),
    ],
)
def test_a_damaged_or_foreign_archive_makes_no_home(
    home: Path, tmp_path: Path, change: Callable, error: type[OliveiraError], says: str
) -> None:
    file = packed_again(save(home, tmp_path / "home.zip"), change)
    before = digest_directory(tmp_path)
    with pytest.raises(error, match=says):
        restore.restore(file, tmp_path / "new", QUIET)
    assert not (tmp_path / "new").exists() and digest_directory(tmp_path) == before and leftovers(tmp_path) == []


def test_a_link_in_the_archive_makes_no_home(home: Path, tmp_path: Path) -> None:
    file = save(home, tmp_path / "home.zip")
    with zipfile.ZipFile(file) as packed:
        members = {info: packed.read(info) for info in packed.infolist()}
    with zipfile.ZipFile(file, "w") as packed:
        for info, content in members.items():
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if info.filename == "world.json" else info.external_attr
            packed.writestr(info, content)
    with pytest.raises(CorruptError, match=r"'world\.json' has no place"):
        restore.restore(file, tmp_path / "new", QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("rest", [0, 1000, -1])
def test_a_torn_archive_is_damaged(home: Path, tmp_path: Path, rest: int) -> None:
    file = save(home, tmp_path / "home.zip")
    file.write_bytes(file.read_bytes()[:rest])
    with pytest.raises(CorruptError, match="is damaged, or no backup"):
        restore.restore(file, tmp_path / "new", QUIET)
    with pytest.raises(UserError, match="is not there"):
        restore.restore(tmp_path / "other.zip", tmp_path / "new", QUIET)
    with pytest.raises(UserError, match="cannot be read"):
        restore.restore(tmp_path, tmp_path / "new", QUIET)
    assert not (tmp_path / "new").exists()


def test_every_flipped_byte_is_found_or_harmless(home: Path, tmp_path: Path) -> None:
    """Never a home that is not the one that was saved."""
    file = save(home, tmp_path / "home.zip")
    good, spot = file.read_bytes(), tmp_path / "flipped.zip"
    restore.restore(file, tmp_path / "whole", QUIET)
    whole = digest_directory(tmp_path / "whole")
    refused = 0
    for place in range(0, len(good), max(1, len(good) // 40)):
        data = bytearray(good)
        data[place] ^= 0x20
        spot.write_bytes(data)
        new = tmp_path / f"new{place}"
        try:
            restore.restore(spot, new, QUIET)
            found = digest_directory(new)
            assert {name: found[name] for name in found if name != "ledger.sqlite"} == {
                name: whole[name] for name in whole if name != "ledger.sqlite"
            }
        except OliveiraError:
            refused += 1
            assert not new.exists()
    assert refused > 20


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_full_disk_is_one_sentence(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    file = save(home, tmp_path / "home.zip")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "oliveira.files.fsync_path" if what == "restore" else "oliveira.lifecycle.backup.fsync_path", full
    )
    work = {
        "backup": lambda: save(home, tmp_path / "two.zip"),
        "restore": lambda: restore.restore(file, tmp_path / "new", QUIET),
    }
    with pytest.raises(DiskError, match=r"no space left at .*(two\.zip|new) \(\d+ MiB free\)"):
        work[what]()
    assert not (tmp_path / "two.zip").exists() and not (tmp_path / "new").exists() and leftovers(tmp_path) == []


def test_a_backup_larger_than_the_disk_is_refused_before_any_work(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(home, tmp_path / "home.zip")
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(DiskError, match=r"the backup needs \d+ MiB, 0 are free"):
        restore.restore(file, tmp_path / "new", QUIET)


HANGS = """
import sys, signal, os
from pathlib import Path
from oliveira.lifecycle import backup, restore
from oliveira.ledger import Ledger
from oliveira.process.progress import Reporter

class Deadly(Reporter):
    def progress(self, fraction, text=""):
        if fraction > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)

what, place, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if what == "backup":
    with Ledger(place) as ledger:
        backup.back_up(ledger, file, Deadly(quiet=True), with_traffic=False)
else:
    restore.restore(file, place, Deadly(quiet=True))
"""


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_kill_in_the_middle_leaves_nothing_half(home: Path, tmp_path: Path, what: str) -> None:
    file = tmp_path / "home.zip"
    place, made = (home, file) if what == "backup" else (tmp_path / "new", tmp_path / "new")
    if what == "restore":
        save(home, file)
    done = subprocess.run([sys.executable, "-c", HANGS, what, str(place), str(file)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL and not made.exists() and len(leftovers(tmp_path)) > 0
    if what == "backup":
        save(home, file)
    else:
        restore.restore(file, place, QUIET)
    assert made.exists() and leftovers(tmp_path) == [], "the next one removes what the killed one left"


def test_texts_that_are_not_here_are_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    world = World().model_dump()
    world["data"]["base"] = f"path:{texts}"
    write_json_atomic(home / "world.json", world)
    file = save(home, tmp_path / "home.zip")
    restore.restore(file, tmp_path / "one", Reporter())
    assert f"its texts {texts} are not here" in capsys.readouterr().out
    texts.mkdir()
    restore.restore(file, tmp_path / "two", Reporter())
    assert "not here" not in capsys.readouterr().out


def test_a_file_that_goes_while_it_is_copied_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = home / "runs" / "train-k" / "gone.jsonl"
    monkeypatch.setattr(backup, "_runs", lambda home: write(home, str(gone)) or iter([gone]))  # type: ignore[func-returns-value]

    monkeypatch.setattr(backup, "_info", lambda name, made=backup._info: gone.unlink(missing_ok=True) or made(name))
    with pytest.raises(OliveiraError, match="went away while it was copied"):
        save(home, tmp_path / "home.zip")
    assert not (tmp_path / "home.zip").exists()
