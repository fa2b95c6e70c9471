"""Which column of a user's table is what: named by option, else guessed, and the guess is said.

    a series    target: the only column of numbers          time: the first column of times, or none
    labels      text: the column with the longest texts     target: a column whose name says so, else the only one

Where two columns could be meant, the refusal lists them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oliveira.data.columns import MOST_LABELS, Column, as_times, labels_of, listed, mean_length, text_named
from oliveira.data.labelled import Labelled, plain_words
from oliveira.data.series import HOUR, MINUTE, Series, regular
from oliveira.data.text import clean
from oliveira.errors import UserError

_LABELS = ("label", "rotulo", "rótulo", "classe", "class", "categoria", "category", "sentimento", "sentiment", "target")
_FEW = 20  # whole numbers that may be labels, rows that are looked at first
FEWEST_TEXTS = 3  # of a label: one a split
_HOUR = re.compile(r"([01]?\d|2[0-3])(?:[:h]?([0-5]\d)?)(?::00)?(?: ?UTC)?")
_UNIT = re.compile(r"[(\[]([^)\]]+)[)\]]\s*$")

Columns = Mapping[str, Column]


class Unnamed(UserError):
    """Several columns could be the target; all else may be right."""

    def __init__(self, said: str, columns: list[str]) -> None:
        super().__init__(said)
        self.columns = columns


@dataclass(frozen=True)
class SeriesRoles:
    groups: tuple[Series, ...]  # of the same step; one unless a column tells several apart
    target: str
    unit: str
    said: tuple[str, ...]

    @property
    def series(self) -> Series:
        """The longest."""
        return max(self.groups, key=lambda series: len(series.values))


@dataclass(frozen=True)
class TextRoles:
    rows: list[Labelled]
    text: str
    target: str
    said: tuple[str, ...]


def series_of(
    columns: Columns, *, target: str, time: str, features: Sequence[str] = (), group: str = ""
) -> SeriesRoles:
    """The series in a table, with columns beside it, or one for each value of `group`. `UserError` when no column, or
    none for sure, is its target."""
    when = _named(columns, time, "--time") if time else next((c for c in columns.values() if c.kind == "time"), None)
    if when is not None and when.kind == "number":
        if (counted := as_times(when)) is None:
            raise UserError(
                f"--time '{time}' is a column of numbers that are neither years nor seconds or milliseconds since "
                "1970. Name another, or leave it out."
            )
        when = counted
    if when is not None and (when.kind != "time" or np.isnat(when.values).all()):
        raise UserError(f"--time '{time}' is not a column of times ({when.kind}). Name another, or leave it out.")
    hours = _hours(columns, when)
    apart = _named(columns, group, "--group") if group else None
    beside = [column.name for column in (when, hours, apart) if column is not None]
    wanted = _named(columns, target, "--target") if target else _target(columns, [*beside, *features])
    inputs = {name: _input(columns, name, [*beside, wanted.name]).values for name in features}
    _refuse_empty(wanted)
    if wanted.kind != "number":
        raise UserError(f"--target '{wanted.name}' is not a column of numbers ({wanted.kind}). {_candidates(columns)}")
    for column in (wanted, *(columns[name] for name in features)):
        _refuse_magnitude(column)
    times = None if when is None else when.values if hours is None else when.values + _clock(hours)
    groups, said = (
        _apart(apart, times, wanted.values, inputs)
        if apart is not None
        else _alone(*regular(times, wanted.values, inputs))
    )
    guessed = [] if target else [f"target: '{wanted.name}', the only column of numbers"]
    guessed += [f"time: '{when.name}'"] if when is not None and not time else []
    guessed += [f"hours of the day: '{hours.name}'"] if hours is not None else []
    unit = found[1] if (found := _UNIT.search(wanted.name)) else wanted.name
    told = [line for column in (wanted, *(columns[name] for name in features)) for line in column.said + column.doubts]
    if when is None:
        told += [line for column in columns.values() if column.kind != "number" for line in column.doubts]
    return SeriesRoles(groups, wanted.name, unit, (*guessed, *(when.said if when else ()), *told, *said))


def _alone(series: Series, said: list[str]) -> tuple[tuple[Series, ...], list[str]]:
    return (series,), said


def _apart(
    column: Column,
    times: NDArray[Any] | None,
    values: NDArray[np.float64],
    beside: Mapping[str, NDArray[np.float64]],
) -> tuple[tuple[Series, ...], list[str]]:
    """One series a value of a column, in the order of the values. What makes none is left out."""
    labels = labels_of(column)
    names = sorted(set(labels) - {""})
    if not 1 <= len(names) <= MOST_LABELS:
        raise UserError(f"--group '{column.name}' has {len(names)} values, not 1 to {MOST_LABELS}. Name another.")
    found: list[Series] = []
    for name in names:
        rows = labels == name
        if not np.isfinite(values[rows]).any():
            continue
        try:
            series, _ = regular(
                None if times is None else times[rows], values[rows], {key: v[rows] for key, v in beside.items()}
            )
        except UserError:
            continue
        found.append(series)
    steps = Counter(series.step for series in found)
    if not steps:
        raise UserError(f"no value of --group '{column.name}' has a series with regular steps. Name another.")
    step = steps.most_common(1)[0][0]
    kept = tuple(series for series in found if series.step == step)
    said = [f"{len(kept)} series by '{column.name}', one value every {step.name}"]
    if len(kept) < len(names):
        said.append(f"{len(names) - len(kept)} series are left out: they have no such steps")
    gaps = sum(int((~series.measured).sum()) for series in kept)
    return kept, [*said, f"{gaps} gaps are filled from a season before; nothing is judged on them"] if gaps else said


def _input(columns: Columns, name: str, taken: list[str]) -> Column:
    column = _named(columns, name, "--features")
    if name in taken:
        raise UserError(f"--features '{name}' has another part already. Leave it out.")
    if column.kind != "number":
        raise UserError(f"--features '{name}' is not a column of numbers ({column.kind}). Name another.")
    return column


def text_of(columns: Columns, *, text: str, target: str) -> TextRoles:
    """Texts with their labels. `UserError` when a column is missing, or there is one label, or more than 1000."""
    if len(columns) < 2:
        raise UserError(f"there is one column, '{next(iter(columns))}'; a text and its label need two. Add the other.")
    label = _named(columns, target, "--target") if target else _label(columns, text)
    if label.kind == "time":
        raise UserError(f"--target '{label.name}' is a column of times, no label. Name another.")
    read = _named(columns, text, "--text") if text else _text(columns, label)
    if read.name == label.name:
        raise UserError(f"'{read.name}' cannot be text and label at once. Name two columns with --text and --target.")
    _refuse_empty(label, "one class: ")
    labels = labels_of(label)
    if (classes := len(set(labels) - {""})) > MOST_LABELS:
        raise UserError(f"'{label.name}' has {classes} classes, more than {MOST_LABELS}. Name another --target.")
    texts = read.values.astype(str) if read.kind != "number" else labels_of(read)
    numbered = enumerate(zip(texts, labels, strict=True))
    rows = [(f"{n:08d}", words, str(name)) for n, (row, name) in numbered if name and (words := clean(str(row)))]
    kept = enough(rows)
    if len({row[2] for row in kept}) < 2:
        raise UserError(
            f"fewer than two classes of '{label.name}' have {FEWEST_TEXTS} different texts in '{read.name}'. Add texts."
        )
    said = [] if text else [f"text: '{read.name}'"]
    said += [] if target else [f"label: '{label.name}', {len(set(labels) - {''})} classes"]
    said += [f"{len(labels) - len(rows)} rows without text or label are left out"] if len(rows) < len(labels) else []
    if rare := len(rows) - len(kept):
        said.append(f"{rare} rows are left out: their class has fewer than {FEWEST_TEXTS} different texts")
    return TextRoles(kept, read.name, label.name, tuple(said))


def _named(columns: Columns, name: str, option: str) -> Column:
    if name not in columns:
        raise UserError(f"{option} '{name}' is no column. There are: {listed(list(columns))}.")
    return columns[name]


def _hours(columns: Columns, when: Column | None) -> Column | None:
    """The column of hours that stands beside one of dates alone: "10:00", "10h", "1000 UTC", or numbers called hour."""
    if when is None or (when.values.astype("datetime64[D]") != when.values)[~np.isnat(when.values)].any():
        return None
    for column in columns.values():
        looks = not np.isnat(_clock(replace(column, values=column.values[:_FEW]))).any()  # the first rows refuse most
        if column.name != when.name and looks and not np.isnat(_clock(column)).any():
            return column
    return None


def _clock(column: Column) -> NDArray[np.timedelta64]:
    """Seconds after midnight of every row; NaT where a cell is no hour."""
    if column.kind == "number":
        hours = column.values if column.name.lower().startswith(("hora", "hour")) else np.array([np.nan])
        fits = (hours >= 0) & (hours < 24) & (hours == np.floor(hours))
        seconds = np.where(fits, np.nan_to_num(hours) * HOUR, np.nan)
    elif column.kind == "time":
        seconds = np.array([np.nan])
    else:
        read = (_HOUR.fullmatch(cell) for cell in column.values)
        seconds = np.array([np.nan if r is None else int(r[1]) * HOUR + int(r[2] or 0) * MINUTE for r in read])
    return np.array([np.timedelta64("NaT") if np.isnan(s) else np.timedelta64(int(s), "s") for s in seconds])


def _target(columns: Columns, beside: list[str]) -> Column:
    numbers = [c for c in columns.values() if c.kind == "number" and c.name not in beside]
    chosen = [column for column in numbers if not column.counts_rows] or numbers
    if len(chosen) != 1:
        raise Unnamed(_candidates(columns), [column.name for column in chosen])
    return chosen[0]


def _candidates(columns: Columns) -> str:
    names = [column.name for column in columns.values() if column.kind == "number"]
    if not names:
        return f"no column holds numbers: {listed(list(columns))}. A forecast needs one."
    return f"columns of numbers: {listed(names)}. Name one with --target."


def _label(columns: Columns, text: str) -> Column:
    others = [column for column in columns.values() if column.name != text]
    by_name = [column for word in _LABELS for column in others if column.name.lower() == word]
    few = [c for c in others if c.kind == "category"] or [
        c for c in others if c.kind == "number" and c.distinct <= _FEW and not c.counts_rows
    ]
    chosen = by_name[:1] or few
    if not chosen:
        raise UserError("no column holds labels (few values that come again). Name it with --target.")
    if len(chosen) > 1:
        names = [column.name for column in chosen]
        raise Unnamed(f"the label may be any of {listed(names)}. Name it with --target.", names)
    return chosen[0]


def _text(columns: Columns, label: Column) -> Column:
    texts = [c for c in columns.values() if c.kind in ("text", "category") and c.name != label.name]
    named = text_named([column.name for column in texts])
    if not texts:
        raise UserError(f"no column beside '{label.name}' holds text. Name it with --text.")
    return columns[named] if named else max(texts, key=lambda column: mean_length(column.values))


def _refuse_empty(column: Column, kind: str = "") -> None:
    if column.missing == len(column.values):
        raise UserError(f"all values of '{column.name}' are missing. Name another --target.")
    if column.constant:
        raise UserError(
            f"'{column.name}' has the same value in every row ({kind}nothing to learn). Name another --target."
        )


def _refuse_magnitude(column: Column) -> None:
    """Of numbers that a model's 32-bit floats cannot hold."""
    known = column.values[np.isfinite(column.values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    limits = np.finfo(np.float32)
    if (low or high) and not float(limits.tiny) <= max(-low, high) <= float(limits.max):
        raise UserError(
            f"'{column.name}' goes from {low:g} to {high:g}; a model counts in 32-bit floats, from "
            f"{limits.tiny:.1e} to {limits.max:.1e}. Give it in another unit."
        )


def enough(rows: list[Labelled]) -> list[Labelled]:
    """Rows whose label is that of the first row of enough different texts: each split then has its share."""
    first: dict[str, str] = {}
    for _, text, label in rows:
        first.setdefault(" ".join(plain_words(text)) or text, label)
    counts: dict[str, int] = {}
    for label in first.values():
        counts[label] = counts.get(label, 0) + 1
    return [row for row in rows if counts.get(row[2], 0) >= FEWEST_TEXTS]
