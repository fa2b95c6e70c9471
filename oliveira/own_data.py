"""What a user's own table is: its columns, the tasks that fit it, what is wrong with it, and a picture.

Of the rows it tells counts, and the ranges of numbers and times; no text and no label.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oliveira.data.columns import Column, read_columns
from oliveira.data.labelled import plain_words
from oliveira.data.roles import SeriesRoles, TextRoles
from oliveira.errors import UserError
from oliveira.files import expand, write_atomic
from oliveira.tasks.catalogue import fitting
from oliveira.tasks.own import PATH, OwnSeries, OwnTask, OwnTexts, fitting_kinds, short_name

_LEARNERS = {"forecast": ("gru", "mlp lstm gru"), "classify": ("bilstm", "mlp bilstm")}
_MANY_MISSING, _RARE = 0.2, 0.05
_BARS = 30


@dataclass(frozen=True)
class ColumnFacts:
    name: str
    kind: str
    missing: int
    distinct: int
    smallest: str  # of numbers and times the value; of categories and texts a count
    largest: str


@dataclass(frozen=True)
class TaskFacts:
    kind: str
    fits: bool
    why: str  # why not
    said: list[str]  # what was guessed
    commands: list[str]
    models: list[str]


@dataclass(frozen=True)
class DataFacts:
    file: str
    rows: int
    read: list[str]
    columns: list[ColumnFacts]
    tasks: list[TaskFacts]
    wrong: list[str]
    picture: str  # "" where there is nothing to draw

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def describe_data(file: str, *, home: Path, **options: Any) -> DataFacts:
    """Reads a table and draws HOME/data/NAME.png. `options`: target, time, text, history, horizon; empty = guessed.

    Raises `UserError` for a file without a table, and when options were given with which no task fits.
    """
    path = expand(file).absolute()
    made = fitting_kinds(path, **options)
    table, columns = read_columns(path)
    tasks = {kind: task for kind, task in made.items() if isinstance(task, OwnTask)}
    if not tasks and any(options.values()):
        raise next(error for error in made.values() if isinstance(error, UserError))
    roles = {kind: task.roles()[0] for kind, task in tasks.items() if isinstance(task, OwnSeries | OwnTexts)}
    png = home / "data" / f"{short_name(path)}.png"
    if roles:
        _draw(roles, path.name, png)
    return DataFacts(
        file=str(path),
        rows=len(table.cells),
        read=list(table.said),
        columns=[_facts(column) for column in columns.values()],
        tasks=[_task(kind, task, roles, file) for kind, task in made.items()],
        wrong=[*_wrong(columns), *_wrong_texts(roles.get("classify"))],
        picture=str(png) if roles else "",
    )


def _facts(column: Column) -> ColumnFacts:
    smallest, largest = _range(column)
    return ColumnFacts(column.name, column.kind, column.missing, column.distinct, smallest, largest)


def _range(column: Column) -> tuple[str, str]:
    values = column.values
    if column.missing == len(values):
        return "", ""
    if column.kind == "number":
        return f"{np.nanmin(values):g}", f"{np.nanmax(values):g}"
    if column.kind == "time":
        known = values[~np.isnat(values)]
        return _clock(known.min()), _clock(known.max())
    there = [str(value) for value in values if value]
    if column.kind == "category":
        counts = Counter(there).values()
        return f"{min(counts)} rows", f"{max(counts)} rows"
    lengths = [len(value) for value in there]
    return f"{min(lengths)} characters", f"{max(lengths)} characters"


def _clock(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]")).replace("T00:00", "").replace("T", " ")


def _task(kind: str, task: OwnTask | UserError, roles: dict[str, SeriesRoles | TextRoles], file: str) -> TaskFacts:
    if isinstance(task, UserError):
        return TaskFacts(kind, False, str(task), [], [], [])
    role = roles[kind]
    named = {"target": role.target, **({"text": role.text} if isinstance(role, TextRoles) else {}), **task.options}
    words = shlex.join([f"{kind}{PATH}{file}"])
    options = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in named.items())
    one, several = _LEARNERS[kind]
    commands = [f"oliveira train {words} {one} {options}", f"oliveira compare {words} {several} {options}"]
    models = [found.name for found in fitting(task)]
    return TaskFacts(kind, True, "", list(role.said), commands, models)


def _wrong(columns: dict[str, Column]) -> list[str]:
    wrong = []
    for column in columns.values():
        rows = len(column.values)
        if column.missing == rows:
            wrong.append(f"'{column.name}' has no value at all")
        elif column.missing > _MANY_MISSING * rows:
            wrong.append(f"{column.missing} of {rows} values of '{column.name}' are missing")
        elif column.constant:
            wrong.append(f"'{column.name}' has the same value in every row")
    return wrong


def _wrong_texts(roles: SeriesRoles | TextRoles | None) -> list[str]:
    if not isinstance(roles, TextRoles):
        return []
    texts: dict[str, set[str]] = {}
    for _, text, label in roles.rows:
        texts.setdefault(" ".join(plain_words(text)) or text, set()).add(label)
    wrong = []
    if doubled := len(roles.rows) - len(texts):
        wrong.append(f"{doubled} texts repeat another: they stay on its side of the split")
    if torn := sum(len(labels) > 1 for labels in texts.values()):
        wrong.append(f"{torn} texts have several labels")
    counts = Counter(label for _, _, label in roles.rows)
    if rare := sum(count < _RARE * len(roles.rows) / len(counts) for count in counts.values()):
        wrong.append(f"{rare} classes are rare: less than a twentieth of an equal share")
    return wrong


def _draw(roles: dict[str, SeriesRoles | TextRoles], title: str, png: Path) -> None:
    """The series over time, or classes and lengths of texts; both where both fit."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a $
    import matplotlib.pyplot as plt

    series, texts = roles.get("forecast"), roles.get("classify")
    figure = plt.figure(figsize=(10, 3.5 * len(roles)), constrained_layout=True)
    parts = figure.subfigures(len(roles), 1, squeeze=False)[:, 0]
    if isinstance(series, SeriesRoles):
        axes = parts[0].subplots()
        _draw_series(axes, series)
    if isinstance(texts, TextRoles):
        left, right = parts[-1].subplots(1, 2)
        counts = Counter(label for _, _, label in texts.rows).most_common(_BARS)
        left.barh([label[:24] for label, _ in counts][::-1], [count for _, count in counts][::-1], color="tab:blue")
        left.set(xlabel="texts", ylabel=texts.target)
        right.hist([len(text) for _, text, _ in texts.rows], bins=40, color="tab:blue")
        right.set(xlabel=f"characters of {texts.text}", ylabel="texts")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    plt.close(figure)
    write_atomic(png, buffer.getvalue())


def _draw_series(axes: Any, roles: SeriesRoles) -> None:
    series = roles.series
    every = max(1, len(series.values) // 20_000)
    places = range(0, len(series.values), every)
    values = np.where(series.measured, series.values, np.nan)
    axes.plot([series.time(place) for place in places], values[::every], color="black", lw=0.8, label="measured")
    gaps = np.flatnonzero(~series.measured)
    if len(gaps):
        axes.plot([series.time(int(p)) for p in gaps], series.values[gaps], ".", color="tab:red", ms=3, label="filled")
        axes.legend(loc="upper right")
    axes.set(ylabel=roles.unit, xlabel=series.step.plural if series.start is None else "")
