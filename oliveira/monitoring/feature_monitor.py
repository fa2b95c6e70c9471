"""The feature monitor: the reference of named numbers, and the stream that is compared with it.

What a request says is known at once, how wrong its answer was only when the truth arrives, if it ever does. So there
are two channels, each with windows of its own: "requests", and `ERROR` by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from oliveira.errors import UserError
from oliveira.monitoring.calibration import CONVERSATION, MIN_BLOCKS, MIN_WINDOWS, calibrate
from oliveira.monitoring.detector import DriftState, Rule
from oliveira.monitoring.feature_statistics import (
    Feature,
    FeatureSample,
    FeatureStream,
    FeatureWindow,
    columns,
    neighbours,
    number,
)
from oliveira.monitoring.statistics import Floats

FORMAT = 1
REQUESTS, ERROR = "requests", "error"


def build_feature_reference(
    samples: Sequence[FeatureSample], *, window: int, alpha: float, confirm: int, seed: int = 0
) -> dict[str, Any]:
    """What live requests will be compared with, as JSON: each feature, and the calibration of its score.

    `samples` are held-out requests in their natural order; `window` in requests. A feature that is missing in all but
    a few of them is left out, and so is `ERROR` where too few truths are known. Raises UserError when there are too
    few samples at all.
    """
    needed = max(MIN_BLOCKS * CONVERSATION, MIN_WINDOWS * window)
    channels = {}
    for channel, names in _channels(samples).items():
        rows = columns([sample for sample in samples if _concerns(channel, names, sample)], names)
        kept = (~np.isnan(rows)).sum(axis=0) >= MIN_BLOCKS * CONVERSATION
        if kept.any() and len(rows) >= needed:
            known = [name for name, keep in zip(names, kept, strict=True) if keep]
            channels[channel] = _channel(rows[:, kept], known, window, alpha, seed)
    if REQUESTS not in channels:
        raise UserError(
            f"{len(samples)} held-out requests are too few for monitor.window = {window}: {needed} are needed. "
            "Hold out more or use a smaller window."
        )
    reference = {"format": FORMAT, "window": window, "samples": len(samples), "channels": channels}
    FeatureMonitor(reference, window=window, alpha=alpha, confirm=confirm)  # refuses what it could not watch
    return reference


def _channels(samples: Sequence[FeatureSample]) -> dict[str, list[str]]:
    names = sorted({name for sample in samples for name in sample})
    return {REQUESTS: [name for name in names if name != ERROR], ERROR: [name for name in names if name == ERROR]}


def _concerns(channel: str, names: Sequence[str], sample: FeatureSample) -> bool:
    """A request without a single number is one all the same; an error that is no number has not arrived."""
    if channel == ERROR:
        return math.isfinite(number(sample.get(ERROR)))
    return any(name in sample for name in names)


def _channel(rows: Floats, names: list[str], window: int, alpha: float, seed: int) -> dict[str, Any]:
    block = neighbours(rows)
    features = [
        Feature.fit(name, column, window=window, block=block) for name, column in zip(names, rows.T, strict=True)
    ]
    start = partial(FeatureStream, rows, features, window)
    return {
        "block": block,
        "features": [feature.to_json() for feature in features],
        **calibrate(len(rows), block=block, alpha=alpha, seed=seed, start=start),
    }


class _Channel:
    """Features that come together: their window and the rule on its scores."""

    def __init__(self, name: str, reference: dict[str, Any], window: int, alpha: float, confirm: int) -> None:
        self.name = name
        self.features = [Feature.from_json(feature) for feature in reference["features"]]
        self.names = [feature.name for feature in self.features]
        self.tests = [(feature.name, feature.test) for feature in self.features]
        self.window = FeatureWindow(self.features, window)
        self.rule = Rule(reference, alpha=alpha, confirm=confirm)

    def update(self, sample: FeatureSample) -> None:
        if not _concerns(self.name, self.names, sample):
            return
        if (scores := self.window.update(columns([sample], self.names)[0])) is not None:
            self.rule.update(scores)

    def reset(self) -> None:
        self.window.rows.clear()
        self.rule.reset()


class FeatureMonitor:
    """Raises the alarm when `confirm` windows in a row of one channel are each beyond the threshold of a feature.

    On streams without drift that happens with probability `alpha` a window. Deterministic; `to_json` is the whole
    state beside the reference. Raises UserError if the reference does not fit.
    """

    def __init__(self, reference: dict[str, Any], *, window: int, alpha: float, confirm: int) -> None:
        if reference.get("format") != FORMAT or "channels" not in reference:
            raise UserError("the drift reference is not one of features in today's format. Make it again.")
        if reference["window"] != window:
            raise UserError(
                f"monitor.window = {window}, but the model's reference was made for {reference['window']} requests. "
                "Use that, or package the model again."
            )
        self.window, self.alpha, self.confirm = window, alpha, confirm
        self.channels = {
            name: _Channel(name, channel, window, alpha, confirm) for name, channel in reference["channels"].items()
        }
        self.samples = 0

    @property
    def windows(self) -> int:
        """Complete ones, of all channels together."""
        return sum(channel.rule.windows for channel in self.channels.values())

    @property
    def alarm(self) -> bool:
        return any(channel.rule.alarm for channel in self.channels.values())

    def reset(self) -> None:
        """Starts to listen anew, for example after a retraining has looked at the alarm."""
        for channel in self.channels.values():
            channel.reset()

    def update(self, sample: FeatureSample) -> bool:
        """A request, its error, or both; unknown names are passed over. Returns whether the alarm is on."""
        self.samples += 1
        for channel in self.channels.values():
            channel.update(sample)
        return self.alarm

    def state(self) -> DriftState:
        """Of all channels; `in_a_row` of the one with the most."""
        states = [channel.rule.state(channel.tests, self.samples) for channel in self.channels.values()]
        return DriftState(
            alarm=self.alarm,
            windows=self.windows,
            samples=self.samples,
            in_a_row=max(state.in_a_row for state in states),
            beyond=tuple(pair for state in states for pair in state.beyond),
            scores={feature: tests for state in states for feature, tests in state.scores.items()},
        )

    def to_json(self) -> dict[str, Any]:
        channels = {
            name: channel.rule.to_json() | {"rows": channel.window.to_json()} for name, channel in self.channels.items()
        }
        rule = {"window": self.window, "alpha": self.alpha, "confirm": self.confirm}
        return {**rule, "samples": self.samples, "channels": channels}

    @classmethod
    def from_json(cls, reference: dict[str, Any], state: dict[str, Any]) -> FeatureMonitor:
        """Goes on as if nothing had happened."""
        monitor = cls(reference, window=state["window"], alpha=state["alpha"], confirm=state["confirm"])
        monitor.samples = state["samples"]
        for name, channel in monitor.channels.items():
            channel.rule.load(state["channels"][name])
            channel.window.load(state["channels"][name]["rows"])
        return monitor
