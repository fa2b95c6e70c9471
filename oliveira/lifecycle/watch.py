"""Drift on the live stream: feeds what came in to the monitor and reports in the ledger."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from oliveira.ledger import Ledger
from oliveira.lifecycle.streams import Monitor, stream_of
from oliveira.monitoring.metrics import STAGE_STATE
from oliveira.world import World

MONITOR = "drift_monitor"
Gauges = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watch:
    """Compares the traffic that the champion answered with the champion's own reference."""

    def __init__(self, home: Path, world: World, ledger: Ledger) -> None:
        self.home, self.world, self.ledger = home, world, ledger
        self.stream = stream_of(home, world, ledger)
        self._checked = 0.0
        self._alarmed = False  # and the ledger has an event of it
        saved = ledger.setting(MONITOR, {})
        same = saved.get("digest") == ledger.alias("champion")
        self.restart(saved.get("state") if same else None, alarmed=same and bool(saved.get("alarmed")))

    def restart(self, state: dict[str, Any] | None = None, *, alarmed: bool = False) -> None:
        """A fresh monitor after a swap or a retraining that has looked at what was seen so far; after a start of the
        program the one that `state` describes, whose alarm was told of already if `alarmed`."""
        self._forget_scores()
        self.digest = self.ledger.alias("champion")
        row = self.ledger.artifact(self.digest) if self.digest else None
        path = row.path / "reference.json" if row else None
        self.monitor: Monitor | None = None
        if path is not None and path.exists():
            self.monitor = self.stream.monitor(json.loads(path.read_bytes()), state)
        self._alarmed = alarmed
        self._save()
        self._report(force=True)

    def enough(self) -> bool:
        """Whether there is what a challenger could learn from."""
        return self.stream.enough()

    def look(self) -> bool:
        """Reads what is new. Returns whether the alarm is on."""
        if self.ledger.alias("champion") != self.digest:
            self.restart()
        records = self.stream.read_new()
        for digest, sample in records:
            if self.monitor is not None and digest == self.digest and sample is not None:
                self.monitor.update(sample)
        if records:  # a restart goes on from here: nothing is looked at twice
            self.stream.keep_position()
            self._save()
        self._report(force=bool(records))
        return self._alarmed

    def _forget_scores(self) -> None:
        """What was measured against another reference is nobody's score (NaN removes a gauge)."""
        stale = [g for g in self.ledger.gauges() if g[0] in ("drift_score", "drift_pvalue")]
        self.ledger.set_gauges({(name, tuple(labels.items())): math.nan for name, labels, _, _ in stale})

    def _save(self) -> None:
        state = self.monitor.to_json() if self.monitor else None
        self.ledger.set_setting(MONITOR, {"digest": self.digest, "state": state, "alarmed": self._alarmed})

    def _report(self, *, force: bool) -> None:
        due = time.monotonic() - self._checked > 10
        if not (force or due):
            return
        values: Gauges = {}
        if due:
            self._checked = time.monotonic()
            values |= self._ground()
        if self.monitor is not None:
            state = self.monitor.state()
            values["drift_alarm", ()] = float(state.alarm)
            for feature, tests in state.scores.items():
                for test, (score, p_value) in tests.items():
                    labels = (("feature", feature), ("test", test))
                    values["drift_score", labels] = score
                    if p_value is not None:
                        values["drift_pvalue", labels] = p_value
            new, self._alarmed = state.alarm and not self._alarmed, state.alarm
            if new:  # first the event: a program that ends between the two tells it twice, never not at all
                self.ledger.event("drift", {"digest": self.digest, "scores": _plain(state.scores)})
                self._save()
        self.ledger.set_gauges(values)

    def _ground(self) -> Gauges:
        """What changes slowly: disk, integrity, ages, states of the stages."""
        disk = shutil.disk_usage(self.home)
        values: Gauges = {
            ("disk_free_bytes", ()): float(disk.free),
            ("disk_size_bytes", ()): float(disk.total),
            ("integrity_check_ok", ()): float(self.ledger.check()),
        }
        for row in self.ledger.life():
            values["stage_state", (("stage", row.name),)] = float(STAGE_STATE[row.state])
        moved = next(
            (d.time for d in self.ledger.decisions() if d.digest == self.digest and d.previous != d.digest), None
        )
        if moved is not None:
            values["champion_age_seconds", ()] = max(0.0, self.ledger.clock() - moved)
        saved = [path.stat().st_mtime for path in self.home.glob("runs/*/checkpoint.safetensors")]
        if saved:
            values["checkpoint_age_seconds", ()] = max(0.0, time.time() - max(saved))
        return values


def _plain(scores: Any) -> dict[str, dict[str, list[float | None]]]:
    return {feature: {test: list(pair) for test, pair in tests.items()} for feature, tests in scores.items()}
