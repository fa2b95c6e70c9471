"""The monitor itself: feeds a stream of samples to the statistics and decides when to raise the alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oliveira.errors import UserError
from oliveira.monitoring.calibration import FORMAT, MAX_CONFIRM, Tail, thresholds
from oliveira.monitoring.statistics import TESTS, Floats, Sample, TokenBins, WindowStatistics


@dataclass(frozen=True)
class DriftState:
    """What is known after the last complete window.

    `in_a_row` counts the windows beyond without a gap, `beyond` names the tests that were in the last one as
    (feature, test). `scores[feature][test]` is (score, p-value of a single window); empty before the first.
    """

    alarm: bool
    windows: int
    samples: int
    in_a_row: int
    beyond: tuple[tuple[str, str], ...]
    scores: dict[str, dict[str, tuple[float, float | None]]]


class Rule:
    """An alarm when `confirm` windows in a row each have a score above its threshold; it stays until `reset`."""

    def __init__(self, calibration: dict[str, Any], *, alpha: float, confirm: int) -> None:
        """`calibration`: what `calibrate` has made. Raises UserError for a rule that cannot be kept."""
        if not 1 <= confirm <= MAX_CONFIRM:
            raise UserError(f"monitor.confirm = {confirm} is not between 1 and {MAX_CONFIRM}. Use 2.")
        if not 0 < alpha < 1:
            raise UserError(f"monitor.alpha = {alpha} is not a probability. Use 0.0001.")
        self.alpha, self.confirm = alpha, confirm
        self.thresholds = thresholds(calibration, alpha, confirm)
        if not np.isfinite(self.thresholds).all():
            raise UserError("the drift reference holds a threshold that is not a number: blind. Make it again.")
        self._tails = [Tail.from_json(tail) for tail in calibration["tails"]]
        self.windows = 0
        self.reset()

    def reset(self) -> None:
        self._last: list[float] = []
        self.in_a_row = 0
        self.alarm = False

    def update(self, scores: Floats) -> None:
        """The scores of a window that is complete."""
        self.windows += 1
        self._last = [float(score) for score in scores]
        self.in_a_row = self.in_a_row + 1 if (scores > self.thresholds).any() else 0
        self.alarm = self.alarm or self.in_a_row >= self.confirm

    def state(self, tests: Sequence[tuple[str, str]], samples: int) -> DriftState:
        """`tests`: feature and test of each score."""
        scores: dict[str, dict[str, tuple[float, float | None]]] = {}
        beyond: list[tuple[str, str]] = []
        for (feature, test), score, tail, limit in zip(
            tests, self._last, self._tails, self.thresholds, strict=bool(self._last)
        ):
            scores.setdefault(feature, {})[test] = (score, float(tail.pvalues(np.array(score))))
            if score > limit:
                beyond.append((feature, test))
        return DriftState(self.alarm, self.windows, samples, self.in_a_row, tuple(beyond), scores)

    def to_json(self) -> dict[str, Any]:
        return {"windows": self.windows, "in_a_row": self.in_a_row, "alarm": self.alarm, "last": self._last}

    def load(self, state: dict[str, Any]) -> None:
        self.windows, self.in_a_row, self.alarm = state["windows"], state["in_a_row"], state["alarm"]
        self._last = [float(score) for score in state["last"]]


class DriftMonitor:
    """Raises the alarm when `confirm` windows in a row are each beyond the threshold of at least one test.

    On streams without drift that happens with probability `alpha` a window. Deterministic; `to_json` is the
    whole state beside the reference. Raises UserError if the reference does not fit.
    """

    def __init__(self, reference: dict[str, Any], *, window: int, alpha: float, confirm: int) -> None:
        if reference.get("format") != FORMAT:
            raise UserError(f"the drift reference has format {reference.get('format')}, not {FORMAT}. Make it again.")
        if reference["window"] != window:
            raise UserError(
                f"monitor.window = {window}, but the model's reference was made for {reference['window']} tokens. "
                "Use that, or package the model again."
            )
        self.window = window
        self.rule = Rule(reference, alpha=alpha, confirm=confirm)
        self._bins = TokenBins(reference["top"])
        self._reference = np.array(reference["histogram"]), np.array(reference["losses"])
        self.samples = 0
        self.reset()

    @property
    def windows(self) -> int:
        return self.rule.windows

    @property
    def alarm(self) -> bool:
        return self.rule.alarm

    def reset(self) -> None:
        """Starts to listen anew, for example after a retraining has looked at the alarm."""
        self._statistics = WindowStatistics(*self._reference, self.window)
        self.rule.reset()

    def update(self, sample: Sample) -> bool:
        """One request. Returns whether the alarm is on. A sample without tokens is passed over."""
        if not sample.tokens:
            return self.alarm
        self.samples += 1
        scores = self._statistics.update(self._bins.counts(sample.tokens), sample.loss)
        if scores is not None:
            self.rule.update(scores)
        return self.alarm

    def state(self) -> DriftState:
        return self.rule.state(TESTS, self.samples)

    def to_json(self) -> dict[str, Any]:
        return {
            "window": self.window,
            "alpha": self.rule.alpha,
            "confirm": self.rule.confirm,
            "samples": self.samples,
            **self.rule.to_json(),
            "statistics": self._statistics.to_json(),
        }

    @classmethod
    def from_json(cls, reference: dict[str, Any], state: dict[str, Any]) -> DriftMonitor:
        """Goes on as if nothing had happened."""
        monitor = cls(reference, window=state["window"], alpha=state["alpha"], confirm=state["confirm"])
        monitor.samples = state["samples"]
        monitor.rule.load(state)
        monitor._statistics.load(state["statistics"])
        return monitor
