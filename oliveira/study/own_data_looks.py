"""What a task of the user's own data sees in them: what was guessed, what is wrong, and how it is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from oliveira.data.gallery import Gallery
from oliveira.data.labelled import plain_words
from oliveira.data.pair_table import PairRoles
from oliveira.data.roles import SeriesRoles, TextRoles
from oliveira.data.series import Series
from oliveira.tasks.own import OwnSeries, OwnTexts
from oliveira.tasks.own_base import OwnTask
from oliveira.tasks.own_pairs import OwnPairs
from oliveira.tasks.own_pictures import OwnPictures

_RARE = 0.05
_YEARS = 1000, 9000  # that an axis of times is drawn for
_BARS, _LINES = 30, 8
_ROWS, _COLUMNS = 12, 10  # classes and pictures of each that are drawn


@dataclass(frozen=True)
class Look:
    options: dict[str, str]  # that name what was guessed
    said: tuple[str, ...]
    wrong: list[str]
    draw: Callable[[Any], None]  # on a matplotlib figure
    classes: dict[str, int]  # and how many of each, of a folder


def look(task: OwnTask) -> Look:
    """Raises `UserError` as `task.check` does."""
    if isinstance(task, OwnSeries):
        series = task.roles()[0]
        return Look({"target": series.target}, series.said, [], lambda part: _series(part, series), {})
    if isinstance(task, OwnTexts):
        texts, read, _ = task.roles()
        counts = Counter(label for _, _, label in texts.rows)
        wrong = [*_wrong_texts(texts), *_rare(counts)]
        if task.FORM:
            return Look({}, read, wrong, lambda part: _texts(part, texts), dict(counts))
        named = {"target": texts.target, "text": texts.text}
        return Look(named, texts.said, wrong, lambda part: _texts(part, texts), {})
    if isinstance(task, OwnPairs):
        pairs = task.roles()[0]
        named = dict(zip(("source", "target"), pairs.names, strict=True)) if pairs.names else {}
        return Look(named, pairs.said, [], lambda part: _pairs(part, pairs), {})
    assert isinstance(task, OwnPictures)
    gallery = task.gallery()
    counts = Counter(gallery.labels[place] for place in gallery.classes)
    wrong = [f"{gallery.torn} pictures resemble one of another class"] if gallery.torn else []
    size = {"size": str(gallery.pixels.shape[1])}
    return Look(size, gallery.said, [*wrong, *_rare(counts)], lambda part: _pictures(part, gallery), dict(counts))


def _wrong_texts(roles: TextRoles) -> list[str]:
    texts: dict[str, set[str]] = {}
    for _, text, label in roles.rows:
        texts.setdefault(" ".join(plain_words(text)) or text, set()).add(label)
    wrong = []
    if doubled := len(roles.rows) - len(texts):
        wrong.append(f"{doubled} texts repeat another: they stay on its side of the split")
    if torn := sum(len(labels) > 1 for labels in texts.values()):
        wrong.append(f"{torn} texts have several labels")
    return wrong


def _rare(counts: Counter[str]) -> list[str]:
    rare = sum(count < _RARE * counts.total() / len(counts) for count in counts.values())
    return [f"{rare} classes are rare: less than a twentieth of an equal share"] if rare else []


def _series(figure: Any, roles: SeriesRoles) -> None:
    axes, series = figure.subplots(), roles.series
    dated = series.start is not None and all(map(_drawable, roles.groups))
    for number, part in enumerate(sorted(roles.groups, key=lambda part: -len(part.values))[:_LINES]):
        every = max(1, len(part.values) // 20_000)
        values = np.where(part.measured, part.values, np.nan)[::every]
        axes.plot(_places(part, range(0, len(part.values), every), dated), values, color=f"C{number}", lw=0.8)
        if len(gaps := np.flatnonzero(~part.measured)):
            axes.plot(_places(part, gaps, dated), part.values[gaps], ".", color="tab:red", ms=3, label="filled")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(*(part[:1] for part in axes.get_legend_handles_labels()), loc="upper right")
    axes.set(ylabel=roles.unit, xlabel="" if dated else series.step.plural)


def _drawable(series: Series) -> bool:
    """Whether its axis of times, with a margin, stays in the years that there are."""
    ends = [series.time(place) for place in (0, len(series.values) - 1)]
    return all(isinstance(end, datetime) and _YEARS[0] <= end.year <= _YEARS[1] for end in ends)


def _places(series: Series, places: Iterable[int], dated: bool) -> list[Any]:
    return [series.time(int(place)) if dated else int(place) for place in places]


def _texts(figure: Any, roles: TextRoles) -> None:
    left, right = figure.subplots(1, 2)
    counts = Counter(label for _, _, label in roles.rows).most_common(_BARS)
    left.barh([label[:24] for label, _ in counts][::-1], [count for _, count in counts][::-1], color="tab:blue")
    left.set(xlabel="texts", ylabel=roles.target)
    right.hist([len(text) for _, text, _ in roles.rows], bins=40, color="tab:blue")
    right.set(xlabel=f"characters of {roles.text}", ylabel="texts")


def _pairs(figure: Any, roles: PairRoles) -> None:
    axes = figure.subplots()
    pairs = [pair for part in roles.parts.values() for pair in part]
    for side, name in enumerate(roles.names or ("source", "target")):
        axes.hist([len(pair[side].split()) for pair in pairs], bins=range(1, 42), histtype="step", label=name)
    axes.set(xlabel="words", ylabel="texts")
    axes.legend(loc="upper right")


def _pictures(figure: Any, gallery: Gallery) -> None:
    """A few of each class, the commonest classes first."""
    counts = np.bincount(gallery.classes, minlength=len(gallery.labels))
    shown = np.argsort(-counts, kind="stable")[:_ROWS]
    side = gallery.pixels.shape[1]
    sheet = np.full((len(shown) * side, _COLUMNS * side, *gallery.pixels.shape[3:]), 255, dtype=np.uint8)
    for row, label in enumerate(shown):
        for column, place in enumerate(np.flatnonzero(gallery.classes == label)[:_COLUMNS]):
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = gallery.pixels[place]
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    names = [f"{gallery.labels[label][:24]} ({counts[label]})" for label in shown]
    axes.set_yticks([(row + 0.5) * side for row in range(len(shown))], names)
    axes.set_xticks([])
