"""A series with one value a step: which steps there are, their calendar, and how irregular times become regular.

    hourly            day 24, week 168            every 15 minutes  day 96, week 672
    daily             week 7, year 365.25         monthly           year 12
    no times at all   steps are counted, no calendar

A step without a value takes that of a season before and is marked: nothing is judged on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oliveira.errors import UserError

MINUTE, HOUR, DAY, WEEK = 60, 3600, 86_400, 604_800  # seconds
YEAR = 365.25 * DAY
MOST_INVENTED = 0.5  # of the steps of a series

_SNAP = 0.1  # a median so near to a usual step is that step
_USUAL = [1, 5, 10, 15, 20, 30, *(MINUTE * n for n in (1, 2, 5, 10, 15, 20, 30)), *(HOUR * n for n in (1, 2, 3, 6, 12))]
_USUAL += [DAY, WEEK]
_NAMES = {1: "second", MINUTE: "minute", HOUR: "hour", DAY: "day", WEEK: "week"}
_MONTHS = {1: "month", 3: "quarter", 12: "year"}
_AGO = {"day": "yesterday", "week": "last week", "year": "last year"}


@dataclass(frozen=True)
class Step:
    """The time from one value to the next: seconds, or whole months; neither = steps are counted."""

    seconds: int = 0
    months: int = 0

    @property
    def name(self) -> str:
        """ "hour", "month", "15 minutes"; "step" where steps are counted."""
        if self.months:
            return _MONTHS.get(self.months, f"{self.months} months")
        if self.seconds in _NAMES:
            return _NAMES[self.seconds]
        unit = next((unit for unit in (WEEK, DAY, HOUR, MINUTE) if self.seconds and self.seconds % unit == 0), 0)
        if unit:
            return f"{self.seconds // unit} {_NAMES[unit]}s"
        return f"{self.seconds} seconds" if self.seconds else "step"

    @property
    def plural(self) -> str:
        return f"{self.name}s" if self.name[0].isalpha() else f"steps of {self.name}"

    @property
    def calendar(self) -> dict[str, float]:
        """Lengths in steps of the periods that a series of this step may follow, the shortest first."""
        if self.months:
            return {"year": 12 / self.months} if self.months < 12 else {}
        if not self.seconds:
            return {}
        inside = ("day", "week") if self.seconds < DAY else ("week", "year") if self.seconds < WEEK else ("year",)
        lengths = {"day": DAY, "week": WEEK, "year": YEAR}
        return {name: _whole(lengths[name] / self.seconds) for name in inside if lengths[name] > self.seconds}

    @property
    def season(self) -> int:
        """Steps back to the value that a missing one takes: the week of what is shorter than a day, else the first
        period; 1 = the last value.
        """
        periods = self.calendar
        return round(periods["week"] if "week" in periods else next(iter(periods.values()), 1))

    def position(self, start: datetime | None, period: str) -> float:
        """Steps from the beginning of the week (for day and week) or year to `start`."""
        if start is None:
            return 0.0
        if self.months:
            return (start.month - 1) / self.months
        midnight = datetime(start.year, start.month, start.day)
        begin = datetime(start.year, 1, 1) if period == "year" else midnight - timedelta(days=start.weekday())
        return (start - begin).total_seconds() / self.seconds

    def time(self, start: datetime, count: int) -> datetime:
        """`count` steps after `start`."""
        if not self.months:
            return start + timedelta(seconds=count * self.seconds)
        month = start.year * 12 + start.month - 1 + count * self.months
        return start.replace(year=month // 12, month=month % 12 + 1, day=1)

    def ago(self, period: str) -> str:
        """ "same hour yesterday": the forecast that repeats the value of a period before."""
        same = self.name if self.name[0].isalpha() and self.seconds != MINUTE else "time"
        return f"same {same} {_AGO[period]}"


HOURLY = Step(seconds=HOUR)
COUNTED = Step()


@dataclass(frozen=True)
class Series:
    """One value a step without a gap."""

    start: datetime | None  # None: steps are counted
    values: NDArray[np.float64]  # (steps,)
    measured: NDArray[np.bool_]  # (steps,) False = filled with the value of a season before
    step: Step
    beside: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # other columns of the same steps

    def time(self, place: int) -> datetime | int:
        """When a value was measured; its number where steps are counted."""
        return place if self.start is None else self.step.time(self.start, place)


def filled(values: NDArray[np.float64], season: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """NaN replaced by the value of a season before (in the first season: the mean of all), and what was measured."""
    values, measured = values.copy(), ~np.isnan(values)
    mean = np.mean(values[measured])
    for place in np.flatnonzero(~measured):
        values[place] = values[place - season] if place >= season else mean
    return values, measured


def joined(parts: Sequence[Series]) -> Series:
    """Several of the same step and columns, one after the other; it starts where the first does."""
    if len(parts) == 1:
        return parts[0]
    values, measured = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "measured"))
    beside = {name: np.concatenate([part.beside[name] for part in parts]) for name in parts[0].beside}
    return Series(parts[0].start, values, measured, parts[0].step, beside)


def carried(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN replaced by the value before, at the beginning by the first there is."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return np.zeros(len(values))
    before = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(before, 0)]]


def regular(
    times: NDArray[Any] | None, values: NDArray[np.float64], beside: Mapping[str, NDArray[np.float64]] | None = None
) -> tuple[Series, list[str]]:
    """Rows as a series, and in words what was done to them. `times`: (rows,) datetime64[s], or None; NaN = missing.
    `beside`: other columns of the same rows.

    Doubled times give their mean, times between the steps go to the nearest one. Raises `UserError` when fewer than two
    values are left, or more than half of the series would be invented.
    """
    names = tuple(beside or {})
    columns = np.stack([values, *(beside or {}).values()], axis=1)
    if times is None:
        series = _series(None, columns, names, COUNTED)
        return series, ["no column of times: steps are counted", *_gaps(series), *_holes(columns, names)]
    known = ~np.isnan(values) & ~np.isnat(times)
    times, columns, said = times[known], columns[known], []
    if (np.diff(times) < np.timedelta64(0, "s")).any():
        order = np.argsort(times, kind="stable")
        times, columns = times[order], columns[order]
        said.append("rows were not in the order of time: sorted")
    rows = len(times)
    times, columns = _means(times, columns)
    if len(times) < rows:
        said.append(f"{rows - len(times)} rows with a time that another has: their mean is taken")
    if len(times) < 2:
        raise UserError(f"{len(times)} different times with a value make no series. Give at least two, or --time.")
    step = _step(times)
    places, moved = _places(times, step)
    if moved:
        said.append(f"{moved} times lie between two steps of one {step.name}: each goes to the nearest")
    places, columns = _means(places, columns)
    if 1 - len(places) / (int(places[-1]) + 1) > MOST_INVENTED:
        raise UserError(
            f"{len(places)} values on {int(places[-1]) + 1} {step.plural}: more than half would be invented. "
            "Give a series with regular steps, or another --time."
        )
    grid = np.full((int(places[-1]) + 1, columns.shape[1]), np.nan)
    grid[places] = columns
    series = _series(times[0].astype("datetime64[s]").astype(datetime), grid, names, step)
    return series, [f"one value every {step.name}", *said, *_gaps(series), *_holes(grid, names)]


def _series(start: datetime | None, columns: NDArray[np.float64], names: tuple[str, ...], step: Step) -> Series:
    """`columns`: the values, then those beside them."""
    beside = {name: carried(columns[:, place]) for place, name in enumerate(names, 1)}
    return Series(start, *filled(columns[:, 0], step.season), step, beside)


def _holes(columns: NDArray[np.float64], names: tuple[str, ...]) -> list[str]:
    counts = {name: int(np.isnan(columns[:, place]).sum()) for place, name in enumerate(names, 1)}
    return [
        f"{count} missing values of '{name}' are those of the step before" for name, count in counts.items() if count
    ]


def _gaps(series: Series) -> list[str]:
    count, season = int((~series.measured).sum()), series.step.season
    steps = series.step.plural if season > 1 else series.step.name
    said = f"{count} gaps are filled with the value of {season} {steps} before; nothing is judged on them"
    return [said] if count else []


def _means(keys: NDArray[Any], columns: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Sorted keys once, each with the mean of its values in every column; NaN counts in none."""
    once, place = np.unique(keys, return_inverse=True)
    means = np.full((len(once), columns.shape[1]), np.nan)
    for number, column in enumerate(columns.T):
        there = ~np.isnan(column)
        counts = np.bincount(place[there], minlength=len(once))
        sums = np.bincount(place[there], weights=column[there], minlength=len(once))
        np.divide(sums, counts, out=means[:, number], where=counts > 0)
    return once, means


def _step(times: NDArray[Any]) -> Step:
    """The commonest difference; whole months where it is about as long as some; else the usual step near the median."""
    differences = np.diff(times).astype("timedelta64[s]").astype(np.int64)
    sizes, counts = np.unique(differences, return_counts=True)
    commonest = int(sizes[counts.argmax()])
    if (months := _months(times, float(np.median(differences)))) is not None:
        return months
    if counts.max() * 2 >= len(differences):
        return Step(seconds=commonest)
    median = float(np.median(differences))
    near = [usual for usual in _USUAL if abs(median - usual) <= _SNAP * usual]
    return Step(seconds=near[0] if near else max(1, round(median)))


def _months(times: NDArray[Any], median: float) -> Step | None:
    """A step of one, three, six or twelve months, when all times are the same day of the month or its last."""
    days = median / DAY
    count = next((months for months in (1, 3, 6, 12) if 28 * months <= days <= 31 * months + 1), None)
    if count is None:
        return None
    day = (times.astype("datetime64[D]") - times.astype("datetime64[M]")).astype(np.int64)
    last = (times + np.timedelta64(1, "D")).astype("datetime64[M]") > times.astype("datetime64[M]")
    return Step(months=count) if (day == day[0]).all() or last.all() else None


def _places(times: NDArray[Any], step: Step) -> tuple[NDArray[np.int64], int]:
    """The step that each time is nearest to, counted from the first, and how many were between two."""
    if step.months:
        months = times.astype("datetime64[M]").astype(np.int64)
        exact = (months - months[0]) / step.months
    else:
        exact = (times - times[0]).astype("timedelta64[s]").astype(np.int64) / step.seconds
    places = np.rint(exact).astype(np.int64)
    return places, int((np.abs(exact - places) > 1e-9).sum())


def _whole(length: float) -> float:
    """An int where it is one: the angles of the calendar then have no rounding of their own."""
    return int(length) if length == int(length) else length
