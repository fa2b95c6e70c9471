"""A command that wishes for something: it waits for the word, and leaves nothing behind that it did not tell.

A wish that was refused, that took too long or was interrupted is withdrawn in one step: it is never acted upon later. A
retraining that goes on while nobody waits for it any more is told as such, and `oliveira status` shows it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oliveira.errors import Interrupted, OliveiraError, UserError
from oliveira.ledger import RETRAINING, Ledger, Wish
from oliveira.lifecycle.verbs import check_not_paused, grant
from oliveira.process.holder import holder, is_held

PATIENCE = 60.0  # seconds until the loop takes a wish up
LONG = 3600.0  # and until a retraining that runs is no longer waited for
LOOP_GONE = 10.0  # a loop that was killed is started again long before
POLL = 0.1


def ask(
    ledger: Ledger,
    kind: str,
    args: dict[str, Any],
    *,
    actor: str = "command line",
    patience: float = PATIENCE,
    show: Callable[[dict[str, Any] | None], None] = lambda running: None,
) -> Wish:
    """The wish when it is done, or while it runs longer than one waits. Raises OliveiraError when nothing came of it.

    `show`: called again and again with what a running retraining is at.
    """
    if kind == "retrain":
        check_not_paused(ledger)
        if not is_held(ledger.home, "loop"):
            raise UserError("retrain needs a running `oliveira up` in this home. Start it, then ask again.")
    number = ledger.wish(kind, args, actor)
    try:
        with _signals_interrupt():
            wish = _wait(ledger, number, patience, show)
    except BaseException as error:
        wish = ledger.withdraw_wish(number, f"withdrawn: {str(error) or 'interrupted'}")
        if wish.state != "done" and not isinstance(error, KeyboardInterrupt):
            raise
        if wish.state != "done":
            raise Interrupted(f"{kind} is withdrawn: it will not be done later.") from None
    if wish.state == "failed":
        result = wish.result or {}
        raise UserError(str(result.get("error") or result.get("reason") or f"{kind} failed."))
    return wish


def _wait(ledger: Ledger, number: int, patience: float, show: Callable[[dict[str, Any] | None], None]) -> Wish:
    began = seen = time.monotonic()
    while True:
        wish = ledger.get_wish(number)
        assert wish is not None
        now = time.monotonic()
        if wish.state != "pending" or (wish.runs and now - began > LONG):
            return wish
        if is_held(ledger.home, "loop"):
            seen = now
        elif wish.kind != "retrain":
            _act_alone(ledger, wish)
            continue
        elif now - seen > LOOP_GONE:
            raise OliveiraError("the program stopped before it was done; nothing of it will run later. Ask again.")
        if not wish.runs and now - began > patience:
            raise OliveiraError(
                f"{wish.kind} was not taken up within {patience:.0f} s and is withdrawn{_busy_with(ledger)}. Ask again."
            )
        if wish.runs:
            show(ledger.setting(RETRAINING))
        time.sleep(POLL)


def _act_alone(ledger: Ledger, wish: Wish) -> None:
    """Without a loop the command does it itself, and only this one wish, holding the loop's place meanwhile."""
    with contextlib.suppress(UserError), holder(ledger.home, "loop"):  # taken: a loop or another command was faster
        grant(ledger, wish)


def _busy_with(ledger: Ledger) -> str:
    stage = next((row.name for row in ledger.life() if row.state == "running"), None)
    return f": the program is at its stage {stage}" if stage else ""


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal are a Ctrl-C: the wish is withdrawn."""

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def describe(home: Path, wish: Wish) -> dict[str, Any]:
    """What a wish that is not done yet looks like to a person."""
    state = "running" if wish.runs and is_held(home, "loop") else "waiting"
    return {"wish": wish.id, "kind": wish.kind, "args": wish.args, "by": wish.actor, "since": wish.time, "state": state}
