"""What is compared, window by window: the tokens that were asked for, and the model's own loss on them.

    tokens  js            Jensen–Shannon distance of the window's token histogram from the reference's
    loss    ks            Kolmogorov–Smirnov distance of the window's losses from the reference's
    loss    adwin         |mean of ADWIN's window| in standard errors           Bifet & Gavaldà 2007 (river)
    loss    page_hinkley  largest cumulated deviation, up or down               Page 1954 (river)

None of the textbook p-values is used: requests are correlated and windows are short, so `calibration` learns
from held-out text how large each score gets without drift.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, PageHinkley
from scipy.special import rel_entr

from oliveira.errors import UserError

Floats = NDArray[np.float64]

TESTS = (("tokens", "js"), ("loss", "ks"), ("loss", "adwin"), ("loss", "page_hinkley"))
TOP_TOKENS = 512  # the commonest tokens have a bin each …
HASHED_BINS = 512  # … and share these when they are rarer
BINS = TOP_TOKENS + HASHED_BINS
HISTORY = 512  # losses the two stream detectors can remember: what makes them restartable
ANCHOR = 256  # reference losses that Page–Hinkley starts from
WINSOR = 6.0  # one absurd loss counts as so many standard deviations, no more
SLACK = 0.25  # Page–Hinkley ignores shifts below 2 · SLACK standard deviations


@dataclass(frozen=True)
class Sample:
    """One request: its token ids and the model's mean loss on them, nats a token."""

    tokens: Sequence[int]
    loss: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            raise UserError(f"sample.loss = {self.loss} is not a number. Leave such a request out and see why.")


class TokenBins:
    """Token id → histogram bin: the `TOP_TOKENS` commonest have their own, the rest share `HASHED_BINS`."""

    def __init__(self, top: Sequence[int]) -> None:
        self.top = list(top)
        self._bin = {token: number for number, token in enumerate(self.top)}

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> TokenBins:
        counts = Counter(token for sample in samples for token in sample.tokens)
        return cls(sorted(counts, key=lambda token: (-counts[token], token))[:TOP_TOKENS])

    def counts(self, tokens: Sequence[int]) -> Floats:
        """(BINS,) how often each bin occurs."""
        # Knuth's multiplicative hash: neighbouring ids (often inflections) land in different bins.
        bins = [self._bin.get(t, TOP_TOKENS + (t * 2654435761 & 0xFFFFFFFF) * HASHED_BINS // 2**32) for t in tokens]
        return np.bincount(bins, minlength=BINS).astype(float)


def js_distance(reference: Floats, window: Floats) -> float:
    """Jensen–Shannon distance in bits of two histograms, 0 to 1. Without a count on one side nothing is known: 0.

    The divergence of nearly equal histograms rounds to below 0, whose root is NaN (so it is in scipy 1.17), and a NaN
    is above no threshold: clamped.
    """
    if not (reference.sum() > 0 and window.sum() > 0):
        return 0.0
    p, q = reference / reference.sum(), window / window.sum()
    middle = (p + q) / 2
    divergence = float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / (2 * math.log(2))
    return math.sqrt(min(1.0, max(0.0, divergence)))


def ks_distance(reference: Floats, window: Floats) -> float:
    """Largest distance of two empirical distribution functions; both sorted. Equal to scipy.stats.ks_2samp."""
    places = np.concatenate([reference, window])
    below_reference = np.searchsorted(reference, places, side="right") / len(reference)
    below_window = np.searchsorted(window, places, side="right") / len(window)
    return float(np.abs(below_reference - below_window).max())


class _PageHinkley(PageHinkley):
    """river's Page–Hinkley, read as a number instead of a yes or no: the alarm is decided elsewhere."""

    def __init__(self) -> None:
        super().__init__(delta=SLACK, threshold=math.inf)

    @property
    def statistic(self) -> float:
        return max(self._sum_increase - self._min_increase, self._max_decrease - self._sum_decrease)


class LossStream:
    """ADWIN and Page–Hinkley on the standardised loss, with a memory short enough to be written down.

    Every `HISTORY` samples both are started again and fed the newer half: `history` is the whole state.
    """

    def __init__(self, reference: Floats) -> None:
        self.mean = float(reference.mean())
        self.deviation = float(reference.std()) or 1.0
        self.size = len(reference)
        # In any order but sorted: a sorted stream is one long drift.
        order = np.random.default_rng(0).permutation(self.size)[:ANCHOR]
        self._anchor = [self._standard(float(loss)) for loss in reference[order]]
        self.restart([])

    def _standard(self, loss: float) -> float:
        return max(-WINSOR, min(WINSOR, (loss - self.mean) / self.deviation))

    def restart(self, history: Sequence[float]) -> None:
        self.history: list[float] = []
        self._adwin, self._page_hinkley = ADWIN(), _PageHinkley()
        for value in self._anchor:
            self._page_hinkley.update(value)
        for loss in history:
            self.update(loss)

    def update(self, loss: float) -> None:
        if len(self.history) >= HISTORY:
            self.restart(self.history[HISTORY // 2 :])
        self.history.append(loss)
        value = self._standard(loss)
        self._adwin.update(value)
        self._page_hinkley.update(value)

    def scores(self) -> tuple[float, float]:
        """(ADWIN, Page–Hinkley)."""
        error = math.sqrt(1 / max(1, self._adwin.width) + 1 / self.size)
        return abs(self._adwin.estimation) / error, self._page_hinkley.statistic


class WindowStatistics:
    """Cuts a stream of samples into windows of at least `window` tokens and scores each against a reference.

    Shapes: histogram (BINS,) of the reference's tokens, losses (N,) of its samples; scores (len(TESTS),).
    """

    def __init__(self, histogram: Floats, losses: Floats, window: int) -> None:
        self.window = window
        self.histogram = histogram / max(1.0, histogram.sum())
        self.sorted_losses = np.sort(losses)
        self.stream = LossStream(losses)
        self._clear()

    def _clear(self) -> None:
        self.counts: Floats = np.zeros(BINS)
        self.tokens = 0
        self.losses: list[float] = []

    def update(self, counts: Floats, loss: float) -> Floats | None:
        """One sample. The scores, in the order of TESTS, when it completes a window."""
        self.stream.update(loss)
        self.counts += counts
        self.tokens += int(counts.sum())
        self.losses.append(loss)
        if self.tokens < self.window:
            return None
        js = js_distance(self.histogram, self.counts)
        ks = ks_distance(self.sorted_losses, np.sort(np.array(self.losses)))
        self._clear()
        return np.array([js, ks, *self.stream.scores()])

    def to_json(self) -> dict[str, Any]:
        bins = np.flatnonzero(self.counts)
        return {
            "counts": [[int(number), int(self.counts[number])] for number in bins],
            "losses": self.losses,
            "history": self.stream.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._clear()
        for number, count in state["counts"]:
            self.counts[number] = count
        self.tokens = int(self.counts.sum())
        self.losses = [float(loss) for loss in state["losses"]]
        self.stream.restart([float(loss) for loss in state["history"]])
