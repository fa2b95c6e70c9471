"""How often the monitor is wrong, and how late: measured on real text before it may raise any alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from oliveira.monitoring.calibration import CONVERSATION, build_reference, resample, split_blocks
from oliveira.monitoring.detector import DriftMonitor
from oliveira.monitoring.statistics import Sample

GIVE_UP = 2000  # samples after which a drift counts as missed


def upper_bound(events: int, trials: int) -> float:
    """Exact one-sided 95 % upper bound of a probability (Clopper & Pearson 1934)."""
    return float(beta.ppf(0.95, events + 1, trials - events)) if events < trials else 1.0


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
    """False alarms on streams without drift.

    `splits` times the samples are cut in two halves by blocks: a reference is built from one, and a stream of
    n_windows / splits windows is resampled from the other. After an alarm the monitor is reset, as by the loop.
    Returns {windows, alarms, rate, upper95, alarms_by_split}; upper95 takes the windows as independent.
    """
    rng = np.random.default_rng(seed)
    samples = [sample for sample in samples if sample.tokens]
    alarms: list[int] = []
    windows = 0
    for split in range(splits):
        known, live = split_blocks(len(samples), block, rng)
        reference = build_reference(
            [samples[index] for index in known], window=window, alpha=alpha, seed=seed + split, block=block
        )
        monitor = DriftMonitor(reference, window=window, alpha=alpha, confirm=confirm)
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
    """Samples from the first drifted one to the alarm.

    The reference is built from `samples`; in each trial a stream resampled from them goes on, after 5 to 25
    windows, with one resampled from `drifted`. Returns {trials, detected, median, p95, max, beyond}: delays in
    samples over the detected trials (None if there is none), `beyond` how often each test was at the alarm.
    """
    rng = np.random.default_rng(seed)
    known = [sample for sample in samples if sample.tokens]
    new = [sample for sample in drifted if sample.tokens]
    reference = build_reference(known, window=window, alpha=alpha, seed=seed, block=block)
    delays: list[int] = []
    beyond: dict[str, int] = {}
    for _ in range(trials):
        monitor = DriftMonitor(reference, window=window, alpha=alpha, confirm=confirm)
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
