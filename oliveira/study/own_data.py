"""What a user's own table or folder is: columns or classes, the tasks that fit it, what is wrong with it, a picture.

Of the rows it tells counts, and the ranges of numbers and times; no text and no label of a table.
"""

from __future__ import annotations

import io
import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oliveira.data.collection import form_of
from oliveira.data.columns import Column, read_columns
from oliveira.data.own_names import PATH, quoted
from oliveira.data.roles import Unnamed
from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.files import expand, write_atomic
from oliveira.study.own_data_looks import Look, look
from oliveira.study.own_data_texts import Texts, is_text, texts_in
from oliveira.tasks.catalogue import fitting, suits
from oliveira.tasks.own import fitting_kinds, resolve
from oliveira.tasks.own_base import OwnTask, short_name

_COMPARED = {  # by what a task eats
    "series": "mlp lstm gru",
    "tokens": "mlp bilstm",
    "image": "mlp cnn vit",
    "pairs": "transformer seq2seq",
}
_MANY_MISSING = 0.2
_TRIED = 5  # columns that may be the target
_HEIGHT = 3.5  # inches of what one task draws


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
    needs: str  # the option that says which column, where no more than that is missing
    models: list[str]


@dataclass(frozen=True)
class DataFacts:
    file: str
    rows: int  # of a table; of a folder pictures or texts
    read: list[str]
    columns: list[ColumnFacts]  # of a table
    classes: dict[str, int]  # of a folder
    documents: int  # of texts
    characters: int
    tasks: list[TaskFacts]
    wrong: list[str]
    picture: str  # "" where there is nothing to draw

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def describe_data(file: str, *, home: Path, **options: Any) -> DataFacts:
    """Reads a table or folder and draws HOME/data/NAME.png. `options`: those of the tasks; empty = guessed.

    Raises `UserError` for a file without a table, and when options were given, or a folder, with which no task fits.
    """
    path = expand(file).absolute()
    form = form_of(path)
    texts = texts_in(path, options.get("text") or "", file, home) if form == "texts" or is_text(path) else None
    made = fitting_kinds(path, **options) if form or not texts else {}
    tasks = {kind: task for kind, task in made.items() if isinstance(task, OwnTask)}
    nearly = _nearly(made, path, options)
    if not texts and not tasks and not nearly and (form or any(options.values())):
        raise next(error for error in made.values() if isinstance(error, UserError))
    looks = {kind: look(task) for kind, task in tasks.items()}
    png = home / "data" / f"{short_name(path)}.png"
    not_drawn = _draw(list(looks.values()), path.name, png) if looks else []
    classes = next(iter(looks.values())).classes if form and looks else {}
    table, columns = (None, {}) if form or texts else read_columns(path)
    doubts = [line for column in columns.values() for line in column.doubts]
    return DataFacts(
        file=str(path),
        rows=sum(classes.values()) if table is None else len(table.cells),
        read=list(table.said) if table else list(texts.said) if texts else [],
        columns=[_facts(column) for column in columns.values()],
        classes=classes,
        documents=texts.documents if texts else 0,
        characters=texts.characters if texts else 0,
        tasks=[
            *([_text_life(texts)] if texts else []),
            *(_task(kind, nearly.get(kind, task), looks.get(kind), file, doubts, task) for kind, task in made.items()),
        ],
        wrong=[*_wrong(columns), *doubts, *(line for seen in looks.values() for line in seen.wrong), *not_drawn],
        picture=str(png) if looks and not not_drawn else "",
    )


def _text_life(texts: Texts) -> TaskFacts:
    return TaskFacts("text", not texts.why, texts.why, [], [] if texts.why else texts.commands, "", ["gpt"])


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


def _nearly(made: dict[str, OwnTask | UserError], path: Path, options: dict[str, Any]) -> dict[str, OwnTask]:
    """The tasks that fit once one of several columns is named: with the first that they fit with."""
    fitting_once_named: dict[str, OwnTask] = {}
    for kind, error in made.items():
        for name in error.columns[:_TRIED] if isinstance(error, Unnamed) else ():
            task = fitting_kinds(path, **{**options, "target": name})[kind]
            if isinstance(task, OwnTask):
                fitting_once_named[kind] = task
                break
    return fitting_once_named


def _task(
    kind: str, task: OwnTask | UserError, seen: Look | None, file: str, doubts: list[str], made: OwnTask | UserError
) -> TaskFacts:
    if isinstance(task, UserError):
        return TaskFacts(kind, False, str(task), [], [], "", [])
    words = shlex.join([f"{kind}{PATH}{quoted(file)}"])
    named = {**(seen.options if seen else {}), **task.options}
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in named.items())
    one, several = suits(task), _COMPARED[task.eats]
    commands = [f"oliveira train {words} {one}{options}", f"oliveira compare {words} {several}{options}"]
    if named.keys() <= {"target"}:
        commands.append(f"oliveira up --task {kind} --data {shlex.quote(file)}{options}")
    else:  # which `up` takes in the task's name
        commands.append(f"oliveira up --task {shlex.quote(resolve(f'{kind}{PATH}{quoted(file)}', **named).name)}")
    models = [model.name for model in fitting(task)]
    if isinstance(made, UserError):
        return TaskFacts(kind, False, str(made), [], commands, "--target", models)
    said = [line for line in seen.said if line not in doubts] if seen else []
    return TaskFacts(kind, True, "", said, commands, "", models)


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


def _draw(looks: list[Look], title: str, png: Path) -> list[str]:
    """What each task that fits sees, one below the other. What cannot be drawn is said: the rest is true without it."""
    plt = pyplot()
    figure = plt.figure(figsize=(10, _HEIGHT * len(looks)), constrained_layout=True)
    buffer = io.BytesIO()
    try:
        for part, seen in zip(figure.subfigures(len(looks), 1, squeeze=False)[:, 0], looks, strict=True):
            seen.draw(part)
        figure.suptitle(title)
        figure.savefig(buffer, dpi=110, format="png")
    except (ArithmeticError, ValueError, RuntimeError) as error:
        return [f"it cannot be drawn ({type(error).__name__})"]
    finally:
        plt.close(figure)
    write_atomic(png, buffer.getvalue())
    return []
