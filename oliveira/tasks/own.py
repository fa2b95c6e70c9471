"""Tasks of a user's own table: `forecast/path:consumo.csv?target=kwh`, `classify/path:avaliacoes.csv`.

    name      kind/path:FILE?option=value&…       the file's name absolute, options in a fixed order: one name a task
    content   sha256 of the file, in the settings of a run: a changed file makes another run

A name is resolved without the file, so that a trained run answers when it is gone; `check` reads it before anything is
written.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from oliveira.data.columns import read_columns
from oliveira.data.labelled import Labelled
from oliveira.data.roles import SeriesRoles, TextRoles, series_of, text_of
from oliveira.data.series import Step
from oliveira.errors import UserError
from oliveira.files import digest_directory, expand, sha256_file, sha256_json
from oliveira.language import translate
from oliveira.tasks.base import Metric, Say, Task
from oliveira.tasks.classification import TextClassData, opened
from oliveira.tasks.forecasting import ForecastData, fewest

PATH = "/path:"
_LONGEST = 336  # steps of a history that nobody chose
_FARTHEST = 96  # of a horizon
_LARGEST = 100_000  # steps of one that somebody did
_OPTIONS = re.compile(r"\?((?:target|time|text|history|horizon)=[^?]*)$")


@dataclass(frozen=True, kw_only=True)
class OwnTask(Task):
    """What the two kinds share: the file, the column to learn, the name."""

    OPTIONS: ClassVar[tuple[str, ...]]
    KIND: ClassVar[str]
    path: Path
    target: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: getattr(self, name) for name in self.OPTIONS if getattr(self, name)}

    @property
    def folder(self) -> str:
        return folder_of(self.KIND, self.path)

    @property
    def label(self) -> str:
        return f"{self.KIND}{PATH}{self.path.name}"

    def fingerprint(self) -> str:
        self.check()  # says what is wrong with it
        return sha256_json(digest_directory(self.path)) if self.path.is_dir() else sha256_file(self.path)

    def say_all(self, lines: tuple[str, ...], say: Say) -> None:
        for line in lines:
            say(f"{self.path.name}: {translate(line)}")


@dataclass(frozen=True, kw_only=True)
class OwnSeries(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = ("target", "time", "history", "horizon")
    KIND: ClassVar[str] = "forecast"
    time: str = ""
    history: int = 0  # steps in; 0: what suits the step and the length
    horizon: int = 0  # steps out

    def check(self) -> None:
        roles = self.roles()[0]
        self.sized(roles)

    def roles(self) -> tuple[SeriesRoles, tuple[str, ...], str]:
        """The series, how the file was read, its digest."""
        table, columns = read_columns(self.path)
        return series_of(columns, target=self.target, time=self.time), table.said, table.digest

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
        return history, horizon

    def open(self, home: Path, say: Say) -> ForecastData:
        roles, read, digest = self.roles()
        history, horizon = self.sized(roles)
        steps = roles.series.step.plural
        window = f"the last {history} {steps} in, the next {horizon} out"
        self.say_all((*read, *roles.said, window), say)
        data = ForecastData(roles.series, roles.unit, history=history, horizon=horizon)
        data.content = digest
        return data


@dataclass(frozen=True, kw_only=True)
class OwnTexts(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = ("text", "target")
    KIND: ClassVar[str] = "classify"
    text: str = ""

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


_TEXTS: dict[str, Any] = {"vocab_size": 4096, "held_out": 0.15, "max_len": 128}
_KINDS: dict[str, OwnTask] = {
    "forecast": OwnSeries(
        name="",
        title="the next values of {} from its last ones",
        eats="series",
        gives="one",
        metric=Metric(name="MAE", better="lower"),
        licence="your own",
        path=Path(),
        model={"dropout": 0.1},
        train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 30, "weight_decay": 0.01, "beta2": 0.98},
    ),
    "classify": OwnTexts(
        name="",
        title="the label of a text of {}",
        eats="tokens",
        gives="one",
        metric=Metric(name="macro-F1", better="higher"),
        licence="your own",
        path=Path(),
        model={"dropout": 0.2},
        train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 20, "weight_decay": 0.1, "beta2": 0.98},
    ),
}


def is_own(name: str) -> bool:
    return PATH in name


def resolve(name: str, **given: Any) -> OwnTask:
    """The task of a name and of options beside it (empty ones are none). The file is not looked at."""
    kind, _, rest = name.partition(PATH)
    if kind not in _KINDS:
        raise UserError(f"{kind}{PATH}FILE is not known. A table of your own can be {' or '.join(_KINDS)}.")
    pattern = _KINDS[kind]
    options: dict[str, Any] = {}
    if found := _OPTIONS.search(rest):
        rest = rest[: found.start()]
        pairs = (pair.partition("=") for pair in found[1].split("&"))
        options = {key: unquote(value) for key, _, value in pairs}
    options |= {key: value for key, value in given.items() if value}
    for key in options.keys() - set(pattern.OPTIONS):
        raise UserError(f"--{key} has no effect on {kind}{PATH}{rest}. Leave it out.")
    path = expand(rest)
    if not rest:
        raise UserError(f"{name} names no file. Write {kind}{PATH}FILE.")
    sizes = {key: _size(key, value) for key, value in options.items() if key in ("history", "horizon")}
    path = path.absolute()
    known: dict[str, Any] = {**options, **sizes}
    task = replace(pattern, path=path, title=pattern.title.format(path.name), **known)
    said = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in task.options.items())
    return replace(task, name=f"{kind}{PATH}{path}" + (f"?{said}" if said else ""))


def _size(name: str, value: Any) -> int:
    text = str(value)
    if not text.isdecimal() or not 0 < int(text) <= _LARGEST:
        raise UserError(f"--{name} {text} is not a number of steps. Give 1 to {_LARGEST}.")
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


def folder_of(kind: str, path: Path) -> str:
    """A short safe name: `forecast-consumo-1a2b3c4d`."""
    return f"{kind}-{short_name(path)}"


def short_name(path: Path) -> str:
    """Of a file with its whole path, in letters that every disk takes."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:32] or "table"
    return f"{word}-{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"


def fitting_kinds(path: Path, **given: Any) -> dict[str, OwnTask | UserError]:
    """For each kind the task that a file makes, or why it makes none. `UserError` when it holds no table at all."""
    read_columns(path)
    found: dict[str, OwnTask | UserError] = {}
    for kind, pattern in _KINDS.items():
        task = resolve(f"{kind}{PATH}{path}", **{key: given[key] for key in given.keys() & set(pattern.OPTIONS)})
        try:
            task.check()
            found[kind] = task
        except UserError as error:
            found[kind] = error
    return found
