"""Named numbers of requests and of their answers, window by window: what each was like, and how far it is from that.

    many values   shift   Wasserstein distance ∫ |F⁻¹ − G⁻¹| from the reference's values, in their robust spread
    few values    shares  total variation ½ Σ |p − q| from the reference's shares; what it never saw is a share too

Not Kolmogorov–Smirnov, which is 1 as soon as two samples do not overlap: those of two weeks of one year may not, and
only how far they are apart tells a season from a drift.

Values that the reference saw less than once a window, or never, are one; of it as many as may well occur without drift
count for nothing (`rare_allowed`): else a number that was constant so far would be an alarm with its first other value.

A value that is missing or no finite number is left out: a distance of m values in a window of w counts √(m / w), as its
noise is √(w / m) times as large; one of none is 0. Whatever else makes a distance large without drift, above all
neighbours that are alike, `calibration` learns from the reference, which `neighbours` tells how long they are so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import beta, binom

from oliveira.monitoring.calibration import CONVERSATION, MIN_BLOCKS, Known
from oliveira.monitoring.statistics import Floats

FeatureSample = Mapping[str, Any]  # numbers by name; whatever is none is missing

FEW = 16  # different values at most of a feature that is compared by its shares
MAX_VALUES = 1024  # reference values kept of one that is not
FARTHEST = 10.0  # spreads from the median: farther off is not farther
_RARE = 1e-4  # how often a window without drift has more rare values than are allowed, at most
_QUIET_LAGS = 5


def number(value: Any) -> float:
    """NaN for what is missing or not finite."""
    try:
        found = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def columns(samples: Sequence[FeatureSample], names: Sequence[str]) -> Floats:
    """(samples, names)."""
    rows = [[number(sample.get(name)) for name in names] for sample in samples]
    return np.array(rows, dtype=np.float64).reshape(len(samples), len(names))


@dataclass(frozen=True)
class Feature:
    """What a number was like in the reference: its values, sorted; of few ones each once, with their shares."""

    name: str
    values: Floats
    shares: Floats | None = None
    allowed: int = 0  # other values, a window

    @classmethod
    def fit(cls, name: str, column: Floats, *, window: int, block: int) -> Feature:
        """`block` neighbours of the column are as good as one."""
        known = column[~np.isnan(column)]
        values, counts = np.unique(known, return_counts=True)
        if len(values) > FEW:
            return cls(name, np.sort(known))
        order = np.argsort(counts, kind="stable")
        pooled = order[np.cumsum(counts[order]) * window < len(known)]  # the rarest, together below one a window
        kept = np.delete(np.arange(len(values)), pooled)
        allowed = rare_allowed(window, int(counts[pooled].sum()) // block, len(known) // block)
        return cls(name, values[kept], counts[kept] / max(1, counts[kept].sum()), allowed)

    def again(self, column: Floats) -> Feature:
        """The same of other rows."""
        known = column[~np.isnan(column)]
        if self.shares is None:
            return replace(self, values=np.sort(known))
        counts = (known[:, None] == self.values).sum(axis=0)
        return replace(self, shares=counts / max(1, counts.sum()))

    @property
    def test(self) -> str:
        return "shift" if self.shares is None else "shares"

    def score(self, window: Floats) -> float:
        """`window`: all its values, NaN where one is missing."""
        known = np.sort(window[~np.isnan(window)])
        if not (len(known) and len(self.values)):
            return 0.0
        distance = self._shift(known) if self.shares is None else self._variation(known)
        return distance * math.sqrt(len(known) / len(window))

    @cached_property
    def _standard(self) -> Floats:
        """The values, sorted, in robust units."""
        return self._in_units(self.values)

    @cached_property
    def _units(self) -> tuple[float, float]:
        """Median and spread; the quartiles of a Gaussian are 1.35 σ apart."""
        low, middle, high = np.quantile(self.values, (0.25, 0.5, 0.75))
        return float(middle), float((high - low) / 1.35 or self.values.std() or 1.0)

    def _in_units(self, values: Floats) -> Floats:
        middle, spread = self._units
        return np.clip((values - middle) / spread, -FARTHEST, FARTHEST)

    def _shift(self, window: Floats) -> float:
        places = (np.arange(len(window)) + 0.5) * len(self.values) / len(window) - 0.5
        quantiles = np.interp(places, np.arange(len(self.values)), self._standard)
        return float(np.abs(self._in_units(window) - quantiles).mean())

    def _variation(self, window: Floats) -> float:
        assert self.shares is not None
        places = np.searchsorted(self.values, window)
        seen = places[self.values[np.minimum(places, len(self.values) - 1)] == window]
        rare = max(0, len(window) - len(seen) - self.allowed) / len(window)
        if not len(seen):
            return rare
        shares = np.bincount(seen, minlength=len(self.values)) / len(seen)
        return rare + (1 - rare) * float(np.abs(shares - self.shares).sum()) / 2

    def to_json(self) -> dict[str, Any]:
        values = self.values
        if self.shares is None and len(values) > MAX_VALUES:
            values = values[np.linspace(0, len(values) - 1, MAX_VALUES).round().astype(int)]
        return {
            "name": self.name,
            "values": values.tolist(),
            "shares": None if self.shares is None else self.shares.tolist(),
            "allowed": self.allowed,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Feature:
        shares = state["shares"]
        shares = None if shares is None else np.array(shares, float)
        return cls(state["name"], np.array(state["values"], float), shares, state["allowed"])


class FeatureWindow:
    """Cuts a stream of rows, one number a feature, into windows of `window` rows and scores each."""

    def __init__(self, features: Sequence[Feature], window: int) -> None:
        self.features, self.window = features, window
        self.rows: list[Floats] = []

    def update(self, row: Floats) -> Floats | None:
        """The scores, one a feature, when the row completes a window."""
        self.rows.append(row)
        if len(self.rows) < self.window:
            return None
        values, self.rows = np.array(self.rows), []
        return np.array([feature.score(column) for feature, column in zip(self.features, values.T, strict=True)])

    def to_json(self) -> list[list[float | None]]:
        return [[None if math.isnan(value) else value for value in row.tolist()] for row in self.rows]

    def load(self, state: list[list[float | None]]) -> None:
        self.rows = [np.array([number(value) for value in row]) for row in state]


class FeatureStream:
    """Rows of a reference as a stream without drift, for `calibrate`."""

    def __init__(self, rows: Floats, features: Sequence[Feature], window: int, known: Known) -> None:
        """`features`: those of the whole reference."""
        self.rows = rows
        half = [whole.again(column) for whole, column in zip(features, rows[known].T, strict=True)]
        self.statistics = FeatureWindow(half, window)

    def warm(self, index: int) -> None:
        """Windows of features remember nothing."""

    def update(self, index: int) -> Floats | None:
        return self.statistics.update(self.rows[index])


def rare_allowed(window: int, seen: int, draws: int) -> int:
    """Values in a window that may well be among those of which the reference saw `seen` in so many `draws`.

    p is at most its exact 95 % bound (of none about 3 / n); at that p a window has more only once in 1 / _RARE.
    """
    bound = float(beta.ppf(0.95, seen + 1, draws - seen)) if draws > seen else 1.0
    return int(binom.ppf(1 - _RARE, window, bound))


def neighbours(rows: Floats) -> int:
    """How many rows in a row hang together, at least `CONVERSATION`: forecasts of one week are alike.

    Twice the lag after which no feature's autocorrelation is beyond 2 √(log10 n / n), five lags long: the rule of
    Politis & White 2004. At most a twentieth of the rows: of fewer blocks nothing can be learnt.
    """
    count, most = len(rows), len(rows) // (4 * MIN_BLOCKS)
    longest = 0
    for column in rows.T:
        known = ~np.isnan(column)
        values = np.where(known, column - column[known].mean() if known.any() else 0.0, 0.0)
        if (power := float((values**2).sum())) > 0:
            bound = 2 * math.sqrt(math.log10(count) / count) * power
            alike = [abs(float(values[lag:] @ values[:-lag])) > bound for lag in range(1, most + _QUIET_LAGS)]
            quiet = next(lag for lag in range(most + 1) if lag == most or not any(alike[lag : lag + _QUIET_LAGS]))
            longest = max(longest, quiet)
    return max(CONVERSATION, min(2 * longest, most))


def block_of(samples: Sequence[FeatureSample]) -> int:
    """`neighbours` of all that the samples hold."""
    return neighbours(columns(samples, sorted({name for sample in samples for name in sample})))
