"""What the server tells Prometheus: vLLM's metric names under the prefix `oliveira:`.

One process exposes (the front). It observes its own requests through the attributes below; what the loop
knows (drift, training, stages) arrives as rows of `ledger.gauges()` through `set_gauges`. What nobody has
reported yet is NaN, so that no alert mistakes "not known" for zero. Labels are bounded: after `MAX_SERIES`
values, further ones are counted under "other". Never a label per user, key or request.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "oliveira:"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 64
OTHER = "other"

# Of the front and its machine; all others are of a life, and carry its name as the label `model`.
OF_THE_HOME = frozenset(
    PREFIX + name
    for name in ("request_errors", "auth_failures", "rejected", "queue_capacity", "disk_free_bytes", "disk_size_bytes")
)

# The number that `oliveira:stage_state{stage}` shows.
STAGE_STATE = {"pending": 0, "running": 1, "done": 2, "failed": 3}

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)
# vLLM's request buckets, with finer ones below for models as small as ours.
# fmt: off
REQUEST = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)
# fmt: on
SWAP = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Counters that the loop keeps in the ledger. Those of expected labels start at zero: `increase()` sees the first.
LEDGER_COUNTERS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "retrain_total": (
        "Retrainings that ended, by how.",
        {"result": ("promoted", "awaiting approval", "rejected", "failed")},
    ),
}

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")

Labels = tuple[tuple[str, str], ...]
Row = tuple[str, Mapping[str, str], float, float]


class BoundedCounter:
    """A counter with labels whose number of series cannot grow without end."""

    def __init__(self, counter: Counter, names: tuple[str, ...], expected: Iterable[tuple[str, ...]]) -> None:
        self._counter = counter
        self._names = names
        self._seen: set[tuple[str, ...]] = set(expected)
        for values in self._seen:
            counter.labels(*values)

    def labels(self, **values: str) -> Counter:
        key = tuple(str(values[name]) for name in self._names)
        if len(values) != len(self._names):
            raise ValueError(f"labels are {self._names}, not {tuple(values)}")
        if key not in self._seen:
            if len(self._seen) >= MAX_SERIES:
                key = (OTHER,) * len(key)
            self._seen.add(key)
        return self._counter.labels(*key)


class _LedgerRows(Collector):
    """The rows without a metric of their own: counters of the loop, gauges that a later room invents."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Labels, float]] = {}

    def collect(self) -> Iterable[Metric]:
        for name, series in self.rows.items():
            text, _ = LEDGER_COUNTERS.get(name, (f"{name}, as the loop reports it.", {}))
            if name.endswith("_total"):
                family: Metric = CounterMetricFamily(PREFIX + name, text)
                sample = PREFIX + name
            else:
                family = GaugeMetricFamily(PREFIX + name, text)
                sample = PREFIX + name
            for labels, value in series.items():
                family.add_sample(sample, dict(labels), value)
            yield family


class Metrics:
    """Every metric of the server on a registry of its own. Attributes carry the name without the prefix."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        self.registry = CollectorRegistry()
        self._gauges: dict[str, tuple[Gauge, tuple[str, ...]]] = {}

        # Load, as the Gateway API inference extension reads it: queue length and KV use.
        self.num_requests_running = self._gauge("num_requests_running", "Streams being decoded.", start=0)
        self.num_requests_waiting = self._gauge("num_requests_waiting", "Requests in the queue.", start=0)
        self.queue_capacity = self._gauge("queue_capacity", "Requests that may wait; the next one gets 429.")
        self.kv_cache_usage_perc = self._gauge("kv_cache_usage_perc", "Share of the KV cache in use.", start=0)

        self.engine_asleep = self._gauge("engine_asleep", "1 while its engine waits for a request.", start=0)
        self.engine_memory_bytes = self._gauge("engine_memory_bytes", "Resident memory of its engines.", start=0)
        self.attention_cache_on = self._gauge(
            "attention_cache_on", "0 once the attention cache has broken; NaN where there is none."
        )

        # Requests.
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From the arrival of a request to its first token.", FIRST_TOKEN
        )
        self.inter_token_latency_seconds = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of one stream.", BETWEEN_TOKENS
        )
        self.e2e_request_latency_seconds = self._histogram(
            "e2e_request_latency_seconds", "From the arrival of a request to its last token.", REQUEST
        )
        self.request_queue_time_seconds = self._histogram("request_queue_time_seconds", "Waiting for a slot.", REQUEST)
        self.request_prefill_time_seconds = self._histogram(
            "request_prefill_time_seconds", "From the slot to the first token.", REQUEST
        )
        self.request_decode_time_seconds = self._histogram(
            "request_decode_time_seconds", "From the first token to the last.", REQUEST
        )
        self.prompt_tokens_total = self._counter("prompt_tokens_total", "Tokens read.")
        self.prompt_tokens_cached_total = self._counter(
            "prompt_tokens_cached_total", "Tokens of prompts found in the attention cache instead of computed."
        )
        self.spec_decode_num_draft_tokens_total = self._counter(
            "spec_decode_num_draft_tokens_total", "Tokens guessed by speculative decoding."
        )
        self.spec_decode_num_accepted_tokens_total = self._counter(
            "spec_decode_num_accepted_tokens_total", "Guesses that were right."
        )
        self.generation_tokens_total = self._counter("generation_tokens_total", "Tokens written.")
        self.request_success_total = self._bounded(
            "request_success_total", "Requests answered.", {"finished_reason": ("stop", "length", "abort")}
        )
        self.request_errors_total = self._bounded(
            "request_errors_total",
            "Answers with an error status.",
            {"code": ("400", "401", "429", "500", "503")},
        )
        self.auth_failures_total = self._counter("auth_failures_total", "Requests without a valid key.")
        self.rejected_total = self._bounded(
            "rejected_total", "Requests refused before any work.", {"reason": ("queue_full", "draining")}
        )
        self.traffic_dropped_total = self._counter("traffic_dropped_total", "Requests the traffic log could not keep.")

        # The model being served.
        self.model_info = self._gauge("model_info", "The served artifact; always 1.", "version", "digest")
        self.swap_total = self._bounded("swap_total", "Swaps of the served model.", {"result": ("ok", "failed")})
        self.swap_seconds = self._histogram("swap_seconds", "From a new champion to its service.", SWAP)
        self.champion_age_seconds = self._gauge("champion_age_seconds", "Since the model became champion.")

        # Reported by the loop through the ledger.
        self.drift_score = self._gauge("drift_score", "Distance from the reference.", "feature", "test")
        self.drift_pvalue = self._gauge("drift_pvalue", "Share of driftless streams as far.", "feature", "test")
        self.drift_alarm = self._gauge("drift_alarm", "1 from a drift until the loop has answered.", start=0)
        self.train_loss = self._gauge("train_loss", "Last training loss, nats a token.")
        self.train_step = self._gauge("train_step", "Last optimiser step.")
        self.checkpoint_age_seconds = self._gauge("checkpoint_age_seconds", "Since the last checkpoint.")
        self.stage_state = self._gauge("stage_state", f"State of a stage: {STAGE_STATE}.", "stage")

        # The ground it stands on.
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Free where the home lies.")
        self.disk_size_bytes = self._gauge("disk_size_bytes", "Size of the disk where the home lies.")
        self.integrity_check_ok = self._gauge("integrity_check_ok", "1 if ledger and champion passed the last check.")
        self.gauge_rows_dropped_total = self._counter(
            "gauge_rows_dropped_total",
            "Rows of the ledger that could not be exposed (name, label, too many).",
        )

        self._ledger_rows = _LedgerRows()
        self.registry.register(self._ledger_rows)
        self._reported: set[str] = set()
        self.set_gauges([])

    def _gauge(self, name: str, text: str, *labels: str, start: float = math.nan) -> Gauge:
        gauge = Gauge(PREFIX + name, text, labels, registry=self.registry)
        if not labels:
            gauge.set(start)
        self._gauges[name] = (gauge, labels)
        return gauge

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(PREFIX + name, text, registry=self.registry)

    def _bounded(self, name: str, text: str, expected: dict[str, tuple[str, ...]]) -> BoundedCounter:
        names = tuple(expected)
        counter = Counter(PREFIX + name, text, names, registry=self.registry)
        return BoundedCounter(counter, names, itertools.product(*expected.values()))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, registry=self.registry, buckets=buckets)

    def set_model(self, version: str, digest: str) -> None:
        """The artifact that answers from now on: one series, the older one disappears."""
        self.model_info.clear()
        self.model_info.labels(version=version, digest=digest).set(1)

    def set_gauges(self, rows: Iterable[Row]) -> None:
        """Takes over the rows (name, labels, value, time) of `ledger.gauges()`.

        A known gauge is set; another name becomes `oliveira:<name>`, a counter if it ends in `_total`. A row
        that would make the exposition invalid (bad name or labels, a name the front counts itself) is dropped
        and counted.
        """
        groups: dict[str, dict[Labels, float]] = {
            name: {tuple(zip(labels, values, strict=True)): 0.0 for values in itertools.product(*labels.values())}
            for name, (_, labels) in LEDGER_COUNTERS.items()
        }
        for name, labels, value, _ in rows:
            key = self._key(name, labels)
            series = groups.setdefault(name, {}) if key is not None else {}
            if key is None or len(series) >= MAX_SERIES:
                self.gauge_rows_dropped_total.inc()
            else:
                series[key] = float(value)
        known = {name: series for name, series in groups.items() if name in self._gauges}
        self._ledger_rows.rows = {name: series for name, series in groups.items() if name not in known}
        for name in self._reported | known.keys():
            gauge, names = self._gauges[name]
            if names:
                gauge.clear()
            for key, value in known.get(name, {}).items():
                (gauge.labels(**dict(key)) if names else gauge).set(value)
        self._reported = set(known)

    def _key(self, name: str, labels: Mapping[str, str]) -> Labels | None:
        """The labels in the metric's own order, or None if this row cannot be exposed."""
        if name in self._gauges:
            names = self._gauges[name][1]
        elif _NAME.match(name) and not self._taken(name) and all(_valid_label(label) for label in labels):
            names = tuple(sorted(labels))
        else:
            return None
        return tuple((label, str(labels[label])) for label in names) if set(names) == set(labels) else None

    def _taken(self, name: str) -> bool:
        """True if this process counts `oliveira:<name>` itself, or if it is one of a histogram's series."""
        return hasattr(self, name) or hasattr(self, re.sub(r"_(bucket|sum|count)\Z", "", name))

    def render(self) -> bytes:
        """The text exposition, to be served with `CONTENT_TYPE`."""
        return generate_latest(self.registry)


class _Together(Collector):
    def __init__(self, home: Metrics, lives: Mapping[str, Metrics]) -> None:
        self._home, self._lives = home, lives

    def collect(self) -> Iterable[Metric]:
        yield from (family for family in self._home.registry.collect() if family.name in OF_THE_HOME)
        families: dict[str, Metric] = {}
        for name, metrics in self._lives.items():
            for family in metrics.registry.collect():
                if family.name not in OF_THE_HOME:
                    samples = [sample._replace(labels={**sample.labels, "model": name}) for sample in family.samples]
                    families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    families[family.name].samples += samples
        yield from families.values()


def exposition(home: Metrics, lives: Mapping[str, Metrics]) -> bytes:
    """What the front says of itself, and of every life by the label `model`."""
    registry = CollectorRegistry()
    registry.register(_Together(home, lives))
    return generate_latest(registry)


def _valid_label(label: Any) -> bool:
    return isinstance(label, str) and bool(_NAME.match(label)) and not label.startswith("__")
