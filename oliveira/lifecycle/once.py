"""`oliveira up --once`: the whole life with a witness. Serves, asks what is new to the model, and sees drift,
retraining, gate, swap, rollback."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from oliveira.console.flow import flow_of
from oliveira.errors import Interrupted, OliveiraError
from oliveira.lifecycle.traffic_load import Client, Load
from oliveira.lifecycle.up import House
from oliveira.lifecycle.visitors import Visitors, visitors_of
from oliveira.process.stop import Stop

IDLE_REQUESTS = 60
SWAP_REQUESTS = 200
PAUSE = 0.25  # seconds between two requests where latency is measured
PATIENCE = 600.0
MOST_REQUESTS = 5000
NOTHING = "nothing was promoted"


def live_once(house: House, stop: Stop, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns what becomes `life.json`. Raises OliveiraError when an arrow of the loop does not come."""
    started = time.time()
    witness = _Witness(house, stop)
    visitors = visitors_of(house)
    before = house.ledger.alias("champion")
    assert before is not None
    since = _last_decision(house)  # of a life that was ended after its alarm, the loop may go on at once
    alarms = _alarms(house)

    say(f"{IDLE_REQUESTS} requests of the known domain")
    with Load(house.address, house.key, visitors.ask, visitors.base, workers=1, pause=PAUSE) as idle:
        witness.until(lambda: len(idle.answers) >= IDLE_REQUESTS, "the answers to the known domain")

    say("traffic of the new domain, until the monitor raises its alarm")
    sent, amount = _send_until_drift(house, witness, visitors, alarms, say)
    drift = house.ledger.last_event("drift")
    assert drift is not None
    say(f"drift after {sent} requests; a challenger is trained on them, at low priority")
    with Load(house.address, house.key, visitors.ask, visitors.base, workers=1, pause=PAUSE) as training:
        witness.until(lambda: _decided(house, since) is not None, "the gate's decision")
        decision = _decided(house, since)
        assert decision is not None
        if decision["verdict"] == "promoted":
            witness.until(lambda: _served(house) == decision["digest"], "the challenger being served")
        training_p95 = training.quantile(0.95)
    swap = _swap_under_load(house, witness, visitors, before, decision, say)
    rollback = _roll_back(house, witness, visitors, before, decision, say)
    gate = decision["numbers"]
    return {
        "world": house.world.name,
        "seconds": round(time.time() - started, 1),
        "stages": _stages(house),
        "drift": {
            "detected": True,
            "requests": sent,
            visitors.counted: amount,
            "scores": drift["data"]["scores"],
        },
        "gate": {
            "decision": decision["verdict"],
            **{k: v for k, v in gate.items() if k not in ("validation_bits_per_byte", "scores")},
        },
        "val_bits_per_byte": gate.get("validation_bits_per_byte", {}),
        "scores": gate.get("scores", {}),
        "swap": swap,
        "rollback": rollback,
        "latency": {
            "idle_p95": idle.quantile(0.95),
            "while_training_p95": training_p95,
            "requests": len(training.answers),
        },
        "failed_requests": idle.failed + training.failed + swap["failed"],
        "peak_memory_mib": house.memory.peak_mib,
    }


class _Witness:
    """Waits for something to become true, as long as the house stands."""

    def __init__(self, house: House, stop: Stop) -> None:
        self.house, self.stop = house, stop

    def until(self, seen: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not seen():
            if self.stop.wait(0.1):
                raise Interrupted("stopped; start again to go on.")
            self.house.check()
            if time.monotonic() > end:
                raise OliveiraError(f"waited {PATIENCE:.0f} seconds for {what}; see logs/ in {self.house.place}.")


def _alarms(house: House) -> int:
    """The newest alarm that is over."""
    last = house.ledger.last_event("drift")
    on = any(name == "drift_alarm" and value for name, _, value, _ in house.ledger.gauges())
    return 0 if last is None else last["id"] - on


def _send_until_drift(
    house: House, witness: _Witness, visitors: Visitors, known: int, say: Callable[[str], None]
) -> tuple[int, int]:
    """Asks what is new until an alarm after the event `known`, and on until there is enough of it to learn from."""
    client = Client(house.address, house.key, traffic=True)
    sent, amount = 0, 0
    detected = False
    for visit in itertools.cycle(visitors.new):
        if detected and amount >= 2 * visitors.needed:
            break
        answer = visitors.live(client, visit)
        if answer.status != 200:
            raise OliveiraError(f"the server answered {answer.status} to live traffic: {answer.body[:200]!r}")
        sent, amount = sent + 1, amount + visitors.weight(visit)
        if sent % 20 == 0:
            event = house.ledger.last_event("drift")
            detected = detected or (event is not None and event["id"] > known)
            house.check()
            if witness.stop.wait(0.02):
                raise Interrupted("stopped; start again to go on.")
        if sent % 500 == 0:
            say(f"{sent} requests, the alarm is on" if detected else f"{sent} requests, no alarm yet")
        if sent >= MOST_REQUESTS:
            raise OliveiraError(visitors.no_drift(detected, sent, amount))
    return sent, amount


def _last_decision(house: House) -> int:
    found = house.ledger.decisions(1)
    return found[0].id if found else 0


def _decided(house: House, after: int) -> dict[str, Any] | None:
    for decision in house.ledger.decisions(20):
        if decision.id > after and decision.actor == "gate":
            return {"verdict": decision.verdict, "digest": decision.digest, "numbers": decision.numbers}
    failed = house.ledger.last_event("update_failed")
    if failed and failed["time"] >= house.started:
        raise OliveiraError(f"the retraining failed: {failed['data']['reason']}")
    return None


def _served(house: House) -> str | None:
    serving = house.ledger.setting("serving")
    return serving["digest"] if serving else None


def _wish(house: House, witness: _Witness, path: str, body: dict[str, Any]) -> None:
    answer = Client(house.address, house.key, traffic=False).post(f"{path}?model={house.life}", body)
    if answer.status != 202:
        raise OliveiraError(f"POST {path} answered {answer.status}: {answer.body[:200]!r}")
    number = json.loads(answer.body)["wish"]

    def granted() -> bool:
        wish = house.ledger.get_wish(number)
        if wish is not None and wish.state == "failed":
            raise OliveiraError(f"{path} failed: {wish.result}")
        return wish is not None and wish.state == "done"

    witness.until(granted, path)


def _swap_under_load(
    house: House,
    witness: _Witness,
    visitors: Visitors,
    before: str,
    decision: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Back to the old model, then forward to the new one, while requests keep coming."""
    if decision["verdict"] != "promoted":
        return {"requests": 0, "failed": 0, "reason": NOTHING}
    target = decision["digest"]
    say("swap under load")
    _wish(house, witness, "/admin/swap", {"digest": before})
    witness.until(lambda: _served(house) == before, "the old model being served")
    with Load(house.address, house.key, visitors.ask, visitors.base, workers=4) as load:
        witness.until(lambda: len(load.answers) >= SWAP_REQUESTS // 2, "the first half of the load")
        started = time.monotonic()
        _wish(house, witness, "/admin/swap", {"digest": target})
        witness.until(lambda: _served(house) == target, "the new model being served")
        seconds = time.monotonic() - started
        answered = len(load.answers)
        witness.until(lambda: len(load.answers) >= answered + SWAP_REQUESTS // 2, "the second half of the load")
    return {
        "requests": len(load.answers),
        "failed": load.failed,
        "seconds": round(seconds, 2),
        "from": before,
        "to": target,
        "answered_by": dict(load.models),
        "p95": load.quantile(0.95),
    }


def _roll_back(
    house: House,
    witness: _Witness,
    visitors: Visitors,
    before: str,
    decision: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The digest that answers over HTTP after the rollback must be the one from before."""
    if decision["verdict"] != "promoted":
        return {"digest_restored": False, "reason": NOTHING}
    say("rollback")
    _wish(house, witness, "/admin/rollback", {"reason": "up --once"})
    witness.until(lambda: _served(house) == before, "the old model being served again")
    answer = visitors.ask(Client(house.address, house.key, traffic=False), visitors.base[0])
    return {"digest_restored": bool(answer.model) and before.startswith(answer.model), "digest": before}


def _stages(house: House) -> dict[str, dict[str, Any]]:
    latest = {row.name: row for row in house.ledger.life() if row.state == "done"}
    latest = {name: latest[name] for name in flow_of(house.place) if name in latest}
    return {
        name: {
            "seconds": row.seconds,
            "digest": row.digest,
            "reused": (row.finished or 0) < house.started,
            **row.outputs,
        }
        for name, row in latest.items()
    }
