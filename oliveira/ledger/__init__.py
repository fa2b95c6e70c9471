"""The durable store of a home, below serving and lifecycle."""

from oliveira.ledger.ledger import (
    ADDRESS,
    LIFE,
    PAUSED,
    RETRAINING,
    WAITS,
    AnswerRow,
    ArtifactRow,
    Decision,
    Key,
    Ledger,
    StageRow,
    Wish,
)

__all__ = [
    "ADDRESS",
    "LIFE",
    "PAUSED",
    "RETRAINING",
    "WAITS",
    "AnswerRow",
    "ArtifactRow",
    "Decision",
    "Key",
    "Ledger",
    "StageRow",
    "Wish",
]
