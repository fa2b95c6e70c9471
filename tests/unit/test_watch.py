"""The watch: reads the traffic once, raises one drift event, goes on after a restart, starts afresh after a swap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oliveira.ledger import Ledger
from oliveira.lifecycle.watch import Watch
from oliveira.monitoring.drift import Sample, build_reference
from oliveira.monitoring.settings import MonitorSection
from oliveira.monitoring.traffic import TrafficLog
from oliveira.world import World

WORLD = World(monitor=MonitorSection(window=200, alpha=1e-3, confirm=2))


def samples(seed: int, n: int, low: int, loss: float) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [
        Sample([int(t) for t in random.integers(low, low + 50, 40)], float(random.normal(loss, 0.3))) for _ in range(n)
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with Ledger(tmp_path) as ledger:
        for name in ("one", "two"):
            folder = tmp_path / "artifacts" / name
            folder.mkdir(parents=True)
            reference = build_reference(samples(0, 200, 0, 3.0), window=200, alpha=1e-3, seed=0)
            (folder / "reference.json").write_text(json.dumps(reference))
            ledger.add_artifact(name, "base", folder, {"stage": "package", "key": name}, {})
        ledger.promote("one", actor="test", numbers={})
    return tmp_path


def send(home: Path, found: list[Sample], digest: str = "one") -> None:
    log = TrafficLog(home / "traffic", 8)
    for sample in found:
        log.append(
            {"id": "1", "time": 0.0, "digest": digest, "text": "x" * 100, "tokens": sample.tokens, "loss": sample.loss}
        )
    log.close()


def drifts(ledger: Ledger) -> int:
    return sum(event["kind"] == "drift" for event in ledger.events())


def test_known_traffic_is_quiet_and_new_traffic_is_not(home: Path) -> None:
    with Ledger(home) as ledger:
        watch = Watch(home, WORLD, ledger)
        send(home, samples(1, 60, 0, 3.0))
        assert not watch.look() and drifts(ledger) == 0
        send(home, samples(2, 60, 400, 6.0))
        assert watch.look() and watch.look() and drifts(ledger) == 1
        gauges = {name for name, *_ in ledger.gauges()}
    assert {"drift_alarm", "drift_score", "disk_free_bytes", "champion_age_seconds", "integrity_check_ok"} <= gauges


def test_a_restart_goes_on_and_a_swap_starts_afresh(home: Path) -> None:
    with Ledger(home) as ledger:
        watch = Watch(home, WORLD, ledger)
        send(home, samples(2, 60, 400, 6.0))
        assert watch.look()
        again = Watch(home, WORLD, ledger)
        assert again.look() and drifts(ledger) == 1, "the alarm is still on, and it is not a second one"
        ledger.promote("two", actor="test", numbers={})
        assert not again.look()
        assert "drift_pvalue" not in {name for name, *_ in ledger.gauges()}, "scores against the old reference are gone"
        assert not Watch(home, WORLD, ledger).look()


def test_an_alarm_whose_event_could_not_be_written_is_told_after_a_restart(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Ledger(home) as ledger:
        watch = Watch(home, WORLD, ledger)
        send(home, samples(2, 60, 400, 6.0))
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "event", full)
            with pytest.raises(OSError):
                watch.look()
        assert drifts(ledger) == 0
        assert Watch(home, WORLD, ledger).look() and drifts(ledger) == 1
        assert Watch(home, WORLD, ledger).look() and drifts(ledger) == 1


def test_a_champion_that_is_promoted_again_is_as_old_as_it_was(home: Path) -> None:
    with Ledger(home) as ledger:
        now = ledger.clock()
        ledger.clock = lambda: now + 1000
        ledger.promote("one", actor="test", numbers={})
        Watch(home, WORLD, ledger).look()
        [age] = [value for name, _, value, _ in ledger.gauges() if name == "champion_age_seconds"]
    assert 990 < age < 1010


@pytest.mark.parametrize("other", ["two", "", "an adapter's"])
def test_what_another_model_answered_is_not_this_ones_drift(home: Path, other: str) -> None:
    """Its losses were measured by other weights. As new text it counts all the same."""
    with Ledger(home) as ledger:
        watch = Watch(home, WORLD, ledger)
        send(home, samples(2, 60, 400, 6.0), digest=other)
        assert not watch.look() and drifts(ledger) == 0
        assert watch.monitor is not None and watch.monitor.samples == 0 and watch.stream.characters == 6000
        send(home, samples(2, 60, 400, 6.0))
        assert watch.look(), "the same traffic of its own is drift"


def test_a_request_whose_loss_was_not_measured_is_no_sample(home: Path) -> None:
    with Ledger(home) as ledger:
        watch = Watch(home, WORLD, ledger)
        log = TrafficLog(home / "traffic", 8)
        log.append({"id": "1", "time": 0.0, "digest": "one", "text": "x" * 100, "tokens": [1, 2], "loss": None})
        log.close()
        assert not watch.look() and watch.monitor is not None and watch.monitor.samples == 0
