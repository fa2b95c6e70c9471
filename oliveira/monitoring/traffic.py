"""The live text that the server has seen, kept to measure drift and to train a challenger on.

JSON lines in numbered segments, the oldest deleted first, never more than so many megabytes and days. One process
writes (the front), any number read. There is no fsync: traffic is a sample, a power cut may take its tail.

A record is {"id", "time", "key", "digest", "text", "tokens": [int, …], "loss": nats a token, or null}; `key` is the id
of who asked. A record that was forgotten is a line of blanks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

SEGMENTS = 8  # a full log holds so many: deleting one forgets an eighth
_PATTERN = "traffic-*.jsonl"


def _segments(folder: Path) -> list[Path]:
    """Oldest first: the name is the time of birth in nanoseconds, zero-padded."""
    return sorted(folder.glob(_PATTERN))


def _born(path: Path) -> float:
    return int(path.stem.partition("-")[2]) / 1e9


class TrafficLog:
    """Appends records below `folder`, which never holds more than `megabytes` MiB; none older than `days`, if given,
    where `expire` is called now and then."""

    def __init__(self, folder: Path, megabytes: float, days: float = 0.0) -> None:
        self.folder = folder
        self.seconds = days * 86400
        self.limit = int(megabytes * 2**20)
        self.dropped = 0
        self._file: BinaryIO | None = None
        self._size, self._born = 0, 0.0
        self._lock = threading.Lock()

    def append(self, record: dict[str, Any]) -> bool:
        """Writes one line. False, and counted in `dropped`, if the disk is full or the line is too long.

        Serving goes on when the disk is full, so an `OSError` is no failure of the request.
        """
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            kept = len(line) <= self.limit // SEGMENTS
            if kept:
                try:
                    self._write(line)
                except OSError:
                    # The line may be torn: the next one starts a new segment, and readers skip the torn tail.
                    self._close()
                    kept = False
            self.dropped += not kept
            return kept

    def _write(self, line: bytes) -> None:
        if self._file is None or self._size + len(line) > self.limit // SEGMENTS or self._ripe():
            self._rotate()
        assert self._file is not None
        self._file.write(line)
        self._size += len(line)

    def _rotate(self) -> None:
        """A new segment; also after a restart, so that nothing is ever written behind a torn line."""
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        segments = _segments(self.folder)
        sizes = [path.stat().st_size for path in segments]
        while segments and sum(sizes) > self.limit - self.limit // SEGMENTS:
            segments.pop(0).unlink(missing_ok=True)
            sizes.pop(0)
        last = int(segments[-1].stem.partition("-")[2]) if segments else 0
        path = self.folder / f"traffic-{max(last + 1, time.time_ns()):020d}.jsonl"
        # Prompts are private: readable by the owner alone. Unbuffered, so that a kill loses at most one line.
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
        self._size, self._born = 0, _born(path)

    def _ripe(self) -> bool:
        """Old enough for a new segment: what is kept too long is at most an eighth of the time."""
        return bool(self.seconds) and time.time() - self._born > self.seconds / SEGMENTS

    def expire(self) -> None:
        """Deletes every segment that may hold a record older than it may be. A disk that refuses is asked again."""
        if not self.seconds:
            return
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None and self._ripe():
                self._close()
            for path in _segments(self.folder):
                if time.time() - _born(path) > self.seconds:
                    path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        with self._lock:
            self._close()


class TrafficReader:
    """Reads what is new since the last call, across rotations and, through `to_json`, across restarts.

    `corrupt` counts the lines skipped, `gaps` how often a segment was deleted before it was read to its end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segment = ""
        self.offset = 0
        self.corrupt = 0
        self.gaps = 0

    def to_json(self) -> dict[str, Any]:
        return {"segment": self.segment, "offset": self.offset, "corrupt": self.corrupt, "gaps": self.gaps}

    @classmethod
    def from_json(cls, folder: Path, state: dict[str, Any]) -> TrafficReader:
        reader = cls(folder)
        reader.segment, reader.offset = str(state["segment"]), int(state["offset"])
        reader.corrupt, reader.gaps = int(state["corrupt"]), int(state["gaps"])
        return reader

    def read_new(self, limit: int = 10_000) -> list[dict[str, Any]]:
        """At most `limit` records, oldest first. A last line without its end is left for the next call."""
        records: list[dict[str, Any]] = []
        # Listed before any is read: a segment that has a successor will not grow any more.
        names = [path.name for path in _segments(self.folder) if path.name >= self.segment]
        if self.segment and (not names or names[0] != self.segment):
            self.gaps += 1
        for position, name in enumerate(names):
            if name != self.segment:
                self.segment, self.offset = name, 0
            try:
                done = self._read_segment(records, limit, closed=position + 1 < len(names))
            except FileNotFoundError:
                self.gaps += 1
                continue
            if not done:
                break
        return records

    def _read_segment(self, records: list[dict[str, Any]], limit: int, closed: bool) -> bool:
        """Reads the current segment on; False if `limit` was reached first."""
        with (self.folder / self.segment).open("rb") as file:
            file.seek(self.offset)
            while len(records) < limit:
                line = file.readline()
                if not line:
                    return True
                if not line.endswith(b"\n") and not closed:
                    return True
                self.offset += len(line)
                if _forgotten(line):
                    continue
                record = _parse(line)
                if record is None:
                    self.corrupt += 1
                else:
                    records.append(record)
        return False


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every record that is still kept, oldest first: what a challenger is trained on."""
    return TrafficReader(folder).read_new(limit=sys.maxsize)


@dataclass
class Forgotten:
    records: int = 0  # blanked
    unnamed: int = 0  # still there, of an older version: nobody knows whose they are


def forget(folder: Path, keys: Collection[str]) -> Forgotten:
    """Overwrites every record of these keys with blanks, in place: neither who writes nor who reads is disturbed.

    Lines that cannot be read go too: nobody can say whose they are.
    """
    count = Forgotten()
    for path in _segments(folder):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as lines, path.open("r+b") as file:
            for line in lines:
                record = _parse(line)
                if _forgotten(line) or not line.endswith(b"\n"):  # the last one may be in the writing
                    continue
                if record is not None and "key" not in record:
                    count.unnamed += 1
                elif record is None or record["key"] in keys:
                    file.seek(lines.tell() - len(line))
                    file.write(b" " * (len(line) - 1))
                    count.records += record is not None
            file.flush()
            os.fsync(file.fileno())
    return count


def _forgotten(line: bytes) -> bool:
    return line.startswith(b" ") and line.isspace()


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record, or None if the line is torn or damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    tokens, loss, when = record.get("tokens"), record.get("loss"), record.get("time", 0.0)
    valid = (
        isinstance(tokens, list)
        and all(type(token) is int and token >= 0 for token in tokens)
        and (loss is None or (isinstance(loss, int | float) and math.isfinite(loss)))
        and isinstance(record.get("text"), str)
        and isinstance(record.get("key", ""), str)
        and isinstance(when, int | float)
        and math.isfinite(when)
    )
    return record if valid else None
