"""What comes in while a life is served: prompts that the front wrote down, or answers of a task and their truths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from oliveira.ledger import Ledger
from oliveira.monitoring.detector import DriftState
from oliveira.monitoring.drift import DriftMonitor, Sample
from oliveira.monitoring.features import FeatureMonitor
from oliveira.monitoring.traffic import TrafficReader
from oliveira.world import World

TEXT_POSITION = "traffic_position"
ANSWERS_POSITION = "answers_position"
AT_ONCE = 10_000  # answers

Seen = list[tuple[str, Any]]  # digest of the model that answered, and a sample for the monitor or None


class Monitor(Protocol):
    def update(self, sample: Any) -> object: ...

    def state(self) -> DriftState: ...

    def to_json(self) -> dict[str, Any]: ...


class Stream(Protocol):
    def monitor(self, reference: dict[str, Any], state: dict[str, Any] | None) -> Monitor:
        """Of a champion's reference; it goes on from `state` if that was of the same settings."""

    def read_new(self) -> Seen:
        """What came in since the last call."""

    def keep_position(self) -> None:
        """What was read is not read again after a restart."""

    def enough(self) -> bool:
        """Whether enough came back to learn from."""


def stream_of(home: Path, world: World, ledger: Ledger) -> Stream:
    return AnswerStream(world, ledger) if world.task.name else TextStream(home, world, ledger)


class TextStream:
    def __init__(self, home: Path, world: World, ledger: Ledger) -> None:
        self.world, self.ledger = world, ledger
        position, folder = ledger.setting(TEXT_POSITION), home / "traffic"
        self.reader = TrafficReader.from_json(folder, position) if position else TrafficReader(folder)
        self.characters = 0  # of live text since the start of the program

    def monitor(self, reference: dict[str, Any], state: dict[str, Any] | None) -> Monitor:
        section = self.world.monitor
        wanted = {"window": section.window, "alpha": section.alpha, "confirm": section.confirm}
        if state is not None and wanted.items() <= state.items():
            return DriftMonitor.from_json(reference, state)
        return DriftMonitor(reference, window=section.window, alpha=section.alpha, confirm=section.confirm)

    def read_new(self) -> Seen:
        seen: Seen = []
        for record in self.reader.read_new():
            self.characters += len(str(record["text"]))
            known = record["loss"] is not None
            sample = Sample([int(token) for token in record["tokens"]], float(record["loss"])) if known else None
            seen.append((record["digest"], sample))
        return seen

    def keep_position(self) -> None:
        self.ledger.set_setting(TEXT_POSITION, self.reader.to_json())

    def enough(self) -> bool:
        return self.characters >= self.world.update.min_new_chars


class AnswerStream:
    """Each answer is seen once, and once more, as an error alone, when its truth has come back."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world, self.ledger = world, ledger
        self.position: dict[str, float] = {"number": 0, "told": 0.0, **(ledger.setting(ANSWERS_POSITION) or {})}

    def monitor(self, reference: dict[str, Any], state: dict[str, Any] | None) -> Monitor:
        section, window = self.world.monitor, int(reference["window"])
        wanted = {"window": window, "alpha": section.alpha, "confirm": section.confirm}
        if state is not None and wanted.items() <= state.items():
            return FeatureMonitor.from_json(reference, state)
        return FeatureMonitor(reference, window=window, alpha=section.alpha, confirm=section.confirm)

    def read_new(self) -> Seen:
        seen: Seen = []
        for row in self.ledger.answers(int(self.position["number"]), AT_ONCE):
            self.position["number"] = row.number
            seen.append((row.digest, row.observed))
        for row in self.ledger.truths(self.position["told"], AT_ONCE):
            self.position["told"] = row.told or 0.0
            seen.append((row.digest, {"error": row.error}))
        return seen

    def keep_position(self) -> None:
        self.ledger.set_setting(ANSWERS_POSITION, self.position)

    def enough(self) -> bool:
        wanted = self.world.update.min_truths
        return len(self.ledger.pairs(wanted)) >= wanted
