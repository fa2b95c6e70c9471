"""What the live tiles show of the requests, computed from the front's own metrics as Prometheus would."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from oliveira.monitoring.metrics import Metrics

WINDOW = 60.0  # seconds that the quantiles look back
STEP = 1.0  # seconds between two kept readings

Buckets = list[tuple[float, float]]  # (upper bound, count of all observations up to it)


class RequestFigures:
    """Call it for `requests_total`, and `ttft_p50`, `ttft_p95` in seconds over the last minute.

    The quantiles are None where there was no request. Safe to call from several threads, as often as one likes.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._histogram = metrics.time_to_first_token_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, Buckets]] = deque()

    def __call__(self) -> dict[str, Any]:
        now, present = self._clock(), self._read()
        with self._lock:
            if not self._kept or now - self._kept[-1][0] >= STEP:
                self._kept.append((now, present))
            while len(self._kept) > 1 and now - self._kept[0][0] > WINDOW:
                self._kept.popleft()
            past = self._kept[0][1]
        recent = [(bound, count - before) for (bound, count), (_, before) in zip(present, past, strict=True)]
        return {
            "requests_total": present[-1][1],
            "ttft_p50": quantile(0.5, recent),
            "ttft_p95": quantile(0.95, recent),
        }

    def _read(self) -> Buckets:
        (metric,) = self._histogram.collect()
        return [
            (float(sample.labels["le"]), sample.value) for sample in metric.samples if sample.name.endswith("_bucket")
        ]


def quantile(q: float, buckets: Buckets) -> float | None:
    """Prometheus' `histogram_quantile`: linear within a bucket, the largest finite bound beyond it."""
    total = buckets[-1][1]
    if total <= 0:
        return None
    for (low, before), (high, count) in pairwise([(0.0, 0.0), *buckets]):
        if count >= q * total:
            return low if math.isinf(high) else low + (high - low) * (q * total - before) / (count - before)
    return None
