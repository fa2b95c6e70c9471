"""What an operator can wish for, and how it is granted: the effect and the word of it in one transaction.

A retraining takes minutes and is the loop's own business; the others are here, for the loop and for a command that
finds no loop running.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.ledger import PAUSED, ArtifactRow, Ledger, Wish

Effect = Callable[[], dict[str, Any]]


def grant(ledger: Ledger, wish: Wish) -> None:
    """Acts on it and says what came of it. One that was withdrawn meanwhile has no effect."""
    try:
        effect = _prepared(ledger, wish)
        with ledger.transaction():
            if ledger.is_pending(wish.id):
                ledger.finish_wish(wish.id, "done", effect())
    except OliveiraError as error:
        ledger.finish_wish(wish.id, "failed", {"error": str(error)})


def _prepared(ledger: Ledger, wish: Wish) -> Effect:
    """Looks up and verifies, which may take seconds; only the effect itself moves anything."""
    named = str(wish.args.get("digest") or "")
    match wish.kind:
        case "swap":
            return _promotion(ledger, wish, whole(ledger, of_this_task(ledger, find(ledger, named))), {})
        case "approve":
            challenger = _challenger(ledger, named, "approval")
            digest = whole(ledger, of_this_task(ledger, challenger))
            return _promotion(ledger, wish, digest, _override(ledger, wish, challenger))
        case "reject":
            return _rejection(ledger, wish, _challenger(ledger, named, "rejection"))
        case "rollback":
            return _rollback(ledger, wish)
        case "pause" | "resume":
            return lambda: _pause(ledger, wish.kind == "pause")
    raise UserError(f"wish {wish.kind!r} is unknown.")


def _promotion(ledger: Ledger, wish: Wish, digest: str, override: dict[str, Any]) -> Effect:
    def effect() -> dict[str, Any]:
        if wish.kind == "approve":
            _challenger(ledger, digest, "approval")  # still: two may approve at once
        elif digest == ledger.alias("champion") and not _failed(ledger, digest):
            raise UserError(f"artifact {digest[:12]} is the champion already: there is nothing to swap.")
        numbers = {"reasons": [f"{wish.kind} by {wish.actor}"]} | override
        ledger.promote(digest, actor=wish.actor, numbers=numbers, kind=wish.kind)
        return {"champion": digest}

    return effect


CROWNED = ("promoted", "rolled back")


def _failed(ledger: Ledger, digest: str) -> bool:
    """Whether the server could not take it since it was last crowned: then it may be tried again."""
    last = ledger.last_event("swap_failed")
    crowned = next((d.time for d in ledger.decisions() if d.digest == digest and d.verdict in CROWNED), 0.0)
    return last is not None and last["data"].get("digest") == digest and last["time"] >= crowned


def _override(ledger: Ledger, wish: Wish, challenger: str) -> dict[str, Any]:
    """Why a challenger that the gate rejected is taken all the same, to be kept with the decision."""
    decision = ledger.gate_verdict(challenger)
    if decision is None or decision.verdict != "rejected":
        return {}
    said = [str(reason) for reason in decision.numbers.get("reasons", [])]
    reason = str(wish.args.get("override") or "").strip()
    if not reason:
        raise UserError(
            f"the gate rejected challenger {challenger[:12]}: {'; '.join(said)}. Reject it, "
            'or approve it all the same with a reason that is kept: --override "why".'
        )
    return {"reasons": [f"{wish.kind} by {wish.actor} against the gate: {reason}"], "override": reason, "gate": said}


def _rejection(ledger: Ledger, wish: Wish, digest: str) -> Effect:
    def effect() -> dict[str, Any]:
        _challenger(ledger, digest, "rejection")
        numbers = {"reasons": ["rejected by hand"]}
        ledger.decide("reject", "rejected", digest=digest, actor=wish.actor, numbers=numbers)
        ledger.set_challenger(None)
        return {"rejected": digest}

    return effect


def _rollback(ledger: Ledger, wish: Wish) -> Effect:
    previous = ledger.alias("previous")
    if previous is not None:
        whole(ledger, of_this_task(ledger, previous))

    def effect() -> dict[str, Any]:
        if ledger.alias("previous") != previous:
            raise OliveiraError("the previous model changed while it was verified. Ask again.")
        return {"champion": ledger.rollback(actor=wish.actor, reason=str(wish.args.get("reason", "by hand")))}

    return effect


def _pause(ledger: Ledger, paused: bool) -> dict[str, Any]:
    ledger.set_setting(PAUSED, paused)
    return {"paused": paused}


def check_not_paused(ledger: Ledger) -> None:
    if ledger.setting(PAUSED, False):
        raise UserError("retraining is paused. Say `oliveira resume` first.")


def _challenger(ledger: Ledger, named: str, what: str) -> str:
    """The one that waits, if it is the one that is named (or none is)."""
    challenger = ledger.alias("challenger")
    if challenger is None:
        raise UserError(f"no challenger waits for {what}. `oliveira history` shows what was decided.")
    if not challenger.startswith(named):
        raise UserError(
            f"artifact {named[:12]} is not the challenger that waits for {what}: that is {challenger[:12]}. "
            "Name that one; `oliveira swap` serves any other."
        )
    return challenger


def find(ledger: Ledger, digest: str) -> str:
    """Full digest of an artifact named by its beginning."""
    found = [row.digest for row in ledger.artifacts() if digest and row.digest.startswith(digest)]
    if len(found) != 1:
        how = f"fits {len(found)} artifacts" if found else "is not in the ledger"
        raise UserError(f"artifact {digest or '(none)'} {how}. `oliveira history` lists those that are.")
    return found[0]


def of_this_task(ledger: Ledger, digest: str) -> str:
    """`digest`, when it answers what the champion answers. After a change of task in one home nobody's requests fit
    the older artifacts, and the next start would take such a swap back."""
    champion = ledger.alias("champion")
    mine, other = (_answered(ledger.artifact(each)) if each else "" for each in (champion, digest))
    if mine and other and mine != other:
        raise UserError(
            f"artifact {digest[:12]} answers {other}, the champion of this home {mine}. "
            "Start `oliveira up` with that task in another --home."
        )
    return digest


def _answered(row: ArtifactRow | None) -> str:
    """The task of an artifact, or "text"; "" = it is too damaged to say, and must not stand in the way of another."""
    if row is None:
        return ""
    try:
        return str(json.loads((row.path / "task.json").read_bytes())["task"])
    except (OSError, ValueError, KeyError, TypeError):
        return "text" if (row.path / "tokenizer.json").exists() else ""


def whole(ledger: Ledger, digest: str) -> str:
    """The same, verified byte by byte, before any alias points at it."""
    from oliveira import artifact  # torch: not for commands that only look

    row = ledger.artifact(find(ledger, digest))
    assert row is not None
    try:
        artifact.open_artifact(row.path, row.digest)
    except CorruptError as error:
        ledger.decide("swap", "refused", digest=row.digest, actor="loop", numbers={"reasons": [str(error)]})
        raise CorruptError(f"{error}. It is not served; `oliveira history` lists others.") from None
    return row.digest
