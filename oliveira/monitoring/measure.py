"""How often the monitor is wrong, and how late: measured on real text before it may raise any alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from scipy.stats import beta

from oliveira.monitoring.calibration import CONVERSATION, build_reference, resample, split_blocks
from oliveira.monitoring.detector import DriftMonitor, DriftState
from oliveira.monitoring.feature_monitor import FeatureMonitor, build_feature_reference
from oliveira.monitoring.feature_statistics import FeatureSample, block_of
from oliveira.monitoring.statistics import Sample

GIVE_UP = 2000  # samples after which a drift counts as missed


def upper_bound(events: int, trials: int) -> float:
    """Exact one-sided 95 % upper bound of a probability (Clopper & Pearson 1934)."""
    return float(beta.ppf(0.95, events + 1, trials - events)) if events < trials else 1.0


class Monitor(Protocol):
    @property
    def windows(self) -> int: ...

    def update(self, sample: Any, /) -> bool: ...

    def reset(self) -> None: ...

    def state(self) -> DriftState: ...


# Samples of a reference and a seed → what opens monitors of that reference.
Build = Callable[[list[Any], int], Callable[[], Monitor]]


def _text_monitors(window: int, alpha: float, confirm: int, block: int, samples: list[Sample], seed: int) -> Any:
    reference = build_reference(samples, window=window, alpha=alpha, seed=seed, block=block)
    return partial(DriftMonitor, reference, window=window, alpha=alpha, confirm=confirm)


def _feature_monitors(window: int, alpha: float, confirm: int, samples: list[FeatureSample], seed: int) -> Any:
    rule: dict[str, Any] = {"window": window, "alpha": alpha, "confirm": confirm}
    return partial(FeatureMonitor, build_feature_reference(samples, **rule, seed=seed), **rule)


def measure_false_alarms(
    samples: Sequence[Sample],
    n_windows: int = 10_000,
    *,
    window: int,
    alpha: float,
    confirm: int,
    seed: int = 0,
    splits: int = 5,
    block: int = CONVERSATION,
) -> dict[str, Any]:
    """False alarms of the text monitor on streams without drift: see `_false_alarms`."""
    known = [sample for sample in samples if sample.tokens]
    return _false_alarms(known, n_windows, splits, block, seed, partial(_text_monitors, window, alpha, confirm, block))


def measure_feature_false_alarms(
    samples: Sequence[FeatureSample],
    n_windows: int = 10_000,
    *,
    window: int,
    alpha: float,
    confirm: int,
    seed: int = 0,
    splits: int = 5,
) -> dict[str, Any]:
    """False alarms of the feature monitor on streams without drift: see `_false_alarms`."""
    build = partial(_feature_monitors, window, alpha, confirm)
    return _false_alarms(samples, n_windows, splits, block_of(samples), seed, build)


def _false_alarms(
    samples: Sequence[Any], n_windows: int, splits: int, block: int, seed: int, build: Build
) -> dict[str, Any]:
    """False alarms on streams without drift.

    `splits` times the samples are cut in two halves by blocks: a reference is built from one, and a stream of
    n_windows / splits windows is resampled from the other. After an alarm the monitor is reset, as by the loop.
    Returns {windows, alarms, rate, upper95, alarms_by_split}; upper95 takes the windows as independent.
    """
    rng = np.random.default_rng(seed)
    alarms: list[int] = []
    windows = 0
    for split in range(splits):
        known, live = split_blocks(len(samples), block, rng)
        monitor = build([samples[index] for index in known], seed + split)()
        raised = 0
        while monitor.windows < -(-n_windows // splits):
            for index in resample(live, block, block, rng):
                if monitor.update(samples[index]):
                    raised += 1
                    monitor.reset()
        windows += monitor.windows
        alarms.append(raised)
    total = sum(alarms)
    return {
        "windows": windows,
        "alarms": total,
        "rate": total / windows,
        "upper95": upper_bound(total, windows),
        "alarms_by_split": alarms,
    }


def measure_delay(
    samples: Sequence[Sample],
    drifted: Sequence[Sample],
    *,
    window: int,
    alpha: float,
    confirm: int,
    seed: int = 0,
    trials: int = 20,
    block: int = CONVERSATION,
) -> dict[str, Any]:
    """Samples from the first drifted one to the alarm of the text monitor: see `_delay`."""
    known, new = ([sample for sample in stream if sample.tokens] for stream in (samples, drifted))
    return _delay(known, new, trials, block, seed, partial(_text_monitors, window, alpha, confirm, block))


def measure_feature_delay(
    samples: Sequence[FeatureSample],
    drifted: Sequence[FeatureSample],
    *,
    window: int,
    alpha: float,
    confirm: int,
    seed: int = 0,
    trials: int = 20,
) -> dict[str, Any]:
    """Samples from the first drifted one to the alarm of the feature monitor: see `_delay`."""
    build = partial(_feature_monitors, window, alpha, confirm)
    return _delay(samples, drifted, trials, block_of(samples), seed, build)


def _delay(
    known: Sequence[Any], new: Sequence[Any], trials: int, block: int, seed: int, build: Build
) -> dict[str, Any]:
    """Samples from the first drifted one to the alarm.

    The reference is built from `known`; in each trial a stream resampled from them goes on, after 5 to 25
    windows, with one resampled from `new`. Returns {trials, detected, median, p95, max, beyond}: delays in
    samples over the detected trials (None if there is none), `beyond` how often each test was at the alarm.
    """
    rng = np.random.default_rng(seed)
    start = build(list(known), seed)
    delays: list[int] = []
    beyond: dict[str, int] = {}
    for _ in range(trials):
        monitor = start()
        quiet = int(rng.integers(5, 26))
        while monitor.windows < quiet:
            for index in resample(np.arange(len(known)), block, block, rng):
                if monitor.update(known[index]):
                    monitor.reset()
        stream = resample(np.arange(len(new)), min(block, len(new)), GIVE_UP, rng)
        for delay, index in enumerate(stream, start=1):
            if monitor.update(new[index]):
                delays.append(delay)
                for feature, test in monitor.state().beyond:
                    beyond[f"{feature} {test}"] = beyond.get(f"{feature} {test}", 0) + 1
                break
    return {
        "trials": trials,
        "detected": len(delays),
        "median": float(np.median(delays)) if delays else None,
        "p95": float(np.quantile(delays, 0.95)) if delays else None,
        "max": max(delays) if delays else None,
        "beyond": beyond,
    }
