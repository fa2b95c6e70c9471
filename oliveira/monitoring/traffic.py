"""The live text that the server has seen, kept to measure drift and to train a challenger on.

JSON lines in numbered segments, the oldest deleted first, never more than so many megabytes. One process
writes (the front), any number read. There is no fsync: traffic is a sample, a power cut may take its tail.

A record is {"id", "time", "digest", "text", "tokens": [int, …], "loss": nats a token, or null}.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

SEGMENTS = 8  # a full log holds so many: deleting one forgets an eighth
_PATTERN = "traffic-*.jsonl"


def _segments(folder: Path) -> list[Path]:
    """Oldest first: the name is the time of birth in nanoseconds, zero-padded."""
    return sorted(folder.glob(_PATTERN))


class TrafficLog:
    """Appends records below `folder`, which never holds more than `megabytes` MiB."""

    def __init__(self, folder: Path, megabytes: float) -> None:
        self.folder = folder
        self.limit = int(megabytes * 2**20)
        self.dropped = 0
        self._file: BinaryIO | None = None
        self._size = 0
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
        if self._file is None or self._size + len(line) > self.limit // SEGMENTS:
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
        self._size = 0

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
                record = _parse(line)
                if record is None:
                    self.corrupt += 1
                else:
                    records.append(record)
        return False


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every record that is still kept, oldest first: what a challenger is trained on."""
    return TrafficReader(folder).read_new(limit=sys.maxsize)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record, or None if the line is torn or damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    tokens, loss = record.get("tokens"), record.get("loss")
    valid = (
        isinstance(tokens, list)
        and all(type(token) is int and token >= 0 for token in tokens)
        and (loss is None or (isinstance(loss, int | float) and math.isfinite(loss)))
        and isinstance(record.get("text"), str)
    )
    return record if valid else None
