"""What a key's requests left behind is deleted, and every artifact that learnt from it is named.

The prompts go, and with them what was made of them: keys and values of texts read before, checkpoints of retrainings.
An artifact is not taken away: it cannot unlearn, and who serves instead is for a person to say.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from oliveira.errors import UserError
from oliveira.ledger import ArtifactRow, Ledger
from oliveira.ledger.lives import OWN, lives, place
from oliveira.monitoring import traffic
from oliveira.process.holder import holder, is_held


def forget(ledger: Ledger, named: str) -> dict[str, Any]:
    """`named`: name or id of a key, revoked or not; `ledger`: the home's. Returns what was deleted in all lives and who
    learnt from it."""
    home = ledger.home
    keys = [key for key in ledger.keys() if named in (key.id, key.name)]  # noqa: SIM118
    if not keys:
        raise UserError(f"key {named[:80]!r} is not known. `oliveira keys list` shows the keys.")
    folders = [home, *(place(home, name) for name in lives(home) if name != OWN)]
    if any(is_held(folder, "update") for folder in folders):
        raise UserError("a retraining reads the prompts. End it with `oliveira pause`, forget, then `oliveira resume`.")
    ids = {key.id for key in keys}
    told: dict[str, Any] = {"records": 0, "answers": 0, "unnamed": 0, "learnt": [], "unknown": []}
    with contextlib.ExitStack() as stack:
        for folder in folders:  # none starts meanwhile
            stack.enter_context(holder(folder, "update"))
        for folder in folders:
            of_life = ledger if folder == home else stack.enter_context(Ledger(folder))
            for name, value in _forget_in(folder, of_life, ids).items():
                told[name] += value
    return {"keys": sorted(ids), "good": sorted(key.id for key in keys if key.revoked is None), **told}


def _forget_in(folder: Path, ledger: Ledger, ids: set[str]) -> dict[str, Any]:
    """In one life."""
    found = traffic.forget(folder / "traffic", ids)
    answers = ledger.forget_answers(ids)
    for pattern in ("attention/*/??/*", "runs/update-*/checkpoint*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    learnt, unknown = _learnt(ledger.artifacts(), ids)
    ledger.event("forgotten", {"keys": sorted(ids), "records": found.records, "answers": answers})
    return {
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
