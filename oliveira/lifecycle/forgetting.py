"""What a key's requests left behind is deleted, and every artifact that learnt from it is named.

The prompts go, and with them what was made of them: keys and values of texts read before, checkpoints of retrainings.
An artifact is not taken away: it cannot unlearn, and who serves instead is for a person to say.
"""

from __future__ import annotations

from typing import Any

from oliveira.errors import UserError
from oliveira.lifecycle.ledger import ArtifactRow, Ledger
from oliveira.lifecycle.process import holder, is_held
from oliveira.monitoring import traffic


def forget(ledger: Ledger, named: str) -> dict[str, Any]:
    """`named`: name or id of a key, revoked or not. Returns what was deleted and who learnt from it."""
    home = ledger.home
    keys = [key for key in ledger.keys() if named in (key.id, key.name)]  # noqa: SIM118
    if not keys:
        raise UserError(f"key {named[:80]!r} is not known. `oliveira keys list` shows the keys.")
    if is_held(home, "update"):
        raise UserError("a retraining reads the prompts. End it with `oliveira pause`, forget, then `oliveira resume`.")
    ids = {key.id for key in keys}
    with holder(home, "update"):  # none starts meanwhile
        found = traffic.forget(home / "traffic", ids)
        answers = ledger.forget_answers(ids)
        for pattern in ("attention/*/??/*", "runs/update-*/checkpoint*"):
            for path in home.glob(pattern):
                path.unlink(missing_ok=True)
    learnt, unknown = _learnt(ledger.artifacts(), ids)
    ledger.event("forgotten", {"keys": sorted(ids), "records": found.records, "answers": answers})
    return {
        "keys": sorted(ids),
        "good": sorted(key.id for key in keys if key.revoked is None),
        "records": found.records,
        "answers": answers,
        "unnamed": found.unnamed,
        "learnt": [_told(ledger, row) for row in learnt],
        "unknown": [_told(ledger, row) for row in unknown],
    }


def _learnt(rows: list[ArtifactRow], keys: set[str]) -> tuple[list[ArtifactRow], list[ArtifactRow]]:
    """Those that learnt from a key's prompts, also through the model that they started from; and those of an older
    version, which did not write down whose prompts they learnt from."""
    learnt: dict[str, ArtifactRow] = {}
    unknown: dict[str, ArtifactRow] = {}
    for row in rows:  # oldest first: parents before children
        origin = row.lineage.get("traffic")
        parent = row.lineage.get("parent")
        if parent in learnt or (origin and keys.intersection(origin["keys"])):
            learnt[row.digest] = row
        elif parent in unknown or (row.lineage.get("stage") == "update" and (not origin or "" in origin["keys"])):
            unknown[row.digest] = row
    return list(learnt.values()), list(unknown.values())


def _told(ledger: Ledger, row: ArtifactRow) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "aliases": [name for name, digest in ledger.aliases().items() if digest == row.digest],
    }
