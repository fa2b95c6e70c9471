"""How large a score gets without drift: learnt from held-out text, in blocks of whole samples.

Requests are not independent draws of tokens: a document has its own vocabulary and its own difficulty, and so
have its neighbours. So nothing is drawn token by token. Many times over, the reference is cut in two halves by
blocks of neighbouring samples; one half plays the reference, streams resampled from the other half (moving
blocks, Künsch 1989) play the live traffic. The scores of those streams are what "no drift" looks like, with the
uncertainty of a finite reference in it. It is wider than the truth, since the half is smaller than the whole:
the error is on the side of silence.

Beyond the 99th percentile nothing can be counted, so the tail is extrapolated:

    p(s) = 0.01 · exp(-(s - u) / β)     u the 99th percentile, β the mean excess (its upper 95 % bound)

an exponential tail, heavier than that of distances and means, which are Gaussian there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from oliveira.errors import UserError
from oliveira.monitoring.statistics import HISTORY, Floats, Sample, TokenBins, WindowStatistics

FORMAT = 1
CONVERSATION = 4  # neighbouring samples that stay together: as many requests as a conversation has
ROUND_WINDOWS = 40  # windows of one simulated stream
MAX_CONFIRM = 5
MIN_BLOCKS = 5
MIN_WINDOWS = 2
MAX_LOSSES = 4096  # reference losses kept
_SMALLEST = np.finfo(np.float64).tiny  # a p-value that underflowed to 0 is this one
_BULK = np.linspace(0.0, 0.99, 100)


@dataclass(frozen=True)
class Tail:
    """The distribution of a score without drift: 100 quantiles up to the 99th percentile, then exponential."""

    quantiles: list[float]
    scale: float

    @classmethod
    def fit(cls, scores: Floats) -> Tail:
        """scores (rounds, windows). Its bound counts rounds, since the windows of one round are kin."""
        quantiles = np.quantile(scores, _BULK)
        excess = np.where(scores > quantiles[-1], scores - quantiles[-1], 0.0)
        count = max(1, int((excess > 0).sum()))
        rounds = max(1, int((excess > 0).any(axis=1).sum()))
        mean = float(excess.sum()) / count
        upper = mean * 2 * rounds / float(chi2.ppf(0.05, 2 * rounds))
        return cls([float(q) for q in quantiles], max(upper, 1e-9))

    def pvalues(self, scores: Floats) -> Floats:
        """How often a score without drift is as large. Any shape."""
        tail = 0.01 * np.exp(-np.maximum(0.0, scores - self.quantiles[-1]) / self.scale)
        # Among equal quantiles the leftmost counts: a tie is never evidence.
        place = np.searchsorted(self.quantiles, scores, side="left")
        return np.where(place < len(_BULK), 1 - _BULK[np.clip(place - 1, 0, None)], tail)

    def score(self, pvalue: float) -> float:
        """The score whose p-value this is."""
        if pvalue < 0.01:
            return self.quantiles[-1] + self.scale * math.log(0.01 / pvalue)
        return float(np.interp(1 - pvalue, _BULK, self.quantiles))

    def to_json(self) -> dict[str, Any]:
        return {"quantiles": self.quantiles, "scale": self.scale}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Tail:
        return cls([float(q) for q in state["quantiles"]], float(state["scale"]))


def split_blocks(n: int, block: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two halves of range(n), each in order, cut along blocks."""
    blocks = [np.arange(start, min(n, start + block)) for start in range(0, n, block)]
    first = rng.permutation(len(blocks)) < len(blocks) // 2
    return (
        np.concatenate([part for part, mine in zip(blocks, first, strict=True) if mine]),
        np.concatenate([part for part, mine in zip(blocks, first, strict=True) if not mine]),
    )


def resample(pool: NDArray[np.intp], block: int, length: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """`length` members of `pool` in moving blocks (circular)."""
    starts = rng.integers(len(pool), size=-(-length // block))
    places = (starts[:, None] + np.arange(block)) % len(pool)
    return pool[places.ravel()[:length]]


class Stream(Protocol):
    """Reference samples, named by their index, looked at as live traffic is."""

    def warm(self, index: int) -> None:
        """A sample of the past that a live stream has, before its first window."""

    def update(self, index: int) -> Floats | None:
        """The next sample. The scores, one a test, when it completes a window."""


Known = NDArray[np.intp]  # indices of the samples that play the reference


def null_scores(count: int, block: int, rounds: int, seed: int, start: Callable[[Known], Stream]) -> Floats:
    """(rounds, ROUND_WINDOWS, tests) scores of streams without drift, each compared with its own `Known` half."""
    rng = np.random.default_rng(seed)
    found: list[list[Floats]] = []
    for _ in range(rounds):
        known, live = split_blocks(count, block, rng)
        stream = start(known)
        for index in resample(live, block, HISTORY, rng):
            stream.warm(index)
        scores: list[Floats] = []
        while len(scores) < ROUND_WINDOWS:
            scored = (stream.update(index) for index in resample(live, block, block, rng))
            scores += [window for window in scored if window is not None]
        found.append(scores[:ROUND_WINDOWS])
    return np.array(found)


class _TextStream:
    def __init__(self, counts: Floats, losses: Floats, window: int, known: Known) -> None:
        self.counts, self.losses = counts, losses
        self.statistics = WindowStatistics(counts[known].sum(axis=0), losses[known], window)

    def warm(self, index: int) -> None:
        self.statistics.stream.update(float(self.losses[index]))

    def update(self, index: int) -> Floats | None:
        return self.statistics.update(self.counts[index], float(self.losses[index]))


def _widen(scores: Floats, blocks: int) -> Floats:
    """Moves the scores away from their median by what a spread known from so few blocks may be too small.

    σ ≤ s · √((n - 1) / χ²(0.05, n - 1)) with 95 % confidence; n blocks are independent, the windows cut from
    them are not.
    """
    median = np.median(scores, axis=(0, 1))
    widened = median + (scores - median) * math.sqrt((blocks - 1) / float(chi2.ppf(0.05, blocks - 1)))
    return np.asarray(widened)


def _in_a_row(scores: Floats, confirm: int) -> Floats:
    """The smallest of every `confirm` windows in a row. scores (rounds, windows, …)."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(scores, confirm, axis=1).min(axis=-1))


def _runs(scores: Floats, confirm: int) -> dict[str, Any]:
    """The tails of runs of `confirm` windows: of each test, and of all together.

    What stays large by chance for so long differs: two neighbouring windows have few tokens in common, but
    Page–Hinkley remembers. So each test has its own scale of runs, on which the windows are then compared.
    """
    each = np.moveaxis(scores, -1, 0)
    tests = [Tail.fit(_in_a_row(test, confirm)) for test in each]
    surprise = np.max(
        [-np.log(np.maximum(tail.pvalues(test), _SMALLEST)) for tail, test in zip(tests, each, strict=True)], axis=0
    )
    joint = Tail.fit(_in_a_row(surprise, confirm))
    return {"tests": [tail.to_json() for tail in tests], "joint": joint.to_json()}


def calibrate(count: int, *, block: int, alpha: float, seed: int, start: Callable[[Known], Stream]) -> dict[str, Any]:
    """The tails of every test without drift, of single windows and of runs: what `thresholds` reads. JSON.

    `count` samples of a reference, of which `block` neighbours stay together; the smaller `alpha`, the more windows.
    """
    rounds = max(50, min(200, math.ceil(0.5 / alpha / ROUND_WINDOWS)))
    scores = _widen(null_scores(count, block, rounds, seed, start), count // block)
    return {
        "tails": [Tail.fit(test).to_json() for test in np.moveaxis(scores, -1, 0)],
        "runs": [_runs(scores, confirm) for confirm in range(1, MAX_CONFIRM + 1)],
    }


def thresholds(reference: dict[str, Any], alpha: float, confirm: int) -> Floats:
    """(tests,) the score of each test above which a window is beyond."""
    run = reference["runs"][confirm - 1]
    pvalue = math.exp(-Tail.from_json(run["joint"]).score(alpha))
    return np.array([Tail.from_json(tail).score(pvalue) for tail in run["tests"]])


def build_reference(
    samples: Sequence[Sample], *, window: int, alpha: float, seed: int = 0, block: int = CONVERSATION
) -> dict[str, Any]:
    """What live traffic will be compared with, as JSON: histogram, losses and the calibration of every score.

    `samples` are held-out requests of the known domain, in their natural order and as long as live ones.
    `window` in tokens; the smaller `alpha`, the more windows are simulated. Raises UserError if there is too
    little text.

    `block` neighbours stay together in what "no drift" means: 1 takes requests for independent, more expects a
    window to hold fewer subjects, and makes the monitor slower to wonder about a new one.
    """
    samples = [sample for sample in samples if sample.tokens]
    tokens = sum(len(sample.tokens) for sample in samples)
    if len(samples) < MIN_BLOCKS * block or tokens < MIN_WINDOWS * window:
        raise UserError(
            f"{len(samples)} held-out samples with {tokens} tokens are too few for monitor.window = {window}: "
            f"{MIN_BLOCKS * block} samples and {MIN_WINDOWS * window} tokens are needed. Hold out more text or use a "
            "smaller window."
        )
    bins = TokenBins.fit(samples)
    counts = np.stack([bins.counts(sample.tokens) for sample in samples])
    losses = np.array([sample.loss for sample in samples])
    calibration = calibrate(
        len(samples), block=block, alpha=alpha, seed=seed, start=partial(_TextStream, counts, losses, window)
    )
    kept = losses
    if len(losses) > MAX_LOSSES:
        kept = np.random.default_rng(seed).choice(losses, MAX_LOSSES, replace=False)
    return {
        "format": FORMAT,
        "window": window,
        "samples": len(samples),
        "tokens": tokens,
        "block": block,
        "top": bins.top,
        "histogram": counts.sum(axis=0).tolist(),
        "losses": kept.tolist(),
        **calibration,
    }
