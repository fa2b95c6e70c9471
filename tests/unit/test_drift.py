"""Drift: the statistics against their references, the rule, and what it does on real text."""

import importlib.resources
import json
import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.drift import PageHinkley
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, ks_2samp

from oliveira.errors import UserError
from oliveira.monitoring import calibration, statistics
from oliveira.monitoring.calibration import Tail, resample, split_blocks
from oliveira.monitoring.drift import (
    DriftMonitor,
    Sample,
    build_reference,
    measure_delay,
    measure_false_alarms,
)
from oliveira.monitoring.measure import upper_bound
from oliveira.monitoring.statistics import LossStream, TokenBins, ks_distance

WINDOW, ALPHA, CONFIRM = 400, 1e-4, 2
VOCABULARY = 4096
RULE: dict[str, Any] = {"window": WINDOW, "alpha": ALPHA, "confirm": CONFIRM}


def tokenise(text: str) -> list[int]:
    """A word is a token; its hash is its id."""
    return [zlib.crc32(word.encode()) % VOCABULARY for word in re.findall(r"\w+|[^\w\s]", text.lower())]


def texts(part: str, kind: str) -> list[str]:
    path = importlib.resources.files("bncc") / "dados" / f"{part}.json"
    return [entry["texto"] for entry in json.loads(path.read_text(encoding="utf-8"))[kind]]


class Unigram:
    """The simplest language model whose loss can drift: add-half smoothed token frequencies."""

    def __init__(self, training: Sequence[Sequence[int]]) -> None:
        self.counts = Counter(token for tokens in training for token in tokens)
        self.total = sum(self.counts.values()) + 0.5 * VOCABULARY

    def sample(self, tokens: list[int]) -> Sample:
        return Sample(tokens, sum(-math.log((self.counts[t] + 0.5) / self.total) for t in tokens) / len(tokens))


@pytest.fixture(scope="module")
def domains() -> tuple[list[Sample], list[Sample]]:
    """(held-out requests of the school curriculum, requests about computing), scored by a model of the former."""
    school = [tokenise(text) for text in texts("ensino-fundamental", "habilidades")]
    random.Random(0).shuffle(school)
    model = Unigram(school[:300])
    computing = [tokenise(text) for text in texts("computacao", "habilidades_ef")]
    return [model.sample(tokens) for tokens in school[300:]], [model.sample(tokens) for tokens in computing]


@pytest.fixture(scope="module")
def reference(domains: tuple[list[Sample], list[Sample]]) -> dict[str, Any]:
    return build_reference(domains[0], window=WINDOW, alpha=ALPHA, seed=0)


# The pieces ------------------------------------------------------------------------------------------------------


def test_ks_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (40, 600), (1, 1), (33, 33)):
        a, b = np.round(rng.normal(size=n), 1), np.round(rng.normal(0.5, size=m), 1)  # rounded: with ties
        assert ks_distance(np.sort(a), np.sort(b)) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 3))
def test_distances_are_never_nan(counts: list[int], times: int, shift: int) -> None:
    """Equal, proportional, nearly equal, one-bin and empty histograms: scipy's distance of some is NaN."""
    a = np.array(counts, dtype=float)
    b = np.roll(a * times, shift)
    for p, q in ((a, a), (a, b), (b, a), (a, np.zeros_like(a)), (a / 3, b / 7)):
        distance = statistics.js_distance(p, q)
        assert 0 <= distance <= 1
        assert shift or distance < 1e-7, "proportional histograms do not differ"
    losses = np.sort(a)
    assert ks_distance(losses, losses) == 0


def test_js_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.poisson(2, 50).astype(float), rng.poisson(2, 50).astype(float)
        assert statistics.js_distance(a, b) == pytest.approx(jensenshannon(a, b, base=2), abs=1e-12)
    assert statistics.js_distance(np.array([1.0, 0.0]), np.array([0.0, 5.0])) == 1


def test_a_window_equal_to_the_reference_is_the_opposite_of_drift() -> None:
    """Every window has the histogram of the reference; the monitor sees the drift that comes after."""
    samples = [Sample([number % 5, number % 10], 2.0 + 0.01 * (number % 5)) for number in range(400)]
    monitor = DriftMonitor(build_reference(samples, window=100, alpha=1e-2), window=100, alpha=1e-2, confirm=2)
    for sample in samples * 2:
        monitor.update(sample)
    json.dumps(monitor.to_json(), allow_nan=False)
    for _ in range(200):
        monitor.update(Sample([99, 98], 9.0))
    assert monitor.alarm


def test_a_blind_reference_is_refused(reference: dict[str, Any]) -> None:
    blind = json.loads(json.dumps(reference))
    for run in blind["runs"]:
        run["tests"][0]["scale"] = math.nan
    with pytest.raises(UserError, match="not a number"):
        DriftMonitor(blind, **RULE)


def test_page_hinkley_statistic_crosses_where_river_raises_its_flag() -> None:
    values = [*np.random.default_rng(0).normal(size=300), *np.random.default_rng(1).normal(1.0, size=300)]
    ours, rivers = statistics._PageHinkley(), PageHinkley(delta=statistics.SLACK, threshold=20.0)
    crossed = flagged = None
    for step, value in enumerate(values):
        ours.update(value)
        rivers.update(value)
        if crossed is None and ours.statistic > 20.0:
            crossed = step
        if flagged is None and rivers.drift_detected:
            flagged = step
    assert flagged is not None
    assert crossed == flagged
    assert 300 <= flagged < 360


def test_loss_stream_forgets_and_can_be_restarted() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 0.5, size=800)
    stream = LossStream(reference)
    for loss in rng.normal(3, 0.5, size=5 * statistics.HISTORY + 100):
        stream.update(float(loss))
    assert len(stream.history) <= statistics.HISTORY
    twin = LossStream(reference)
    twin.restart(stream.history)
    assert twin.scores() == stream.scores()


def test_bins_keep_the_common_and_hash_the_rare() -> None:
    samples = [Sample([token] * (2000 - token), 1.0) for token in range(1000)]
    bins = TokenBins.fit(samples)
    assert bins.top == list(range(statistics.TOP_TOKENS))
    counts = bins.counts([0, 0, 999, 4095, 65_000])
    assert counts[0] == 2
    assert counts[statistics.TOP_TOKENS :].sum() == 3


@pytest.mark.parametrize("draw", ["normal", "exponential", "constant"])
def test_pvalues_are_honest(draw: str) -> None:
    """Among fresh scores without drift, a p-value of at most p occurs with frequency at most about p."""
    rng = np.random.default_rng(0)

    def scores(*shape: int) -> np.ndarray:
        return np.ones(shape) if draw == "constant" else np.abs(getattr(rng, draw)(size=shape))

    tail = Tail.fit(scores(100, 40))
    fresh = tail.pvalues(scores(400_000))
    for p in (0.5, 0.1, 0.01, 1e-3, 1e-4):
        assert (fresh <= p).mean() <= 1.3 * p + 3e-5
        assert tail.pvalues(np.array(tail.score(p) + 1e-9)) <= p * 1.03
    if draw == "exponential":  # the tail is exact there, so it must not be merely cautious
        assert (fresh <= 1e-3).mean() >= 1e-4


def test_halves_are_disjoint_and_blocks_stay_together() -> None:
    rng = np.random.default_rng(0)
    first, second = split_blocks(103, 10, rng)
    assert sorted([*first, *second]) == list(range(103))
    drawn = resample(first, 10, 1000, rng)
    assert set(drawn) <= set(first)
    neighbours = np.diff(drawn) == 1
    assert neighbours.mean() > 0.75


def test_upper_bound_is_exact() -> None:
    assert upper_bound(0, 30_000) == pytest.approx(1 - 0.05 ** (1 / 30_000), rel=1e-9)  # about 3 / n
    assert upper_bound(5, 5) == 1.0


def test_few_blocks_widen_what_no_drift_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread known from n blocks may be too small by √((n − 1) / χ²(5 %, n − 1)): every tail is moved out by that."""
    scores = np.random.default_rng(0).gamma(2.0, size=(60, calibration.ROUND_WINDOWS, len(statistics.TESTS)))
    monkeypatch.setattr(calibration, "null_scores", lambda *args: scores)
    samples = [Sample([i % 7, i % 5, i % 3] * 10, 2.0 + i % 2) for i in range(40)]
    found = build_reference(samples, window=100, alpha=ALPHA, block=4)
    factor = math.sqrt(9 / chi2.ppf(0.05, 9))  # 40 samples in blocks of 4
    assert factor > 1.6
    for number, tail in enumerate(found["tails"]):
        own, middle = scores[:, :, number], np.median(scores[:, :, number])
        wanted = middle + factor * (np.quantile(own, np.linspace(0, 0.99, 100)) - middle)
        np.testing.assert_allclose(tail["quantiles"], wanted, rtol=1e-9)
    monkeypatch.setattr(calibration, "_widen", lambda scores, blocks: scores)
    narrow = build_reference(samples, window=100, alpha=ALPHA, block=4)
    for confirm in (1, 2):  # and the thresholds with them
        wide, bare = (calibration.thresholds(reference, ALPHA, confirm) for reference in (found, narrow))
        assert (wide > bare).all()


# The rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirm", [1, 2, 3])
def test_alarm_needs_as_many_windows_in_a_row(reference: dict[str, Any], confirm: int) -> None:
    monitor = DriftMonitor(reference, window=WINDOW, alpha=ALPHA, confirm=confirm)
    foreign = Sample(list(range(100_000, 100_000 + WINDOW)), 50.0)
    for step in range(confirm):
        assert not monitor.state().alarm
        monitor.update(foreign)
        assert monitor.state().in_a_row == step + 1
    state = monitor.state()
    assert state.alarm
    assert ("tokens", "js") in state.beyond
    score, pvalue = state.scores["tokens"]["js"]
    assert score > 0.8
    assert pvalue is not None and pvalue < 1e-4
    monitor.reset()
    assert not monitor.state().alarm
    assert monitor.windows == confirm


def test_a_single_strange_window_is_no_alarm(
    reference: dict[str, Any], domains: tuple[list[Sample], list[Sample]]
) -> None:
    monitor = DriftMonitor(reference, **RULE)
    seen = 0
    for sample in [
        *domains[0][:200],
        Sample(list(range(100_000, 100_000 + WINDOW)), 4.5),
        *domains[0][200:400],
    ]:
        monitor.update(sample)
        seen = max(seen, monitor.state().in_a_row)
    assert seen == 1
    assert not monitor.state().alarm


def test_deterministic_and_resumable_anywhere(
    reference: dict[str, Any], domains: tuple[list[Sample], list[Sample]]
) -> None:
    stream = [*domains[0], *domains[0], *domains[1]]
    whole = DriftMonitor(json.loads(json.dumps(reference)), **RULE)
    parts = DriftMonitor(reference, **RULE)
    for step, sample in enumerate(stream):
        whole.update(sample)
        parts.update(sample)
        if step % 97 == 0:
            parts = DriftMonitor.from_json(reference, json.loads(json.dumps(parts.to_json())))
    assert parts.state() == whole.state()
    assert parts.to_json() == whole.to_json()
    assert len(json.dumps(whole.to_json())) < 50_000


def test_reference_is_reproducible(domains: tuple[list[Sample], list[Sample]], reference: dict[str, Any]) -> None:
    again = build_reference(domains[0], window=WINDOW, alpha=ALPHA, seed=0)
    assert json.dumps(again) == json.dumps(reference)


def test_odd_samples(reference: dict[str, Any]) -> None:
    monitor = DriftMonitor(reference, **RULE)
    monitor.update(Sample([], 3.0))
    assert monitor.samples == 0
    monitor.update(Sample([7] * 100_000, 1e9))
    assert monitor.windows == 1
    for loss in (math.nan, math.inf):
        with pytest.raises(UserError, match="loss"):
            Sample([1], loss)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"window": 500}, "monitor.window"),
        ({"confirm": 9}, "monitor.confirm"),
        ({"alpha": 0.0}, "monitor.alpha"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(reference: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        DriftMonitor(reference, **(RULE | changes))


def test_too_little_text_is_refused(domains: tuple[list[Sample], list[Sample]]) -> None:
    with pytest.raises(UserError, match=r"monitor\.window"):
        build_reference(domains[0][:30], window=2000, alpha=ALPHA)
    with pytest.raises(UserError, match="samples"):
        build_reference(domains[0][:10], window=100, alpha=ALPHA)


def test_losses_without_spread_do_not_alarm() -> None:
    samples = [Sample([i % 7, i % 5, i % 3] * 10, 2.0) for i in range(200)]
    monitor = DriftMonitor(build_reference(samples, window=100, alpha=ALPHA), window=100, alpha=ALPHA, confirm=2)
    for sample in samples * 5:
        monitor.update(sample)
    assert not monitor.state().alarm


# Real text -------------------------------------------------------------------------------------------------------


def shifted(samples: list[Sample], deviations: float) -> list[Sample]:
    spread = float(np.std([sample.loss for sample in samples]))
    return [Sample(sample.tokens, sample.loss + deviations * spread) for sample in samples]


def renamed(samples: list[Sample], share: float) -> list[Sample]:
    """A vocabulary change: types that make up `share` of the text (not of the types) are new; the losses stay."""
    counts = Counter(token for sample in samples for token in sample.tokens)
    types = sorted(counts)
    random.Random(0).shuffle(types)
    reached = np.cumsum([counts[token] for token in types]) / sum(counts.values())
    changed = set(types[: int(np.searchsorted(reached, share)) + 1])
    return [Sample([t + VOCABULARY * (t in changed) for t in sample.tokens], sample.loss) for sample in samples]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("drift", "must"),
    [
        ("one sigma", "alarm"),
        ("fewer losses", "alarm"),
        ("vocabulary", "alarm"),
        ("domain", "alarm"),
        ("none", "stay"),
    ],
)
def test_delay(domains: tuple[list[Sample], list[Sample]], drift: str, must: str) -> None:
    """At most 500 samples, the bar of lifecycle.md F1; the twin without drift is silent four times as long."""
    known, computing = domains
    streams = {
        "one sigma": shifted(known, 1.0),
        "fewer losses": shifted(known, -1.0),
        "vocabulary": renamed(known, 0.2),
        "domain": computing,
        "none": known,
    }
    measured = measure_delay(known, streams[drift], **RULE, trials=8)
    if must == "alarm":
        assert measured["detected"] == measured["trials"]
        assert measured["max"] <= 500
    else:
        assert measured["detected"] == 0


@pytest.mark.slow
def test_each_feature_works_alone(domains: tuple[list[Sample], list[Sample]]) -> None:
    known, _ = domains
    by_tokens = measure_delay(known, renamed(known, 0.2), **RULE, trials=4)["beyond"]
    by_loss = measure_delay(known, shifted(known, 1.5), **RULE, trials=4)["beyond"]
    assert by_tokens["tokens js"] == 4
    assert "tokens js" not in by_loss and by_loss["loss page_hinkley"] >= 3 and by_loss["loss ks"] >= 1


@pytest.mark.slow
def test_false_alarms_are_rare(domains: tuple[list[Sample], list[Sample]]) -> None:
    """A small run of what `drift_report` does at length: at 1e-4 a window, 2 in 2,000 would be p = 0.02."""
    measured = measure_false_alarms(domains[0], 2000, **RULE, splits=2, seed=3)
    assert measured["windows"] >= 2000
    assert measured["alarms"] <= 1
    assert measured["rate"] == measured["alarms"] / measured["windows"] <= measured["upper95"]


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "must"), [("tokens", "alarm"), ("samples", "alarm"), ("blocks", "stay")])
def test_calibration_must_know_what_hangs_together(draws: str, must: str) -> None:
    """The same text, replayed in the order of its documents. Only a reference of blocks expects such a stream."""
    school = [tokenise(text) for text in texts("ensino-fundamental", "habilidades")]
    order = list(range(len(school)))
    random.Random(0).shuffle(order)
    model = Unigram([school[index] for index in order[:300]])
    known = [model.sample(school[index]) for index in sorted(order[300:])]
    samples = known
    if draws == "tokens":  # independent tokens, scored by the same model
        rng = np.random.default_rng(0)
        pool = np.array([token for sample in known for token in sample.tokens])
        samples = [model.sample(rng.choice(pool, len(sample.tokens)).tolist()) for sample in known]
    block = 16 if draws == "blocks" else 1
    monitor = DriftMonitor(build_reference(samples, window=WINDOW, alpha=ALPHA, block=block), **RULE)
    alarms = 0
    for sample in known * 2:
        if monitor.update(sample):
            alarms += 1
            monitor.reset()
    assert alarms >= 5 if must == "alarm" else alarms == 0
