"""The names that alerts and dashboards read, in an exposition that stays valid whatever is reported."""

import math
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oliveira.monitoring.metrics import LEDGER_COUNTERS, MAX_SERIES, PREFIX, Metrics

# lifecycle.md §3.2, as far as there is something to feed them.
NAMES = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "request_errors_total",
    "auth_failures_total",
    "rejected_total",
    "model_info",
    "swap_total",
    "swap_seconds",
    "drift_score",
    "drift_pvalue",
    "drift_alarm",
    "train_loss",
    "train_step",
    "checkpoint_age_seconds",
    "stage_state",
    "disk_free_bytes",
    "integrity_check_ok",
]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample that Prometheus would read; a series that appears twice fails here as it fails there."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            key = (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items())))
            assert sample.name.startswith(PREFIX)
            assert key not in found, f"{key} twice: Prometheus refuses the scrape"
            found[key] = sample.value
    return found


def test_every_name_is_an_attribute_and_is_exposed() -> None:
    metrics = Metrics()
    text = metrics.render().decode()
    for name in [*NAMES, *LEDGER_COUNTERS]:
        assert f"# TYPE {PREFIX}{name} " in text
    assert all(hasattr(metrics, name) for name in NAMES)
    assert "_created" not in text


def test_observations_arrive() -> None:
    metrics = Metrics()
    metrics.request_errors_total.labels(code="400").inc()
    metrics.time_to_first_token_seconds.observe(0.03)
    metrics.num_requests_waiting.set(3)
    metrics.set_model("1", "a" * 16)
    metrics.set_model("2", "b" * 16)
    found = samples(metrics)
    assert found["request_errors_total", (("code", "400"),)] == 1
    assert found["time_to_first_token_seconds_bucket", (("le", "0.02"),)] == 0
    assert found["time_to_first_token_seconds_bucket", (("le", "0.04"),)] == 1
    assert found["num_requests_waiting", ()] == 3
    assert [key for key in found if key[0] == "model_info"] == [
        ("model_info", (("digest", "b" * 16), ("version", "2")))
    ]


def test_unknown_is_not_zero() -> None:
    """`integrity_check_ok == 0` and `disk_free_bytes < …` must not fire before anybody looked."""
    found = samples(Metrics())
    for name in (
        "integrity_check_ok",
        "disk_free_bytes",
        "train_loss",
        "checkpoint_age_seconds",
        "champion_age_seconds",
    ):
        assert math.isnan(found[name, ()])


def test_labels_stay_bounded() -> None:
    metrics = Metrics()
    for number in range(10 * MAX_SERIES):
        metrics.rejected_total.labels(reason=f"reason-{number}").inc()
    series = {key: value for key, value in samples(metrics).items() if key[0] == "rejected_total"}
    assert len(series) <= MAX_SERIES + 1
    assert series["rejected_total", (("reason", "other"),)] > 8 * MAX_SERIES
    assert sum(series.values()) == 10 * MAX_SERIES
    with pytest.raises(KeyError):
        metrics.rejected_total.labels(user="somebody")


def test_ledger_rows_are_taken_over_and_vanish_with_their_source() -> None:
    metrics = Metrics()
    metrics.set_model("1", "a")
    failed = {"result": "failed"}
    assert samples(metrics)["retrain_total", tuple(sorted(failed.items()))] == 0
    metrics.set_gauges(
        [
            ("drift_alarm", {}, 1.0, 0.0),
            ("stage_state", {"stage": "train"}, 2.0, 0.0),
            ("retrain_total", failed, 3.0, 0.0),
            ("expert_load", {"expert": "7"}, 0.25, 0.0),
        ]
    )
    found = samples(metrics)
    assert found["drift_alarm", ()] == 1
    assert found["stage_state", (("stage", "train"),)] == 2
    assert found["retrain_total", tuple(sorted(failed.items()))] == 3
    assert found["expert_load", (("expert", "7"),)] == 0.25
    assert "# TYPE oliveira:retrain_total counter" in metrics.render().decode()
    metrics.set_gauges([("drift_alarm", {}, 0.0, 0.0)])
    found = samples(metrics)
    assert found["drift_alarm", ()] == 0
    assert not [key for key in found if key[0] in ("stage_state", "expert_load")]
    assert ("model_info", (("digest", "a"), ("version", "1"))) in found


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("swap_total", {"result": "ok"}),
        ("time_to_first_token_seconds_count", {}),
        ("bad name", {}),
        ("new\n", {}),
        ("stage_state", {}),
        ("stage_state", {"other": "x"}),
        ("new", {"bad label": "x"}),
        ("new", {"__name__": "up"}),
    ],
)
def test_a_row_that_would_break_the_scrape_is_dropped_and_counted(name: str, labels: dict[str, str]) -> None:
    metrics = Metrics()
    before = samples(metrics)
    metrics.set_gauges([(name, labels, 1.0, 0.0), ("drift_alarm", {}, 1.0, 0.0)])
    after = samples(metrics)
    assert after.keys() == before.keys()
    assert after["gauge_rows_dropped_total", ()] == 1
    assert after["drift_alarm", ()] == 1


def test_a_flood_of_rows_is_cut() -> None:
    metrics = Metrics()
    metrics.set_gauges([("flood", {"id": str(number)}, 1.0, 0.0) for number in range(10 * MAX_SERIES)])
    assert len([key for key in samples(metrics) if key[0] == "flood"]) == MAX_SERIES


def test_needs_no_tensors() -> None:
    """The front imports this room and must stay free of torch."""
    code = "import sys, oliveira.monitoring.metrics, oliveira.monitoring.drift; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
