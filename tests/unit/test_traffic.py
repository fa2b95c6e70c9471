"""The traffic log: bounded, and read to the last whole line whatever happens to the writer."""

import contextlib
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oliveira.monitoring import traffic
from oliveira.monitoring.traffic import TrafficLog, TrafficReader, read_all

Make = Callable[[Path, float], TrafficLog]


def record(number: int, size: int = 10) -> dict[str, Any]:
    text = "olá " * size
    return {
        "id": str(number),
        "time": 1.0,
        "digest": "d",
        "text": text,
        "tokens": [1, 2, number],
        "loss": 2.5,
    }


def ids(records: list[dict[str, Any]]) -> list[int]:
    return [int(found["id"]) for found in records]


@pytest.fixture
def make() -> Iterator[Make]:
    """Logs that are closed in the end."""
    with contextlib.ExitStack() as stack:

        def build(folder: Path, megabytes: float) -> TrafficLog:
            return stack.enter_context(contextlib.closing(TrafficLog(folder, megabytes)))

        yield build


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_round_trip_and_only_the_new(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path / "traffic", 1), TrafficReader(tmp_path / "traffic")
    assert reader.read_new() == []
    assert log.append(record(0))
    assert log.append(record(1) | {"loss": None})
    assert reader.read_new() == [record(0), record(1) | {"loss": None}]
    assert reader.read_new() == []
    log.append(record(2))
    assert ids(reader.read_new()) == [2]
    assert ids(read_all(tmp_path / "traffic")) == [0, 1, 2]
    assert segments(tmp_path / "traffic")[0].stat().st_mode & 0o077 == 0, "prompts are private"


def test_bounded_and_the_newest_are_kept(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path, 0.25), TrafficReader(tmp_path)
    seen: list[int] = []
    for number in range(3000):
        assert log.append(record(number, 50))
        if number % 100 == 0:
            seen += ids(reader.read_new())
            assert sum(path.stat().st_size for path in segments(tmp_path)) <= 0.25 * 2**20
    seen += ids(reader.read_new())
    assert seen == list(range(3000)), "a reader that keeps up misses nothing across rotations"
    assert reader.gaps == 0
    late = TrafficReader(tmp_path)
    kept = ids(late.read_new())
    assert 0 < len(kept) < 3000
    assert kept == list(range(3000 - len(kept), 3000))


def test_a_reader_that_falls_behind_says_so(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path, 0.25), TrafficReader(tmp_path)
    log.append(record(0))
    assert ids(reader.read_new()) == [0]
    for number in range(1, 3000):
        log.append(record(number, 50))
    found = ids(reader.read_new())
    assert reader.gaps == 1
    assert found[-1] == 2999
    assert found == sorted(found)


def test_position_survives_a_restart(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path, 0.25), TrafficReader(tmp_path)
    seen: list[int] = []
    for number in range(600):
        log.append(record(number, 50))
        if number % 7 == 0:
            state = json.loads(json.dumps(reader.to_json()))
            reader = TrafficReader.from_json(tmp_path, state)
            seen += ids(reader.read_new(limit=5))
    while new := reader.read_new(limit=5):
        seen += ids(new)
    assert seen == list(range(600))


def test_a_torn_last_line_is_left_for_later(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path, 1), TrafficReader(tmp_path)
    log.append(record(0))
    line = json.dumps(record(1)).encode() + b"\n"
    path = segments(tmp_path)[0]
    with path.open("ab") as file:
        file.write(line[:30])
    assert ids(reader.read_new()) == [0]
    assert reader.corrupt == 0
    with path.open("ab") as file:
        file.write(line[30:])
    assert ids(reader.read_new()) == [1]
    assert reader.corrupt == 0


def test_a_killed_writer_costs_one_line(make: Make, tmp_path: Path) -> None:
    """After `kill -9` within a line the next writer starts a new segment: nothing is glued to the torn line."""
    log, reader = make(tmp_path, 1), TrafficReader(tmp_path)
    log.append(record(0))
    with segments(tmp_path)[0].open("ab") as file:
        file.write(b'{"id": "1", "text": "tor')
    assert ids(reader.read_new()) == [0]
    restarted = make(tmp_path, 1)
    restarted.append(record(2))
    assert ids(reader.read_new()) == [2]
    assert reader.corrupt == 1


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(record(1) | {"tokens": "abc"}).encode(),
        json.dumps(record(1) | {"tokens": [1, -5]}).encode(),
        json.dumps(record(1) | {"tokens": [1.5]}).encode(),
        json.dumps(record(1) | {"loss": float("nan")}).encode(),
        json.dumps(record(1) | {"loss": True, "text": None}).encode(),
        b"{}",
        b"",
    ],
)
def test_a_corrupt_line_is_skipped_and_counted(make: Make, tmp_path: Path, line: bytes) -> None:
    log, reader = make(tmp_path, 1), TrafficReader(tmp_path)
    log.append(record(0))
    with segments(tmp_path)[0].open("ab") as file:
        file.write(line + b"\n" + json.dumps(record(2)).encode() + b"\n")
    assert ids(reader.read_new()) == [0, 2]
    assert reader.corrupt == 1


def test_a_full_disk_is_no_failure_of_the_request(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, reader = make(tmp_path, 1), TrafficReader(tmp_path)
    log.append(record(0))
    original = traffic.TrafficLog._write

    def full(self: TrafficLog, line: bytes) -> None:
        original(self, line[:25])
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(traffic.TrafficLog, "_write", full)
    assert not log.append(record(1))
    assert log.dropped == 1
    monkeypatch.undo()
    assert log.append(record(2))
    assert ids(reader.read_new()) == [0, 2]
    assert reader.corrupt == 1


def test_a_line_larger_than_a_segment_is_refused(make: Make, tmp_path: Path) -> None:
    log = make(tmp_path, 0.01)
    assert not log.append(record(0, 10_000))
    assert log.dropped == 1
    assert log.append(record(1, 1))
    assert ids(read_all(tmp_path)) == [1]


def test_an_emptied_folder_starts_anew(make: Make, tmp_path: Path) -> None:
    log, reader = make(tmp_path, 1), TrafficReader(tmp_path)
    log.append(record(0))
    reader.read_new()
    log.close()
    for path in segments(tmp_path):
        path.unlink()
    log.append(record(1))
    assert ids(reader.read_new()) == [1]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_byte_may_be_flipped(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Never an exception, and at most the damaged lines are lost."""
    folder = tmp_path_factory.mktemp("traffic")
    log = TrafficLog(folder, 1)
    for number in range(5):
        log.append(record(number))
    log.close()
    path = segments(folder)[0]
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert len(TrafficReader(folder).read_new()) >= 3
