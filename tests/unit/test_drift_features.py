"""Drift on named numbers: the distances, the rule, and what it does on streams whose drift is known."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from oliveira.errors import UserError
from oliveira.monitoring.calibration import CONVERSATION
from oliveira.monitoring.feature_statistics import FARTHEST, Feature, block_of, rare_allowed
from oliveira.monitoring.features import (
    FeatureMonitor,
    build_feature_reference,
    measure_feature_delay,
    measure_feature_false_alarms,
)

WINDOW, ALPHA, CONFIRM = 60, 1e-3, 2
RULE: dict[str, Any] = {"window": WINDOW, "alpha": ALPHA, "confirm": CONFIRM}


def stream(seed: int, count: int, **change: Any) -> list[dict[str, float]]:
    """Requests with a level, a skewed spread, three classes, a constant, and how wrong the answer was."""
    rng = np.random.default_rng(seed)
    shares = change.get("shares", (0.6, 0.3, 0.1))
    return [
        {
            "level": float(rng.normal(change.get("mean", 0.0), change.get("deviation", 1.0))),
            "spread": float(rng.gamma(2.0)),
            "class": int(rng.choice(3, p=shares)),
            "constant": 1.0,
            "error": float(rng.gamma(2.0) * change.get("worse", 1.0)),
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def known() -> list[dict[str, float]]:
    return stream(0, 600)


@pytest.fixture(scope="module")
def reference(known: list[dict[str, float]]) -> dict[str, Any]:
    made = build_feature_reference(known, **RULE, seed=0)
    return dict(json.loads(json.dumps(made, allow_nan=False)))


def alarms(reference: dict[str, Any], samples: Iterator[Any] | list[Any]) -> int:
    monitor = FeatureMonitor(reference, **RULE)
    raised = 0
    for sample in samples:
        if monitor.update(sample):
            raised += 1
            monitor.reset()
    return raised


# The distances ---------------------------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    shares = Feature("class", np.array([0.0, 2]), np.array([0.75, 0.25]))
    assert shares.score(np.array([0.0, 0, 0, 2])) == 0
    assert shares.score(np.array([2.0, 2, 2, 0])) == pytest.approx(0.5)
    assert shares.score(np.array([1.0, 1, 9, 9])) == 1, "values never seen"
    lenient = Feature("class", shares.values, shares.shares, allowed=2)
    assert lenient.score(np.array([1.0, 1, 9, 9])) == 0.5 and lenient.score(np.array([9.0, 9])) == 0
    values = np.random.default_rng(0).normal(5, 2, size=4001)
    feature = Feature.fit("level", values, window=60, block=1)
    assert feature.score(np.sort(values)[20::40]) < 0.02
    assert feature.score(values + 4) == pytest.approx(2, rel=0.05), "in standard deviations"
    assert feature.score(values * 0 + 1e30) == pytest.approx(FARTHEST, rel=0.05)


def test_shift_is_scipys() -> None:
    rng = np.random.default_rng(0)
    values, window = rng.normal(size=1000), rng.normal(0.3, 1.5, size=50)
    feature = Feature.fit("level", values, window=60, block=1)
    wanted = wasserstein_distance(values, window) / feature._units[1]
    assert feature.score(window) == pytest.approx(wanted, rel=0.02)


def test_rare_values_are_one_and_some_of_them_are_allowed() -> None:
    column = np.array([0.0] * 940 + [1.0] * 51 + [2.0] * 5 + [3.0] * 4)
    feature = Feature.fit("rare", column, window=60, block=1)
    assert feature.values.tolist() == [0, 1] and feature.shares == pytest.approx([940 / 991, 51 / 991])
    assert rare_allowed(60, 9, 1000) == feature.allowed == 6
    assert rare_allowed(60, 0, 1000) == 3 and rare_allowed(60, 0, 20) == 20 and rare_allowed(60, 5, 5) == 60
    again = feature.again(np.array([1.0, 1, 0, 0, 3]))
    assert again.shares is not None and again.shares.tolist() == [0.5, 0.5] and again.allowed == 6


def test_missing_values_count_for_nothing() -> None:
    feature = Feature.fit("level", np.arange(100.0), window=60, block=1)
    half = np.where(np.arange(40) % 2, math.nan, 500.0)
    assert feature.score(half) == pytest.approx(feature.score(np.full(20, 500.0)) * math.sqrt(0.5))
    assert feature.score(np.full(60, math.nan)) == 0
    assert Feature.fit("level", np.full(9, math.nan), window=60, block=1).score(np.arange(9.0)) == 0


def test_neighbours_that_are_alike_stay_together() -> None:
    rng = np.random.default_rng(0)
    alone = [{"level": value} for value in rng.normal(size=600)]
    walk = np.convolve(rng.normal(size=620), np.ones(21) / 21, mode="valid")
    assert block_of(alone) == CONVERSATION
    assert 20 <= block_of([{"level": value} for value in walk]) <= 60
    assert block_of([{"level": 1.0}] * 50) == block_of([]) == block_of([{}]) == CONVERSATION


# Without drift ---------------------------------------------------------------------------------------------------


def test_no_alarm_without_drift(reference: dict[str, Any]) -> None:
    """1,000 windows of requests and as many of errors: two alarms are expected at most, seven are p = 0.005."""
    assert alarms(reference, stream(1, WINDOW * 1000)) <= 6


def test_false_alarms_are_measured(known: list[dict[str, float]]) -> None:
    measured = measure_feature_false_alarms(known, 2000, **RULE, splits=2, seed=3)
    assert measured["windows"] >= 2000 and measured["alarms"] <= 7
    assert measured["rate"] == measured["alarms"] / measured["windows"] <= measured["upper95"]


@pytest.mark.parametrize(
    "sample", [{}, {"level": math.nan, "class": None}, {"other": 5.0}, {"level": "x", "error": ""}]
)
def test_a_window_without_a_number_is_no_alarm(reference: dict[str, Any], sample: dict[str, Any]) -> None:
    monitor = FeatureMonitor(reference, **RULE)
    for _ in range(WINDOW * 4):
        assert not monitor.update(sample)
        json.dumps(monitor.to_json(), allow_nan=False)
    for tests in monitor.state().scores.values():
        for score, pvalue in tests.values():
            assert score == 0 and pvalue is not None and pvalue > 0.9


def test_a_feature_that_comes_seldom_is_no_alarm(reference: dict[str, Any]) -> None:
    """Nine of ten levels are missing: what is left of a window is noisy, and counts accordingly."""
    samples = stream(2, WINDOW * 100)
    for place, sample in enumerate(samples):
        if place % 10:
            sample["level"] = math.nan
    assert alarms(reference, samples) <= 1


def test_a_single_odd_value_of_a_constant_is_no_alarm(reference: dict[str, Any]) -> None:
    samples = stream(3, WINDOW * 50)
    for sample in samples[::WINDOW]:
        sample["constant"] = 7.0
    assert alarms(reference, samples) == 0


def test_samples_that_are_all_alike_make_a_reference() -> None:
    same = [{"level": 2.0, "class": 1}] * 200
    built = build_feature_reference(same, **RULE)
    assert alarms(built, same * 10) == 0
    assert alarms(built, [{"level": 3.0, "class": 1}] * WINDOW * 2) == 1


def test_a_value_that_is_rare_is_no_alarm() -> None:
    """One request in 150: most windows of the reference have none, and a live one with two is nothing new."""

    def rare(seed: int, count: int) -> list[dict[str, float]]:
        drawn = np.random.default_rng(seed).random(count) < 1 / 150
        return [{"rare": float(value)} for value in drawn]

    assert alarms(build_feature_reference(rare(0, 600), **RULE), rare(1, WINDOW * 1000)) <= 2


# With drift ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"mean": 1.0}, "level"),
        ({"deviation": 3.0}, "level"),
        ({"shares": (0.1, 0.3, 0.6)}, "class"),
        ({"worse": 2.0}, "error"),
        ({}, ""),
    ],
)
def test_drift_is_found_and_named(reference: dict[str, Any], change: dict[str, Any], found: str) -> None:
    monitor = FeatureMonitor(reference, **RULE)
    for sample in stream(4, WINDOW * 10, **change):
        monitor.update(sample)
    state = monitor.state()
    assert state.alarm == bool(found)
    assert {feature for feature, _ in state.beyond} == ({found} if found else set())


def test_a_constant_that_varies_is_drift(reference: dict[str, Any]) -> None:
    samples = stream(5, WINDOW * 4)
    for place, sample in enumerate(samples):
        sample["constant"] = 1.0 + place % 3
    assert alarms(reference, samples) == 2


def test_errors_fill_a_window_by_themselves(reference: dict[str, Any]) -> None:
    """Truths arrive late and seldom: one for every fourth request, each by itself."""
    monitor = FeatureMonitor(reference, **RULE)
    for place, sample in enumerate(stream(6, WINDOW * 8, worse=3.0)):
        error = sample.pop("error")
        assert not monitor.update(sample)
        if place % 4 == 0 and monitor.update({"error": error}):
            break
    state = monitor.state()
    assert state.alarm and {feature for feature, _ in state.beyond} == {"error"}
    assert state.windows == 8 + 1 and state.in_a_row == 2


def test_the_delay_is_measured(known: list[dict[str, float]]) -> None:
    measured = measure_feature_delay(known, stream(7, 200, mean=2.0), **RULE, trials=5)
    assert measured["detected"] == 5 and measured["max"] <= 3 * WINDOW
    assert measured["beyond"]["level shift"] == 5
    assert measure_feature_delay(known, stream(8, 200), **RULE, trials=3)["detected"] == 0


def test_only_a_reference_of_blocks_expects_neighbours_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that wanders, slower than a window is long. A reference that takes requests for independent alarms."""

    def walk(seed: int, count: int) -> list[dict[str, float]]:
        noise = np.random.default_rng(seed).normal(size=count + 40)
        return [{"level": float(value)} for value in np.convolve(noise, np.ones(41), mode="valid")]

    known, live = walk(0, 2000), walk(1, WINDOW * 300)
    assert alarms(build_feature_reference(known, **RULE), live) <= 2
    monkeypatch.setattr("oliveira.monitoring.feature_monitor.neighbours", lambda rows: CONVERSATION)
    assert alarms(build_feature_reference(known, **RULE), live) >= 10


# The state -------------------------------------------------------------------------------------------------------


def test_deterministic_and_resumable_anywhere(known: list[dict[str, float]], reference: dict[str, Any]) -> None:
    assert json.dumps(build_feature_reference(known, **RULE, seed=0)) == json.dumps(reference)
    whole, parts = FeatureMonitor(reference, **RULE), FeatureMonitor(reference, **RULE)
    for step, sample in enumerate(stream(9, 500, mean=0.5)):
        odd = sample | {"level": math.nan} if step % 7 == 0 else sample
        whole.update(odd)
        parts.update(odd)
        if step % 33 == 0:
            parts = FeatureMonitor.from_json(reference, json.loads(json.dumps(parts.to_json(), allow_nan=False)))
    assert parts.state() == whole.state() and parts.to_json() == whole.to_json()


def test_too_few_samples_are_refused(known: list[dict[str, float]]) -> None:
    with pytest.raises(UserError, match=r"119 held-out requests .* 120 are needed"):
        build_feature_reference(known[:119], **RULE)
    with pytest.raises(UserError, match="20 are needed"):
        build_feature_reference([], window=2, alpha=ALPHA, confirm=CONFIRM)
    assert "error" not in build_feature_reference([{"level": s["level"]} for s in known], **RULE)["channels"]


@pytest.mark.parametrize(
    ("changes", "named"), [({"window": 50}, "monitor.window"), ({"confirm": 9}, "confirm"), ({"alpha": 0.0}, "alpha")]
)
def test_a_rule_that_does_not_fit_is_refused(reference: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FeatureMonitor(reference, **(RULE | changes))


def test_a_reference_of_text_is_refused() -> None:
    with pytest.raises(UserError, match="not one of features"):
        FeatureMonitor({"format": 1, "window": WINDOW}, **RULE)
