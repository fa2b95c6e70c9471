"""What `oliveira status` says: stages, what is served and where, what waits, what runs and for how long still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oliveira.console.flow import task_of
from oliveira.errors import CorruptError
from oliveira.language import translate
from oliveira.ledger import ADDRESS, PAUSED, RETRAINING, WAITS, Ledger, StageRow
from oliveira.ledger.lives import lives, place
from oliveira.lifecycle.asking import describe
from oliveira.lifecycle.own_file import gone_in
from oliveira.lifecycle.recording import recording, recording_line
from oliveira.lifecycle.returning import PUT_BACK, put_back_line
from oliveira.process.eta import duration
from oliveira.process.holder import is_held
from oliveira.serving.adapter_names import adapter_names, weights_digest


def overview(ledger: Ledger) -> dict[str, Any]:
    """Ready for JSON."""
    home, running = ledger.home, is_held(ledger.home, "up")
    rows = {row.name: row for row in ledger.life()}
    stages = {name: _stage(row, running) for name, row in rows.items()}
    return {
        "running": running,
        "address": ledger.setting(ADDRESS) if running else None,
        "paused": bool(ledger.setting(PAUSED, False)),
        "stages": stages,
        "progress": _progress(ledger, stages),
        "aliases": ledger.aliases(),
        "put_back": _put_back(ledger),
        "challenger": _challenger(ledger),
        "serving": ledger.setting("serving") if running else None,
        "adapters": _adapters(ledger),
        "recording": recording(home),
        "data_gone": gone_in(home),
        "retraining": ledger.setting(RETRAINING) if running and is_held(home, "update") else None,
        "waits_for": ledger.setting(WAITS) if running else None,
        "wishes": [describe(home, wish) for wish in ledger.pending_wishes()],
    }


def lives_overview(home: Path) -> dict[str, dict[str, Any]]:
    """Of every life in one word: what it answers, who, and whether it does."""
    found = {}
    for name in lives(home):
        folder = place(home, name)
        if not (folder / "ledger.sqlite").is_file():
            continue
        told = {"task": task_of(folder) or "text", "champion": None}
        try:
            with Ledger(folder, reads=True) as ledger:
                if ledger.is_made():
                    seen = overview(ledger)
                    found[name] = told | {"champion": seen["aliases"].get("champion"), "state": _word(seen)}
        except CorruptError:  # of one life: the others are looked at all the same
            found[name] = told | {"state": "damaged"}
    return found


def _word(seen: dict[str, Any]) -> str:
    if not seen["running"]:
        return "stopped"
    if seen["waits_for"]:
        return f"waits for the life {seen['waits_for']}, which learns"
    learning = next((name for name, row in seen["stages"].items() if row["state"] == "running"), "")
    if learning:
        return f"at its stage {learning}"
    if seen["retraining"]:
        return "retraining"
    serving = seen["serving"] or {}
    return "served" if serving.get("digest") else "asleep" if serving.get("asleep") else "starting"


def _adapters(ledger: Ledger) -> list[str]:
    """Those that fit the champion: only they are answered for."""
    digest = ledger.alias("champion")
    row = ledger.artifact(digest) if digest else None
    base = weights_digest(row.path) if row else ""
    return adapter_names(ledger.home, base) if base else []


LEARN = {"train", "adapt"}  # stages that say how far they are


def _stage(row: StageRow, running: bool) -> dict[str, Any]:
    state = "stopped" if row.state == "running" and not running else row.state  # killed in the middle of it
    return {"state": state, "seconds": row.seconds, "message": row.message, "outputs": row.outputs, **row.outputs}


def _progress(ledger: Ledger, stages: dict[str, Any]) -> dict[str, float] | None:
    if all(stages[name]["state"] != "running" for name in LEARN & stages.keys()):
        return None
    wanted = ("train_step", "train_steps", "train_loss", "train_eta_seconds")
    return {name: value for name, labels, value, _ in ledger.gauges() if name in wanted and not labels}


def _put_back(ledger: Ledger) -> dict[str, Any] | None:
    """The champion that the loop took away, while nothing else was crowned since."""
    last = ledger.last_event(PUT_BACK)
    return last["data"] if last and last["data"]["to"] == ledger.alias("champion") else None


def _challenger(ledger: Ledger) -> dict[str, Any] | None:
    """The one that waits for a person, and what the gate said of it."""
    digest = ledger.alias("challenger")
    if digest is None:
        return None
    decision = ledger.gate_verdict(digest)
    verdict = decision.verdict if decision else "not judged"
    return {"digest": digest, "verdict": verdict, "reasons": decision.numbers.get("reasons", []) if decision else []}


def overview_lines(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same below the table of stages, a line each."""
    aliases = {name: digest[:12] for name, digest in state["aliases"].items()}
    for name in ("champion", "previous"):
        if name in aliases:
            yield name, aliases[name]
    if event := state["put_back"]:
        yield "put back", put_back_line(event)
    if challenger := state["challenger"]:
        why = "; ".join(map(translate, challenger["reasons"]))
        yield "challenger", f"{challenger['digest'][:12]} {translate(challenger['verdict'])}: {why}"
    if state["adapters"]:
        yield "adapters", ", ".join(state["adapters"])
    yield (
        "program",
        f"running at {state['address']}" if state["address"] else "running" if state["running"] else "stopped",
    )
    if state["recording"]:
        yield "recording", recording_line(state["recording"])
    if state["waits_for"]:
        yield "waits", f"waits for the life {state['waits_for']}, which learns"
    if state["data_gone"]:
        yield "data", state["data_gone"]
    if state["paused"]:
        yield "paused", "no retraining until `oliveira resume`"
    if progress := state["progress"]:
        yield "training", _shown(
            progress.get("train_step"), progress.get("train_steps"), progress.get("train_loss"),
            progress.get("train_eta_seconds"),
        )  # fmt: skip
    if running := state["retraining"]:
        far = _shown(running.get("step"), running.get("steps"), running.get("loss"), running.get("eta"))
        whom = running.get("waits_for")
        phase = f"{running['phase']} for the life {whom}" if whom else running["phase"]
        where = ", ".join(translate(text) for text in (phase, far) if text)
        yield "retraining", f"since {_clock(running['started'])} ({running['trigger']}), {where}"
    for wish in state["wishes"]:
        args = " ".join(str(value)[:12] for key, value in wish["args"].items() if key == "digest")
        what = f"{wish['kind']} {args}".strip()
        since = _clock(wish["since"])
        later = f"{what} by {wish['by']} since {since}, acted upon at the next start"
        yield wish["state"], f"{what} by {wish['by']} since {since}" if state["running"] else later


def _shown(step: float | None, steps: float | None, loss: float | None, left: float | None) -> str:
    if step is None or not steps:
        return ""
    if left is None:
        return f"step {step:.0f} of {steps:.0f}, loss {loss or 0.0:.3f}"
    return f"step {step:.0f} of {steps:.0f}, loss {loss or 0.0:.3f}, {duration(left)} left"


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
