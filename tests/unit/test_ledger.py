"""The ledger keeps what it acknowledged: the rules of each table, transactions, bad disks, many processes."""

from __future__ import annotations

import contextlib
import itertools
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from oliveira.errors import CorruptError, DiskError, OliveiraError, UserError
from oliveira.ledger import Ledger, store
from oliveira.ledger.schema import SCHEMA_VERSION


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger whose clock gives 1, 2, 3 …"""
    ticks = itertools.count(1)
    with Ledger(tmp_path, clock=lambda: float(next(ticks))) as opened:
        yield opened


def add(ledger: Ledger, *digests: str) -> None:
    for digest in digests:
        ledger.add_artifact(digest, "model", ledger.home / "artifacts" / digest, {"from": digest}, {"loss": 1.5})


# Settings of SQLite, opening


def test_the_connection_is_durable_and_checks_references(ledger: Ledger) -> None:
    values = {name: ledger._connection.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(UserError, match=r"SQLite 3.51.2 can lose .* Install apsw"):
        Ledger(tmp_path)
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.100.0")
    Ledger(tmp_path).close()


def test_another_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger._connection.pragma("user_version", SCHEMA_VERSION + 1)
    with pytest.raises(UserError, match=f"has schema {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}"):
        Ledger(tmp_path)


@pytest.mark.parametrize("content", [b"\0" * 8192, b"not a database" * 1000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"is damaged .*Restore a backup") as caught:
        Ledger(tmp_path)
    assert caught.value.exit_code == 3 and path.read_bytes() == content


def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.check()
        for _ in range(200):
            ledger.event("filler", {"text": "x" * 200})
    path = tmp_path / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(255 - byte for byte in data[len(data) // 2 :])
    path.write_bytes(bytes(data))
    with Ledger(tmp_path) as ledger:
        assert not ledger.check()
        with pytest.raises(CorruptError, match="is damaged"):
            ledger.events(limit=1000)


def test_a_home_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"cannot write to .*file.*--home"):
        Ledger(tmp_path / "file" / "home")
    (tmp_path / "home" / "ledger.sqlite").mkdir(parents=True)
    with pytest.raises(DiskError, match=r"cannot write to .*ledger\.sqlite"):
        Ledger(tmp_path / "home")


def test_a_locked_ledger_is_a_sentence_and_nothing_is_half_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    with Ledger(ledger.home) as other:
        with (
            ledger.transaction(),
            pytest.raises(DiskError, match=r"another process has kept .* locked for 0.05 s"),
        ):
            other.event("late", {})
        other.event("free again", {})
    assert [event["kind"] for event in ledger.events()] == ["free again"]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Writes are refused below SQLite, as a full disk does, at every write of a transaction in turn."""
    left = [10**9]

    class File(apsw.VFSFile):
        def xWrite(self, data: bytes, offset: int) -> None:
            if left[0] <= 0:
                raise apsw.FullError("injected")
            left[0] -= 1
            super().xWrite(data, offset)

    class Filling(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("filling", "unix", makedefault=True)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            return File("unix", name, flags)

    disk = Filling()
    try:
        with Ledger(tmp_path) as ledger:
            add(ledger, "a", "b")
            ledger.promote("a", actor="test", numbers={})
            refused = 0
            while ledger.alias("champion") == "a":
                left[0] = refused
                with contextlib.suppress(DiskError):
                    ledger.promote("b", actor="test", numbers={"text": "x" * 20_000})
                left[0] = 10**9
                moved = ledger.alias("champion") == "b"
                assert len(ledger.decisions()) == 1 + moved and ledger.check()
                refused += not moved
            assert 10 < refused < 100, "the transaction takes some tens of writes; each was refused once"
            left[0] = 0
            with pytest.raises(DiskError, match=r"no space left for .*what was acknowledged is kept") as caught:
                ledger.event("refused", {})
            assert caught.value.exit_code == 4
            left[0] = 10**9
            assert ledger.event("after", {}) == 1
    finally:
        disk.unregister()
    with Ledger(tmp_path) as ledger:
        assert ledger.check() and ledger.alias("champion") == "b" and len(ledger.events()) == 1


def test_a_disk_full_at_the_start_is_a_sentence(tmp_path: Path) -> None:
    class File(apsw.VFSFile):
        def xWrite(self, data: bytes, offset: int) -> None:
            raise apsw.FullError("injected")

    class Full(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("full", "unix", makedefault=True)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            return File("unix", name, flags)

    disk = Full()
    try:
        with pytest.raises(DiskError, match="no space left"):
            Ledger(tmp_path)
    finally:
        disk.unregister()
    with Ledger(tmp_path) as ledger:
        assert ledger.stages() == []


# Stages, runs, artifacts


def test_the_life_of_a_stage(ledger: Ledger) -> None:
    assert ledger.stage("k") is None
    ledger.begin_stage("k", "train", {"steps": 3}, {"data": "d"}, "me")
    running = ledger.stage("k")
    assert running is not None and (running.state, running.started, running.attempts) == ("running", 1.0, 1)
    ledger.fail_stage("k", "out of memory")
    failed = ledger.stage("k")
    assert failed is not None and (failed.state, failed.message, failed.finished) == (
        "failed",
        "out of memory",
        2.0,
    )
    with pytest.raises(OliveiraError, match="k is not running"):
        ledger.finish_stage("k", "digest", {}, 1.0)
    ledger.begin_stage("k", "train", {"steps": 3}, {"data": "d"}, "you")
    again = ledger.stage("k")
    assert again is not None and (again.state, again.attempts, again.owner) == ("running", 2, "you")
    assert again.finished is None and again.message is None, "nothing is left of the failure"
    ledger.finish_stage("k", "digest", {"loss": 1.25}, 7.5)
    done = ledger.stage("k")
    assert done is not None and (done.state, done.digest, done.outputs, done.seconds) == (
        "done", "digest", {"loss": 1.25}, 7.5,
    )  # fmt: skip
    assert (done.config, done.inputs) == ({"steps": 3}, {"data": "d"})


def test_a_finished_stage_is_never_run_twice(ledger: Ledger) -> None:
    ledger.begin_stage("k", "train", {}, {}, "me")
    ledger.finish_stage("k", "digest", {}, 1.0)
    with pytest.raises(OliveiraError, match=r"stage train \(k\) is done already"):
        ledger.begin_stage("k", "train", {}, {}, "you")
    with pytest.raises(OliveiraError, match="not running"):
        ledger.finish_stage("k", "other", {}, 1.0)
    ledger.fail_stage("k", "late")
    row = ledger.stage("k")
    assert row is not None and (row.state, row.digest, row.owner) == ("done", "digest", "me")
    ledger.forget_stage("k")
    assert ledger.stage("k") is None
    ledger.begin_stage("k", "train", {}, {}, "you")


def test_stages_come_oldest_first(ledger: Ledger) -> None:
    for key in "cab":
        ledger.begin_stage(key, key, {}, {}, "me")
    assert [row.key for row in ledger.stages()] == ["c", "a", "b"]


def test_runs(ledger: Ledger) -> None:
    ledger.begin_run("r1", "train", {"lr": 0.1}, "runs/r1", "stage")
    ledger.begin_run("r2", "update", {}, "runs/r2")
    ledger.finish_run("r1", "failed", {"loss": 2.0})
    ledger.begin_run("r1", "train", {"lr": 0.1}, "runs/r1", "stage")  # resumed
    first, second = ledger.runs()
    assert (first["id"], first["state"], first["config"], first["stage_key"]) == (
        "r1",
        "running",
        {"lr": 0.1},
        "stage",
    )
    assert (second["state"], second["metrics"], second["finished"]) == ("running", {}, None)
    with pytest.raises(OliveiraError, match="run r3"):
        ledger.finish_run("r3", "done", {})


def test_artifacts_follow_the_home(ledger: Ledger, tmp_path: Path) -> None:
    add(ledger, "b", "a")
    add(ledger, "b")
    assert [row.digest for row in ledger.artifacts()] == ["b", "a"]
    row = ledger.artifact("a")
    assert row is not None and row.path == tmp_path / "artifacts" / "a" and row.lineage == {"from": "a"}
    assert ledger.artifact("c") is None
    with pytest.raises(ValueError):
        ledger.add_artifact("out", "model", Path("/elsewhere"), {}, {})
    ledger.close()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    with Ledger(moved) as again:
        row = again.artifact("a")
        assert row is not None and row.path == moved / "artifacts" / "a"


# Aliases and decisions


def test_promote_and_roll_back(ledger: Ledger) -> None:
    add(ledger, "a", "b", "c")
    ledger.set_challenger("b")
    ledger.promote("a", actor="gate", numbers={"gain": 0.1})
    assert ledger.aliases() == {"champion": "a", "challenger": "b"}
    ledger.promote("b", actor="gate", numbers={})
    assert ledger.aliases() == {"champion": "b", "previous": "a"}, "the challenger became the champion"
    ledger.promote("b", actor="gate", numbers={})
    assert ledger.alias("previous") == "a", "promoting the champion again keeps the way back"
    assert ledger.rollback(actor="operator", reason="worse") == "a"
    assert ledger.aliases() == {"champion": "a"}, "what was rolled back is not previous"
    newest = ledger.decisions()[0]
    assert (newest.kind, newest.digest, newest.previous, newest.actor) == ("rollback", "a", "b", "operator")
    assert newest.numbers == {"reason": "worse"}
    assert [decision.kind for decision in ledger.decisions(limit=2)] == ["rollback", "promote"]
    with pytest.raises(UserError, match="nothing older was served"):
        ledger.rollback(actor="operator", reason="once more")
    ledger.promote("b", actor="gate", numbers={})
    ledger.set_challenger("a")
    ledger.rollback(actor="operator", reason="worse")
    assert ledger.aliases() == {"champion": "a"}, "who serves is nobody's challenger"


@pytest.mark.parametrize(
    ("moves", "served"),
    [
        ("+a +b +c - -", "a"),
        ("+a +b +c - +d - -", "a"),  # c is never served again
        ("+a +b +a", "a < b"),
        ("+a +b +a +b -", "a"),  # `up --once`: swapped back and forward, then rolled back
        ("+a +b - +b", "b < a"),  # wanted again by hand
        ("+a +b +c +b -", "c < a"),
        ("+a +a", "a"),
    ],
)
def test_the_way_back(ledger: Ledger, moves: str, served: str) -> None:
    add(ledger, "a", "b", "c", "d")
    for move in moves.split():
        if move == "-":
            ledger.rollback(actor="me", reason="worse")
        else:
            ledger.promote(move[1], actor="me", numbers={})
    champion, _, previous = served.partition(" < ")
    assert (ledger.alias("champion"), ledger.alias("previous") or "") == (champion, previous)


def test_decisions_that_move_nothing(ledger: Ledger) -> None:
    add(ledger, "a", "b")
    ledger.promote("a", actor="gate", numbers={})
    number = ledger.decide("promote", "rejected", digest="b", actor="gate", numbers={"reasons": ["worse"]})
    newest = ledger.decisions()[0]
    assert (newest.id, newest.verdict, newest.digest, newest.previous) == (number, "rejected", "b", "a")
    assert ledger.aliases() == {"champion": "a"}


def test_an_alias_names_an_artifact_that_is_there(ledger: Ledger) -> None:
    with pytest.raises(UserError, match=r"there is no previous model to roll back to: .*`oliveira history`"):
        ledger.rollback(actor="me", reason="-")
    for point in (lambda: ledger.promote("x", actor="me", numbers={}), lambda: ledger.set_challenger("x")):
        with pytest.raises(UserError, match=r"artifact x is not in the ledger\. `oliveira history` lists"):
            point()
    assert ledger.aliases() == {} and ledger.decisions() == []
    add(ledger, "x")
    ledger.set_challenger("x")
    ledger.set_challenger(None)
    assert ledger.aliases() == {}


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_aliases_and_decision_change_together_or_not_at_all(ledger: Ledger, verb: str) -> None:
    add(ledger, "a", "b", "c")
    ledger.promote("a", actor="me", numbers={})
    ledger.promote("b", actor="me", numbers={})
    before = ledger.aliases(), ledger.decisions()

    def fail() -> float:
        raise RuntimeError("power cut")  # the clock is read after the aliases were moved

    clock, ledger.clock = ledger.clock, fail
    with pytest.raises(RuntimeError):
        ledger.promote("c", actor="me", numbers={}) if verb == "promote" else ledger.rollback(actor="me", reason="-")
    ledger.clock = clock
    assert (ledger.aliases(), ledger.decisions()) == before
    ledger.promote("c", actor="me", numbers={})


def test_numbers_that_are_not_finite_are_refused_before_anything_moves(ledger: Ledger) -> None:
    add(ledger, "a")
    with pytest.raises(ValueError):
        ledger.promote("a", actor="me", numbers={"loss": float("nan")})
    assert ledger.aliases() == {}


# Wishes, keys, gauges, events, settings


def test_wishes_are_worked_off_in_order(ledger: Ledger) -> None:
    first = ledger.wish("swap", {"digest": "a"}, "operator")
    second = ledger.wish("retrain", {}, "alert")
    third = ledger.wish("swap", {}, "operator")
    assert [wish.id for wish in ledger.pending_wishes()] == [first, second, third]
    assert [wish.id for wish in ledger.pending_wishes("swap", "rollback")] == [first, third]
    ledger.finish_wish(first, "done", {"served": "a"})
    assert [wish.id for wish in ledger.pending_wishes("swap")] == [third]
    done, open_ = ledger.get_wish(first), ledger.get_wish(second)
    assert done is not None and (done.state, done.result, done.args) == (
        "done",
        {"served": "a"},
        {"digest": "a"},
    )
    assert open_ is not None and (open_.state, open_.result, open_.actor) == ("pending", None, "alert")
    assert ledger.get_wish(99) is None
    with pytest.raises(OliveiraError, match="wish 99"):
        ledger.finish_wish(99, "done", {})


def test_a_wish_that_was_withdrawn_is_nobodys(ledger: Ledger) -> None:
    waits, runs = ledger.wish("swap", {}, "me"), ledger.wish("retrain", {}, "me")
    assert ledger.begin_wish(runs, {"running": True})
    assert [wish.runs for wish in ledger.pending_wishes()] == [False, True]
    for number in (waits, runs):
        gone = ledger.withdraw_wish(number, "refused")
        assert (gone.state, gone.result) == ("failed", {"error": "refused", "withdrawn": True})
        assert not ledger.is_pending(number) and not ledger.begin_wish(number, {})
        assert not ledger.finish_wish(number, "done", {}), "the word was given already"
    assert ledger.pending_wishes() == []
    done = ledger.wish("swap", {}, "me")
    assert ledger.finish_wish(done, "done", {"champion": "a"})
    assert ledger.withdraw_wish(done, "too late").result == {"champion": "a"}


def test_a_transaction_in_another_is_a_part_of_it(ledger: Ledger) -> None:
    number = ledger.wish("swap", {}, "me")

    def act() -> None:
        with ledger.transaction():
            ledger.finish_wish(number, "done", {})
            ledger.set_setting("x", 1)
            raise RuntimeError("killed between the effect and the word of it")

    with pytest.raises(RuntimeError):
        act()
    assert ledger.is_pending(number) and ledger.setting("x") is None


def test_a_key_opens_only_with_its_secret(ledger: Ledger) -> None:
    secret = ledger.add_key("laptop", ("use", "admin"))
    other = ledger.add_key("phone", ("use",))
    key = ledger.verify_key(secret)
    assert key is not None and (key.name, key.scopes, key.revoked) == ("laptop", ("use", "admin"), None)
    listed = ledger.keys()
    assert [key.name for key in listed] == ["laptop", "phone"]
    swapped = "-".join([*secret.split("-", 3)[:3], other.split("-", 3)[3]])
    wrong = ["", "sk", "sk-oli", "sk-oli-", "\0" * 60, "sk-oli-\ud800-é", "chave-ção", "sk-oli-' OR 1=1 --"]
    wrong += [secret[:-1], secret + "a", f" {secret}", secret.upper(), secret.replace("sk-", "pk-"), swapped]
    wrong += ["sk-oli-00000000-" + "a" * 43, "x" * 100_000]
    assert [ledger.verify_key(text) for text in wrong] == [None] * len(wrong)


def test_the_secret_is_not_stored(ledger: Ledger) -> None:
    secret = ledger.add_key("laptop", ("use",)).split("-", 3)[3].encode()
    twin = ledger.add_key("laptop", ("use",)).split("-", 3)[3].encode()
    stored = ledger._rows("SELECT salt, hash FROM api_key")
    assert len(set(stored)) == 2 and all(len(salt) == 16 and len(digest) == 32 for salt, digest in stored)
    ledger.close()
    written = b"".join(path.read_bytes() for path in ledger.home.iterdir())
    assert b"laptop" in written and secret not in written and twin not in written


def test_a_revoked_key_opens_nothing(ledger: Ledger) -> None:
    secret = ledger.add_key("laptop", ("use",))
    number = ledger.keys()[0].id
    ledger.revoke_key(number)
    assert ledger.verify_key(secret) is None
    assert ledger.keys()[0].revoked == 2.0
    for unknown in (number, "00000000"):
        with pytest.raises(UserError, match=f"key '{unknown}' is unknown or revoked already. `oliveira keys list`"):
            ledger.revoke_key(unknown)


def test_gauges(ledger: Ledger) -> None:
    labels = (("domain", "base"), ("split", "validation"))
    ledger.set_gauges({("bits", labels): 2.5, ("step", ()): 3})
    ledger.set_gauges({("bits", tuple(reversed(labels))): 2.25, ("free", ()): float("inf")})
    assert ledger.gauges() == [
        ("bits", dict(labels), 2.25, 2.0),
        ("free", {}, float("inf"), 2.0),
        ("step", {}, 3.0, 1.0),
    ]
    ledger.set_gauges({("bits", labels): float("nan"), ("never", ()): float("nan"), ("step", ()): 4})
    assert [(name, value) for name, _, value, _ in ledger.gauges()] == [("free", float("inf")), ("step", 4.0)]


def test_events(ledger: Ledger) -> None:
    numbers = [ledger.event(kind, {"é": n}) for n, kind in enumerate(("drift", "swap", "drift"))]
    assert [event["id"] for event in ledger.events()] == numbers
    assert [event["data"] for event in ledger.events(after=numbers[0], limit=1)] == [{"é": 1}]
    assert [event["id"] for event in ledger.latest_events(2)] == [numbers[2], numbers[1]]
    last = ledger.last_event("drift")
    assert last == {"id": numbers[2], "time": 3.0, "kind": "drift", "data": {"é": 2}}
    assert ledger.last_event("none") is None


def test_settings(ledger: Ledger) -> None:
    assert ledger.setting("paused") is None and ledger.setting("paused", False) is False
    ledger.set_setting("paused", {"by": ["me"]})
    ledger.set_setting("paused", None)
    assert ledger.setting("paused", "default") is None


# Several connections, threads and processes


def test_the_version_moves_when_another_connection_commits(ledger: Ledger) -> None:
    with Ledger(ledger.home) as other:
        seen = other.version()
        assert other.version() == seen
        ledger.event("swap", {})
        assert other.version() != seen
        seen = other.version()
        with pytest.raises(UserError):
            ledger.promote("unknown", actor="me", numbers={})
        assert other.version() == seen, "a transaction that was rolled back is not a change"


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    def work(name: int) -> None:
        for n in range(20):
            ledger.event("thread", {"name": name, "n": n})
            ledger.events(limit=5)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = [(event["data"]["name"], event["data"]["n"]) for event in ledger.events(limit=1000)]
    assert len(set(found)) == len(found) == 120


WRITER = """
import sys
from pathlib import Path
from oliveira.ledger import Ledger
with Ledger(Path(sys.argv[1])) as ledger:
    for n in range(150):
        ledger.event(sys.argv[2], {"n": n})
        ledger.set_setting("count", ledger.setting("count", 0) + 1)
"""


def test_processes_that_open_and_write_at_once(tmp_path: Path) -> None:
    """None has made the ledger yet: all race for the schema, then for every transaction."""
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in ("a", "b", "c")]
    for writer in writers:
        said = writer.communicate(timeout=60)[1]
        assert writer.returncode == 0, said.decode()
    with Ledger(tmp_path) as ledger:
        events = ledger.events(limit=1000)
        assert len(events) == 450 and ledger.check()
        for name in ("a", "b", "c"):
            assert [event["data"]["n"] for event in events if event["kind"] == name] == list(range(150))


def test_a_home_and_its_ledger_are_private(tmp_path: Path) -> None:
    """Requests, answers and truths stand in it."""
    home = tmp_path / "home"
    with Ledger(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        files = [home / name for name in ("ledger.sqlite", "ledger.sqlite-wal") if (home / name).exists()]
        assert files and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    (home / "ledger.sqlite").chmod(0o644)  # of an older program
    with Ledger(home):
        assert stat.S_IMODE((home / "ledger.sqlite").stat().st_mode) == 0o600
