"""A B A B: two ways of doing the same work in turn, so that a machine that drifts does not choose the winner."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    ours: float  # median seconds
    peer: float
    ratio: float  # peer / ours, median over the rounds: above 1 = ours is faster
    low: float  # smallest and largest ratio seen
    high: float


def interleave(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int = 7,
    between: Callable[[], object] = lambda: None,
) -> Pair:
    """One warm-up of each, then `rounds` pairs. `between` runs before every turn and is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for work, kept in zip((ours, peer), times, strict=True):
            between()
            started = time.perf_counter()
            work()
            if turn:
                kept.append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return Pair(*map(statistics.median, times), statistics.median(ratios), min(ratios), max(ratios))
