"""What the ledger hands out: one frozen row each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageRow:
    key: str
    name: str
    state: str
    config: dict[str, Any]
    inputs: dict[str, str]
    digest: str | None
    outputs: dict[str, Any]
    message: str | None
    owner: str | None
    started: float
    finished: float | None
    seconds: float | None
    attempts: int


@dataclass(frozen=True)
class ArtifactRow:
    digest: str
    kind: str
    path: Path
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    created: float


@dataclass(frozen=True)
class Decision:
    id: int
    time: float
    kind: str
    verdict: str
    digest: str | None
    previous: str | None
    actor: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Wish:
    id: int
    time: float
    kind: str
    args: dict[str, Any]
    actor: str
    state: str  # pending, done or failed
    result: dict[str, Any] | None

    @property
    def runs(self) -> bool:
        """Somebody is at it; a wish that is pending and does not run waits."""
        return self.state == "pending" and self.result is not None


@dataclass(frozen=True)
class Key:
    id: str
    name: str
    scopes: tuple[str, ...]
    created: float
    revoked: float | None


@dataclass(frozen=True)
class AnswerRow:
    number: int
    id: str
    time: float
    digest: str
    request: dict[str, Any]
    answer: dict[str, Any]
    observed: dict[str, float]
    truth: Any
    error: float | None
    told: float | None  # when the truth came; None = it has not
    key: str = ""  # id of who asked
