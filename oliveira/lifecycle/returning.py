"""A champion that cannot serve is put back by the loop, not by a person.

It is put back when the server refused it while another model goes on serving, or when its engine died twice, or most
of its answers failed, within a minute of its first request. It stays

- when nothing else serves: then the machine may be ill, and an older model would be no better;
- when it was put back before: who crowned it again knows that (the gate does not: `was_put_back`). And what the loop
  crowned by putting another back is never put back itself: one step, no walk through the history;
- when a person chose it by `swap` or `rollback` and it does load: they look at it, and `rollback` is one word.
"""

from __future__ import annotations

from typing import Any

from oliveira.errors import CorruptError, UserError
from oliveira.ledger import Decision, Ledger
from oliveira.lifecycle.verbs import CROWNED, of_this_task, whole

LOOP = "loop"
FIRST_MINUTE = 60.0  # seconds from the moment it took requests
DEATHS = 2
BY_HAND = ("swap", "rollback")
PUT_BACK = "put_back"  # the event


def was_put_back(ledger: Ledger, digest: str) -> bool:
    return any(event["data"]["digest"] == digest for event in ledger.events_since(0.0, PUT_BACK))


def put_back_line(event: dict[str, Any]) -> str:
    return f"the champion {event['digest'][:12]} was put back to {event['to'][:12]}: {event['reason']}."


class Returning:
    """Looks at what the server wrote down. `look` is cheap while nothing was written."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._version = -1
        self._done = -1  # the crowning that was judged: an older model that is damaged is not read again and again

    def look(self) -> bool:
        """Puts the champion back if it must be. Returns whether it was."""
        version = self.ledger.version()
        if version == self._version:
            return False
        self._version = version
        crowning = next((d for d in self.ledger.decisions() if d.verdict in CROWNED), None)
        if crowning is None or crowning.digest is None or crowning.id == self._done:
            return False
        reason = self._reason(crowning)
        if not reason or not self._may(crowning):
            return False
        self._done = crowning.id
        return self._put_back(crowning.digest, reason)

    def _reason(self, crowning: Decision) -> str:
        """Why the champion cannot stay, by what was written since it became champion; "" = no reason."""
        told = self._events(crowning, "digest", "swap_failed", "engine_died", "champion_fails")
        refused = [event for event in told if event["kind"] == "swap_failed"]
        serving = (self.ledger.setting("serving") or {}).get("digest")
        if refused and serving not in (None, crowning.digest):
            return f"the server could not take it: {refused[-1]['data']['reason']}"
        live = next((event["time"] for event in self._events(crowning, "to", "swap")), None)
        if live is None or (crowning.kind in BY_HAND and crowning.actor != LOOP):
            return ""
        early = [event for event in told if event["time"] <= live + FIRST_MINUTE]
        if sum(event["kind"] == "engine_died" for event in early) >= DEATHS:
            return f"its engine died {DEATHS} times in its first minute"
        if failing := next((event["data"] for event in early if event["kind"] == "champion_fails"), None):
            return f"{failing['failed']} of its first {failing['answers']} answers failed"
        return ""

    def _events(self, crowning: Decision, field: str, *kinds: str) -> list[dict[str, Any]]:
        found = self.ledger.events_since(crowning.time, *kinds)
        return [event for event in found if event["data"].get(field) == crowning.digest]

    def _may(self, crowning: Decision) -> bool:
        if crowning.actor == LOOP or self.ledger.alias("previous") is None:
            return False
        return not was_put_back(self.ledger, str(crowning.digest))

    def _put_back(self, digest: str, reason: str) -> bool:
        previous = self.ledger.alias("previous")
        assert previous is not None
        try:
            whole(self.ledger, of_this_task(self.ledger, previous))  # and says so in the history when it is not
        except (CorruptError, UserError):
            return False
        with self.ledger.transaction():
            if (self.ledger.alias("champion"), self.ledger.alias("previous")) != (digest, previous):
                return False  # a person was faster
            self.ledger.rollback(actor=LOOP, reason=reason)
            self.ledger.event(PUT_BACK, {"digest": digest, "to": previous, "reason": reason})
        return True
