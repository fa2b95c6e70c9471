"""Tasks of a user's own data: `forecast/path:kwh.csv?target=kwh`, `classify/path:fotos`, `translate/path:pares.tsv`.

    name      kind/path:FILE?option=value&…       the file's name absolute, options in a fixed order: one name a task;
                                                  a ? in the file's name is %3F
              kind/path:FOLDER?of=pictures&…      of a folder or a .zip also what is in it: pictures or texts
    content   sha256 of the data, in the settings of a run: changed data make another run

A name that says what is in a folder is resolved without it, so that a trained run answers when it is gone; `check`
reads the data before anything is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from oliveira.data.collection import Form, form_of
from oliveira.data.columns import read_columns
from oliveira.data.labelled import Labelled
from oliveira.data.own_names import PATH, quoted, unquoted
from oliveira.data.roles import SeriesRoles, TextRoles, series_of, text_of
from oliveira.data.series import Step
from oliveira.data.text_folder import texts_of
from oliveira.errors import UserError
from oliveira.files import expand
from oliveira.tasks.base import Metric, Say
from oliveira.tasks.classification import TextClassData, opened
from oliveira.tasks.forecasting import ForecastData, fewest
from oliveira.tasks.own_base import OwnTask
from oliveira.tasks.own_pairs import PAIRS
from oliveira.tasks.own_pictures import PICTURES

_LONGEST = 336  # steps of a history that nobody chose
_FARTHEST = 96  # of a horizon
_LARGEST = 100_000  # steps of one that somebody did
_NUMBERS = ("history", "horizon", "size")
_OPTIONS = re.compile(
    r"\?((?:of|target|time|text|source|features|known_future|group|history|horizon|size)=[^?]*)\Z", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class OwnSeries(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("target", "time", "features", "known_future", "group"),
        *("history", "horizon"),
    )
    KIND: ClassVar[str] = "forecast"
    target: str = ""
    time: str = ""
    features: str = ""  # columns that are inputs too, divided by commas
    known_future: str = ""  # of such columns those that are known for the horizon
    group: str = ""  # a column whose values tell several series apart
    history: int = 0  # steps in; 0: what suits the step and the length
    horizon: int = 0  # steps out

    def check(self) -> None:
        roles = self.roles()[0]
        self.sized(roles)

    def roles(self) -> tuple[SeriesRoles, tuple[str, ...], str]:
        """The series, how the file was read, its digest."""
        table, columns = read_columns(self.path)
        inputs = tuple(dict.fromkeys((*_names(self.features), *_names(self.known_future))))
        roles = series_of(columns, target=self.target, time=self.time, features=inputs, group=self.group)
        return roles, table.said, table.digest

    def sized(self, roles: SeriesRoles) -> tuple[int, int]:
        """History and horizon, as asked or as the series suggests. `UserError` for a series that is too short."""
        step, count = roles.series.step, len(roles.series.values)
        history, horizon = suggested(step)
        horizon = self.horizon or horizon
        while not self.history and history > 2 * horizon and count < fewest(history, horizon):
            history = max(2 * horizon, history // 2)
        history = self.history or history
        if max(history, horizon) > _LARGEST or count < fewest(history, horizon):
            raise UserError(
                f"{self.path} gives {count} {step.plural}; a history of {history} and a horizon of {horizon} need "
                f"{fewest(history, horizon)}. Give more rows, or less --history or --horizon."
            )
        if self.known_future and horizon > history:
            raise UserError(
                f"--known-future needs a history of at least the horizon, {horizon}; it is {history}. Give --history."
            )
        return history, horizon

    def open(self, home: Path, say: Say) -> ForecastData:
        roles, read, digest = self.roles()
        history, horizon = self.sized(roles)
        steps = roles.series.step.plural
        window = f"the last {history} {steps} in, the next {horizon} out"
        self.say_all((*read, *roles.said, window), say)
        ahead = _names(self.known_future)
        data = ForecastData(roles.groups, roles.unit, history=history, horizon=horizon, known_ahead=ahead)
        data.content = digest
        return data


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class OwnTexts(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = ("text", "target")
    KIND: ClassVar[str] = "classify"
    text: str = ""
    target: str = ""

    def check(self) -> None:
        self.roles()

    def roles(self) -> tuple[TextRoles, tuple[str, ...], str]:
        """The rows, how the file was read, its digest."""
        table, columns = read_columns(self.path)
        return text_of(columns, text=self.text, target=self.target), table.said, table.digest

    def open(self, home: Path, say: Say) -> TextClassData:
        roles, read, digest = self.roles()
        self.say_all((*read, *roles.said), say)

        def rows() -> tuple[list[Labelled], str]:
            return roles.rows, "Nothing of it leaves this machine."

        key = {"content": digest, "options": self.options}
        data = opened(home, self.folder, key, rows, say, name=self.path.name, **_TEXTS)
        data.content = digest
        return data


@dataclass(frozen=True, kw_only=True)
class OwnTextFolder(OwnTexts):
    """A folder or a .zip of texts, a folder a class."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("text",)
    FORM: ClassVar[Form] = "texts"

    def roles(self) -> tuple[TextRoles, tuple[str, ...], str]:
        return texts_of(self.path, self.text)


_TEXTS: dict[str, Any] = {"vocab_size": 4096, "held_out": 0.15, "max_len": 128}
_SERIES = OwnSeries(
    name="",
    title="the next values of {} from its last ones",
    eats="series",
    gives="one",
    metric=Metric(name="MAE", better="lower"),
    licence="your own",
    path=Path(),
    model={"dropout": 0.1},
    train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 30, "weight_decay": 0.01, "beta2": 0.98},
)
_LABELLED: dict[str, Any] = {
    "name": "",
    "title": "the label of a text of {}",
    "eats": "tokens",
    "gives": "one",
    "metric": Metric(name="macro-F1", better="higher"),
    "licence": "your own",
    "path": Path(),
    "model": {"dropout": 0.2},
    "train": {"batch_size": 32, "lr": 2e-3, "warmup_steps": 20, "weight_decay": 0.1, "beta2": 0.98},
}
_PATTERNS: dict[tuple[str, str], OwnTask] = {
    (one.KIND, one.FORM): one for one in (_SERIES, OwnTexts(**_LABELLED), PAIRS, OwnTextFolder(**_LABELLED), PICTURES)
}


def is_own(name: str) -> bool:
    return PATH in name


def resolve(name: str, **given: Any) -> OwnTask:
    """The task of a name and of options beside it (empty ones are none). The data are not read: where the name does not
    say what a folder holds, the names in it do."""
    kind, _, rest = name.partition(PATH)
    kinds = dict.fromkeys(known for known, _ in _PATTERNS)
    if kind not in kinds:
        raise UserError(f"{kind}{PATH}FILE is not known. Data of your own can be {' or '.join(kinds)}.")
    options: dict[str, Any] = {}
    if found := _OPTIONS.search(rest):
        rest = rest[: found.start()]
        pairs = (pair.partition("=") for pair in found[1].split("&"))
        options = {key: unquote(value) for key, _, value in pairs}
    if not rest:
        raise UserError(f"{name} names no file. Write {kind}{PATH}FILE.")
    path = expand(unquoted(rest)).absolute()
    form = options.pop("of", "") or form_of(path)
    if (pattern := _PATTERNS.get((kind, form))) is None:
        raise UserError(f"{path} is a folder or .zip of {form}, not a table. {kind} needs a table.")
    options |= {key: value for key, value in given.items() if value}
    for key in options.keys() - set(pattern.OPTIONS):
        raise UserError(f"--{key.replace('_', '-')} has no effect on {kind}{PATH}{rest}. Leave it out.")
    known: dict[str, Any] = {key: _size(key, value) if key in _NUMBERS else value for key, value in options.items()}
    task = replace(pattern, path=path, title=pattern.title.format(path.name), **known)
    said = "&".join(
        f"{key}={quote(str(value), safe='')}"
        for key, value in {**({"of": form} if form else {}), **task.options}.items()
    )
    return replace(task, name=f"{kind}{PATH}{quoted(str(path))}" + (f"?{said}" if said else ""))


def _size(name: str, value: Any) -> int:
    text = str(value)
    if not text.isdecimal() or not 0 < int(text) <= _LARGEST:
        raise UserError(f"--{name} {text} is not a whole number from 1 to {_LARGEST}. Give one.")
    return int(text)


def suggested(step: Step) -> tuple[int, int]:
    """History and horizon: a week and a day of what is shorter than a day, else a few periods and a part of one."""
    periods = step.calendar
    if "day" in periods:
        return min(round(periods["week"]), _LONGEST), min(round(periods["day"]), _FARTHEST)
    if "week" in periods:
        return 4 * round(periods["week"]), round(periods["week"])
    if "year" in periods:
        year = round(periods["year"])
        return max(year, 8), max(1, min(year // 4, 4))
    return (8, 2) if step.months else (24, 4)


def fitting_kinds(path: Path, **given: Any) -> dict[str, OwnTask | UserError]:
    """For each kind the task that a file or folder makes, or why it makes none. `UserError` when it holds no data."""
    if not (form := form_of(path)):
        read_columns(path)
    found: dict[str, OwnTask | UserError] = {}
    for (kind, of), pattern in _PATTERNS.items():
        if of != form:
            continue
        task = resolve(f"{kind}{PATH}{quoted(str(path))}", **{key: given.get(key) for key in pattern.OPTIONS})
        try:
            task.check()
            found[kind] = task
        except UserError as error:
            found[kind] = error
    return found
