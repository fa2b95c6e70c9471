"""Which life the champion belongs to: a change of world or text changes what is served, a restart does not."""

from __future__ import annotations

from typing import Any

from oliveira.errors import OliveiraError
from oliveira.ledger import Ledger


def packaged(outputs: dict[str, Any]) -> str:
    """Which of the package's artifacts is served first."""
    return str(outputs.get("served", outputs["base"]))


def root(ledger: Ledger, digest: str | None) -> str | None:
    """Key of the package stage that an artifact descends from, through every update."""
    while digest is not None:
        row = ledger.artifact(digest)
        if row is None:
            return None
        if row.lineage.get("stage") == "package":
            return str(row.lineage["key"])
        parent = row.lineage.get("parent")
        digest = str(parent) if parent else None
    return None


def deploy(ledger: Ledger, packaged: str) -> bool:
    """Makes `packaged` champion unless the champion is of the same life already. Returns whether it moved."""
    wanted = root(ledger, packaged)
    if wanted is None:
        raise OliveiraError(f"artifact {packaged[:12]} is not a package of this ledger.")
    if root(ledger, ledger.alias("champion")) == wanted:
        return False
    reason = "first model of this world" if ledger.alias("champion") is None else "the world or its text changed"
    ledger.promote(packaged, actor="pipeline", numbers={"reasons": [reason]}, kind="deploy")
    return True
