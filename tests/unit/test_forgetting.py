"""What a key has sent can be deleted while the server runs, and who learnt from it is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from oliveira.cli import app
from oliveira.errors import UserError
from oliveira.ledger import Ledger
from oliveira.lifecycle.forgetting import forget
from oliveira.lifecycle.text_lesson import live_text
from oliveira.monitoring import traffic
from oliveira.monitoring.traffic import TrafficLog, TrafficReader, read_all
from oliveira.process.holder import holder


def record(text: str, key: str | None, time: float = 1.0) -> dict[str, Any]:
    made = {"id": "1", "time": time, "digest": "", "text": text, "tokens": [1], "loss": 1.0}
    return made if key is None else made | {"key": key}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrafficLog]:
    made = TrafficLog(tmp_path / "traffic", 1)
    yield made
    made.close()


def texts(folder: Path) -> list[str]:
    return [found["text"] for found in read_all(folder)]


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("*.jsonl"))


def test_a_keys_records_go_while_both_ends_go_on(log: TrafficLog) -> None:
    """Neither the writer's place in the open segment nor the reader's place in the text is moved."""
    reader = TrafficReader(log.folder)
    log.append(record("of ana", "a1"))
    log.append(record("of bia", "b1"))
    assert len(reader.read_new()) == 2
    log.append(record("ação of ana", "a1"))
    log.append(record("another of bia", "b1"))
    assert traffic.forget(log.folder, {"a1"}).records == 2
    log.append(record("after", "a1"))
    assert [found["text"] for found in reader.read_new()] == ["another of bia", "after"] and reader.corrupt == 0
    assert texts(log.folder) == ["of bia", "another of bia", "after"] and b"of ana" not in content(log.folder)
    assert traffic.forget(log.folder, {"a1"}).records == 1, "again: only what is new"


def test_what_nobody_can_read_goes_too_and_what_has_no_name_stays(log: TrafficLog) -> None:
    log.append(record("old", None))
    [segment] = log.folder.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b'{"key": "a1", "text": "torn\n{"key": "a1", "text": "in the writing')
    found = traffic.forget(log.folder, {"a1"})
    assert (found.records, found.unnamed) == (0, 1) and texts(log.folder) == ["old"]
    assert b"torn" not in content(log.folder) and b"in the writing" in content(log.folder)
    assert traffic.forget(log.folder / "none", {"a1"}).records == 0


def test_prompts_grow_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is older than so many days, also when nothing more is written; of a younger one none is lost."""
    now, day = 1e9, 86400
    monkeypatch.setattr(traffic.time, "time", lambda: now)
    monkeypatch.setattr(traffic.time, "time_ns", lambda: int(now * 1e9))
    log = TrafficLog(tmp_path, 1, days=8)
    written = []
    for number in range(12 * 4):
        log.append(record(str(number), "a1", now))
        written.append(now)
        log.expire()
        kept = [found["time"] for found in read_all(tmp_path)]
        assert all(now - when <= 8 * day for when in kept)
        assert kept == [when for when in written if when >= kept[0]] and kept[0] <= max(written[0], now - 6.9 * day)
        now += day / 4
    now += 9 * day
    log.expire()
    assert list(tmp_path.iterdir()) == [], "a server without a request forgets too"
    log.append(record("again", "a1", now))
    assert texts(tmp_path) == ["again"]
    log.close()


def test_without_days_nothing_grows_old(log: TrafficLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(record("old", "a1"))
    monkeypatch.setattr(traffic.time, "time", lambda: 1e11)
    log.expire()
    assert texts(log.folder) == ["old"]


@pytest.fixture
def home(tmp_path: Path, log: TrafficLog) -> Iterator[tuple[Ledger, dict[str, str]]]:
    """Keys ana (two) and bia, their prompts, and artifacts: a package, updates on ana's text, on bia's, one on top of
    ana's, and one of an older version."""
    with Ledger(tmp_path) as ledger:
        ids = {name: ledger.add_key(name[:3], ("use",)).split("-")[2] for name in ("ana1", "ana2", "bia")}
        for name, key in ids.items():
            log.append(record(f"a text of {name}", key))
            ledger.add_answer(
                f"of-{name}", time=1.0, digest="d", request={"x": f"asked by {name}"}, answer={}, observed={}, key=key
            )
        origins: dict[str, dict[str, Any]] = {
            "package": {"stage": "package"},
            "old": {"stage": "update", "parent": "package"},
            "on-ana": {"stage": "update", "parent": "package", "traffic": {"keys": [ids["ana2"]]}},
            "on-bia": {"stage": "update", "parent": "package", "traffic": {"keys": [ids["bia"]]}},
            "on-top": {"stage": "update", "parent": "on-ana", "traffic": {"keys": [ids["bia"]]}},
            "on-old": {"stage": "update", "parent": "old", "traffic": {"keys": [ids["bia"]]}},
            "unnamed": {"stage": "update", "parent": "package", "traffic": {"keys": ["", ids["bia"]]}},
        }
        for digest, lineage in origins.items():
            ledger.add_artifact(digest, "x", tmp_path / "artifacts" / digest, lineage, {})
        ledger.promote("package", actor="test", numbers={})
        ledger.promote("on-top", actor="test", numbers={})
        yield ledger, ids


def test_who_learnt_from_it_is_named(home: tuple[Ledger, dict[str, str]]) -> None:
    ledger, ids = home
    ledger.revoke_key(ids["ana1"])
    for name in ("attention/0123456789abcdef/ab/ab01", "runs/update-1/checkpoint.safetensors", "runs/update-1/curve"):
        (ledger.home / name).parent.mkdir(parents=True, exist_ok=True)
        (ledger.home / name).touch()
    found = forget(ledger, "ana")
    assert found["keys"] == sorted([ids["ana1"], ids["ana2"]]) and found["good"] == [ids["ana2"]]
    assert found["answers"] == 2 and [row.id for row in ledger.answers()] == ["of-bia"]
    files = [path for path in ledger.home.iterdir() if path.name.startswith("ledger.sqlite")]
    assert files and not any(b"asked by ana" in path.read_bytes() for path in files), "nor in the log or a free page"
    assert found["records"] == 2 and texts(ledger.home / "traffic") == ["a text of bia"]
    assert found["learnt"] == [{"digest": "on-ana", "aliases": []}, {"digest": "on-top", "aliases": ["champion"]}]
    assert [row["digest"] for row in found["unknown"]] == ["old", "on-old", "unnamed"]
    left = {path.name for path in ledger.home.rglob("*") if path.is_file()}
    assert not left & {"ab01", "checkpoint.safetensors"} and "curve" in left
    assert ledger.last_event("forgotten")["data"] == {"keys": found["keys"], "records": 2, "answers": 2}  # type: ignore[index]
    assert forget(ledger, ids["bia"])["records"] == 1, "by its id as well"


def test_answers_grow_old(home: tuple[Ledger, dict[str, str]]) -> None:
    ledger, ids = home
    ledger.add_answer("new", time=9.0, digest="d", request={}, answer={}, observed={}, key=ids["bia"])
    assert ledger.expire_answers(5.0) == 3 and [(row.id, row.key) for row in ledger.answers()] == [("new", ids["bia"])]


def test_it_is_refused_for_an_unknown_key_and_beside_a_retraining(home: tuple[Ledger, dict[str, str]]) -> None:
    ledger, _ = home
    with pytest.raises(UserError, match=r"key 'eva' is not known\. `oliveira keys list`"):
        forget(ledger, "eva")
    with holder(ledger.home, "update"), pytest.raises(UserError, match="a retraining reads the prompts"):
        forget(ledger, "ana")
    assert len(texts(ledger.home / "traffic")) == 3


def test_the_command_says_it_in_sentences(home: tuple[Ledger, dict[str, str]], log: TrafficLog) -> None:
    ledger, ids = home
    log.append(record("old", None))
    done = CliRunner().invoke(
        app, ["forget", "--key", ids["ana2"], "--home", str(ledger.home)], env={"OLIVEIRA_LANG": "en"}
    )
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"1 prompts of {ids['ana2']} are deleted.",
        "1 requests with their answers and truths are deleted.",
        "1 prompts of an older version do not say whose they are, and stay.",
        "artifact on-ana learnt from them.",
        "artifact on-top (champion) learnt from them.",
        *(f"artifact {name} may have learnt from them: it does not say." for name in ("old", "on-old", "unnamed")),
        f"key {ids['ana2']} is still good. `oliveira keys revoke {ids['ana2']}` ends it.",
    ]


def test_live_text_says_whose_it_is(log: TrafficLog) -> None:
    """A text that two have sent is learnt once, and both's."""
    for text, key, time in (
        ("um", "a", 5.0),
        ("dois", "b", 6.0),
        ("um", "c", 7.0),
        ("três", None, 8.0),
        (" ", "d", 9.0),
    ):
        log.append(record(text, key, time))
    found = live_text(log.folder)
    assert found.origin() == {"keys": ["", "a", "b", "c"], "first": 5.0, "last": 8.0}
