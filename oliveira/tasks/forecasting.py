"""Forecasting: the last steps of a series in, the next ones out, all at once.

    x_t = ((p_t − μ) / σ, sin and cos of where t stands in each period of the calendar)        t = 1 … history
    y   = (p_{history+1} … p_{history+horizon} − μ) / σ                    μ, σ of the training steps

    loss: Huber (δ = 1) on y          metric: mean |p̂ − p| in the unit of the series

Of hours the periods are day and week (`Step.calendar`); a week of them in gives the next day. The split is by time,
70 / 15 / 15 %: the future judges. A window lies in one split as a whole, its input too. A window with a step in its
answer that was not measured is left out. A horizon of a day is judged as an operator would forecast, once a day, at
midnight; any other at every step.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.data.power import POWER, WEEK, fill
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.series import HOURLY, Series, Step, joined
from oliveira.data.sources import Source, fetch
from oliveira.data.split import SPLITS
from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.strict_json import in_words
from oliveira.tasks import classical
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Split, Task, refuse_unknown, shuffled
from oliveira.tasks.observing import LIMIT, arrived, bounded, evenly
from oliveira.tasks.scoring import SAMPLE, chunks, judged, spaced

HISTORY, DAY = WEEK, 24  # hours in, hours out
SHARES = (0.70, 0.85)  # where validation and test begin
_LARGEST = sys.float_info.max
AHEAD = " ahead"  # how a column is called that looks into the horizon
_PREPARING = 1  # raise when `_build` changes
_ROWS = 256  # windows scored together
_JUDGED = 2000  # windows of a split at most, evenly spaced
_PICTURED = 7  # forecasts
_RIDGE, _FITTED = 10.0, 30_000  # λ, windows that it is fitted to


class ForecastData(Data):
    fields = ("history", "start", "features")
    dynamic = False

    def __init__(
        self,
        series: Series | Sequence[Series],
        unit: str,
        *,
        history: int,
        horizon: int,
        known_ahead: Sequence[str] = (),
    ) -> None:
        """`history` steps in, `horizon` steps out, of one series or of several with the same step and columns.
        `known_ahead`: columns beside that are known for the steps out too. `UserError` when a split has no window."""
        self.parts = [series] if isinstance(series, Series) else list(series)
        self.series = series = joined(self.parts)
        self.unit, self.history, self.horizon = unit, history, horizon
        count = len(series.values)
        self.first = np.cumsum([0, *(len(part.values) for part in self.parts)])  # steps of the parts, then the end
        shares = [[0, *(int(len(part.values) * share) for share in SHARES), len(part.values)] for part in self.parts]
        self.edges = {  # of each part the first step, and that after the last
            split: [(at + edges[n], at + edges[n + 1]) for at, edges in zip(self.first[:-1], shares, strict=True)]
            for n, split in enumerate(SPLITS)
        }
        self.mean, self.std = self._moments(series.values)
        self.beside: list[dict[str, Any]] = [
            dict(
                zip(("name", "mean", "std", "ahead"), (name, *self._moments(values), name in known_ahead), strict=True)
            )
            for name, values in series.beside.items()
        ]
        inputs = [features(part, self.mean, self.std, self.beside, horizon) for part in self.parts]
        self.x = np.concatenate(inputs) if len(inputs) > 1 else inputs[0]  # (steps, d_in)
        self.starts = {split: self._starts(split, judges=split != "train") for split in SPLITS}
        self.counts = {split: len(starts) for split, starts in self.starts.items()}
        if not all(self.counts.values()):
            steps = series.step.plural
            raise UserError(
                f"a series of {count} {steps} leaves {self.counts} windows of {history + horizon} {steps}. "
                f"Give at least {fewest(history, horizon)} {steps}."
            )
        self.sizes = {"d_in": self.x.shape[1], "d_out": horizon, "max_len": history}

    def _moments(self, values: Array) -> tuple[float, float]:
        """Mean and standard deviation of the training steps."""
        train = np.concatenate([values[low:high] for low, high in self.edges["train"]])
        return float(train.mean()), float(train.std()) or 1.0

    def _starts(self, split: str, *, judges: bool) -> Array:
        """First steps of the windows inside a split of one part whose answer was measured."""
        series, history, horizon = self.series, self.history, self.horizon
        found = []
        for part, at, (low, high) in zip(self.parts, self.first[:-1], self.edges[split], strict=True):
            inside = np.arange(low, high - history - horizon + 1)
            if judges and horizon == part.step.calendar.get("day"):  # at midnights
                of_week = int(part.step.position(part.start, "week"))
                inside = inside[(of_week + inside - at + history) % horizon == 0]
            found.append(inside)
        starts = np.concatenate(found)
        unknown = np.concatenate([[0], np.cumsum(~series.measured)])
        answers = starts + history
        starts = starts[unknown[answers + horizon] == unknown[answers]]
        return spaced(starts, _JUDGED) if judges else starts

    def windows(self, starts: Array) -> tuple[Array, Array]:
        """Inputs (B, history, d_in) and standardised answers (B, horizon), float32."""
        steps = starts[:, None] + np.arange(self.history + self.horizon)
        return self.x[steps[:, : self.history]], self.x[steps[:, self.history :], 0]

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        starts = self.starts["train"]
        x, y = self.windows(starts[shuffled(number, seed=seed, size=size, count=len(starts))])
        return Batch((torch.from_numpy(x),), torch.from_numpy(y))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(output, targets)

    def forecast(self, model: nn.Module, starts: Array) -> Array:
        """Standardised forecasts, (B, horizon)."""
        with judged(model):
            parts = [model(torch.from_numpy(self.windows(starts[part])[0])) for part in chunks(len(starts), _ROWS)]
        return torch.cat(parts).numpy()

    def losses(self, model: nn.Module) -> tuple[float, float]:
        samples = (spaced(self.starts[split], SAMPLE) for split in ("train", "validation"))
        train, validation = (
            float(self.loss(torch.from_numpy(self.forecast(model, s)), torch.from_numpy(self.windows(s)[1])))
            for s in samples
        )
        return train, validation

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        starts = self.starts[split]
        return self._score(self.forecast(model, starts), split)

    def _score(self, forecast: Array, split: Split) -> dict[str, float]:
        error = forecast.astype(np.float64) - self.windows(self.starts[split])[1]
        return {"MAE": float(np.abs(error).mean()) * self.std, "MSE": float((error**2).mean())}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """MAE on the test split of the last value, of the value a day, week or year before, and of ridge regression."""
        starts, x = self.starts["test"], self.windows(self.starts["test"])[0]
        forecasts = {"last value": np.repeat(x[:, -1:, 0], self.horizon, axis=1)}
        for period, length in self.series.step.calendar.items():
            if (before := self._season(starts, round(length))) is not None:
                forecasts[self.series.step.ago(period)] = before
        forecasts["ridge regression"] = self._ridge(x)
        return {name: self._score(forecast, "test")["MAE"] for name, forecast in forecasts.items()}

    def peers(self) -> dict[str, float]:
        """MAE on the test split of AutoETS and AutoARIMA, for one series."""
        if not classical.available() or len(self.parts) > 1:
            return {}
        values, ends = self.x[:, 0].astype(np.float64), self.starts["test"] + self.history
        season = round(next(iter(self.series.step.calendar.values()), 1))
        found = classical.forecasts(values[: self.edges["train"][0][1]], values, ends, self.horizon, season)
        return {name: self._score(forecast, "test")["MAE"] for name, forecast in found.items()}

    def _season(self, starts: Array, season: int) -> Array | None:
        """The newest known value a whole number of seasons before each step, (B, horizon); None where there is none."""
        ahead = np.arange(self.horizon)
        back = season * (1 + ahead // season)  # an answer longer than a season repeats the last one
        places = starts[:, None] + self.history + ahead - back
        begins = self.first[np.searchsorted(self.first, starts, side="right") - 1]
        return None if season < 2 or (places < begins[:, None]).any() else self.x[places, 0]

    def _ridge(self, x: Array) -> Array:
        """W = (AᵀA + λI)⁻¹ AᵀY, A the values of the history, all else of its last step, what is known ahead, and 1."""
        ahead = [place for place, name in enumerate(columns_of(self.series.step, self.beside)) if name.endswith(AHEAD)]

        def rows(x: Array) -> Array:
            known = x[:, -self.horizon :, ahead].reshape(len(x), -1)
            flat = [x[:, :, 0], x[:, -1, 1:], known, np.ones((len(x), 1))]
            return np.concatenate(flat, axis=1).astype(np.float64)

        known, answers = self.windows(spaced(self.starts["train"], _FITTED))
        a = rows(known)
        weights = np.linalg.solve(a.T @ a + _RIDGE * np.eye(a.shape[1]), a.T @ answers)
        return rows(x) @ weights

    def state(self) -> dict[str, Any]:
        step = {"seconds": self.series.step.seconds, "months": self.series.step.months}
        sizes = {"history": self.history, "horizon": self.horizon}
        beside = {"beside": self.beside} if self.beside else {}
        return {"mean": self.mean, "std": self.std, "unit": self.unit, "step": step, **sizes, **beside}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"history": [numbers], "start": time of the first, "features": {name: [numbers]}} → {"forecast": [numbers],
        "unit"}. Of what is known ahead the steps to come follow those of the history."""
        asked = _asked(state, request)
        _refuse_far("history", asked.values, state["mean"], state["std"])
        for one in state.get("beside", []):
            _refuse_far(f"features.{one['name']}", asked.beside[one["name"]], one["mean"], one["std"])
        x = features(asked, state["mean"], state["std"], state.get("beside", []), _horizon(state))
        forecast = np.asarray(run(x[None]))[0] * state["std"] + state["mean"]
        return {"forecast": [round(float(value), 4) for value in forecast], "unit": state["unit"]}

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Of the history and of the forecast, in standard deviations of the training steps; and the hour or day."""
        mean, std = state["mean"], state["std"]
        past, ahead = (bounded((np.array(v, float) - mean) / std) for v in (request["history"], answer["forecast"]))
        half = len(past) // 2
        given = request.get("features", {})
        inputs = {
            f"feature {one['name']}": float(bounded((np.mean(given[one["name"]]) - one["mean"]) / one["std"]))
            for one in state.get("beside", [])
        }
        return (
            _place(_step(state), request)
            | inputs
            | {
                "level": float(past.mean()),
                "spread": float(past.std()),
                "trend": float(past[half:].mean() - past[: max(1, half)].mean()),
                "last step": float(past[-1] - past[max(0, len(past) - 2)]),
                "forecast level": float(ahead.mean()),
                "forecast spread": float(ahead.std()),
                "jump": float(ahead[0] - past[-1]),
            }
        )

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """Mean absolute error in the unit of the series."""
        forecast = np.array(answer["forecast"], dtype=np.float64)
        right = _numbers("truth", truth, len(forecast), f"the {len(forecast)} values that came")
        _refuse_far("truth", right, state["mean"], state["std"])
        with np.errstate(over="ignore"):
            return float(np.nan_to_num(np.abs(forecast - right).mean()))

    def requests(self, split: Split, count: int) -> list[tuple[dict[str, Any], list[float]]]:
        """Of all hours of the day: people ask whenever they like, not at midnight as the judge does."""
        starts = self._starts(split, judges=False)
        values, length = self.series.values, self.history
        chosen = [int(starts[place]) for place in evenly(len(starts), count)]
        return [(self._request(s), values[s + length : s + length + self.horizon].tolist()) for s in chosen]

    def learn(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> Batch:
        state, low, high = self.state(), self.mean - LIMIT * self.std, self.mean + LIMIT * self.std
        inputs, targets = [], []
        for request, truth in arrived(pairs):
            asked = _asked(state, request)
            near = replace(asked, values=asked.values.clip(low, high))
            inputs.append(features(near, self.mean, self.std, self.beside, self.horizon))
            right = _numbers("truth", truth, self.horizon, f"the {self.horizon} values that came")
            targets.append((right.clip(low, high) - self.mean) / self.std)
        x, y = np.stack(inputs), np.stack(targets).astype(np.float32)
        return Batch((torch.from_numpy(x),), torch.from_numpy(y))

    def time(self, place: int) -> datetime | int:
        """When a value of its part was measured; its number where steps are counted."""
        part = int(np.searchsorted(self.first, place, side="right")) - 1
        return self.parts[part].time(place - int(self.first[part]))

    def _request(self, start: int) -> dict[str, Any]:
        first = self.time(start)
        asked: dict[str, Any] = {"history": self.series.values[start : start + self.history].tolist()}
        if self.beside:
            ends = {one["name"]: start + self.history + self.horizon * one["ahead"] for one in self.beside}
            asked["features"] = {name: self.series.beside[name][start:end].tolist() for name, end in ends.items()}
        return asked | ({"start": first.isoformat(timespec="seconds")} if isinstance(first, datetime) else {})

    def request(self) -> dict[str, Any]:
        start = int(self.starts["test"][0])
        values = self.series.values[start : start + self.history]
        first = self.time(start)
        if self.content:  # what a user measured is in no example that others are shown
            values = np.linspace(self.mean - self.std, self.mean + self.std, self.history)
            first = datetime(2024, 1, 1) if self.series.start is not None else 0
        asked: dict[str, Any] = {"history": [round(float(value), 4) for value in values]}
        if self.beside:
            asked["features"] = {
                one["name"]: [round(one["mean"], 4)] * (self.history + self.horizon * one["ahead"])
                for one in self.beside
            }
        return asked | ({"start": first.isoformat(timespec="minutes")} if isinstance(first, datetime) else {})

    def picture(self, model: nn.Module, png: Path) -> bool:
        """The beginning of the test: what was measured, and forecasts that follow each other (a week of midnights)."""
        plt = pyplot()
        test = self.starts["test"]
        end = self.first[np.searchsorted(self.first, test[0], side="right")]  # of the part that is drawn
        starts = test[((test - test[0]) % self.horizon == 0) & (test < end)][:_PICTURED]
        forecasts = self.forecast(model, starts) * self.std + self.mean
        first = int(starts[0]) + self.history
        steps = np.arange(first, int(starts[-1]) + self.history + self.horizon)
        day = self.series.step.calendar.get("day")
        unit, name = (day, "days") if day else (1, self.series.step.plural)
        figure, axes = plt.subplots(figsize=(10, 3.5), constrained_layout=True)
        axes.plot((steps - first) / unit, self.series.values[steps], color="black", lw=1, label="measured")
        for number, (start, values) in enumerate(zip(starts, forecasts, strict=True)):
            ahead = (np.arange(self.horizon) + start + self.history - first) / unit
            axes.plot(ahead, values, color="tab:red", lw=1.4, label="forecast" if not number else None)
        begin = self.time(first)
        axes.set(xlabel=f"{name} from {begin:%Y-%m-%d}" if isinstance(begin, datetime) else f"{name} from {begin}")
        axes.set(ylabel=self.unit)
        axes.legend(loc="upper right")
        figure.savefig(png, dpi=110, format="png")
        plt.close(figure)
        return True


@dataclass(frozen=True, kw_only=True)
class Forecasting(Task):
    kind: ClassVar[type[Data]] = ForecastData
    source: Source[tuple[str, str]]
    unit: str

    def open(self, home: Path, say: Say) -> ForecastData:
        def build(folder: Path) -> None:
            route, rows = fetch(self.source, home, say)
            series = fill(rows)
            np.savez(
                folder / "series.npz",
                start=np.array(rows[0][0]),
                values=series.values,
                measured=series.measured,
            )
            gaps = int((~series.measured).sum())
            say(
                f"{self.source.name}: {len(rows):,} hours, {gaps} more filled from a week before. Route: {route}. "
                f"Licence: {self.licence}"
            )

        key = {"content": self.source.content, "preparing": _PREPARING}
        folder = prepared(home, self.name.replace("/", "-"), key, build, say)
        with np.load(folder / "series.npz") as file:
            series = Series(datetime.fromisoformat(str(file["start"])), file["values"], file["measured"], HOURLY)
        return ForecastData(series, self.unit, history=HISTORY, horizon=DAY)


def features(series: Series, mean: float, std: float, beside: Sequence[dict[str, Any]] = (), horizon: int = 0) -> Array:
    """(steps, columns) float32: the standardised value, where the step stands in each period, and of each column
    `beside` the standardised value, of what is known ahead also that of `horizon` steps later."""
    count = len(series.values)
    columns = [(series.values - mean) / std]
    for period, length in series.step.calendar.items():
        angle = 2 * np.pi * (series.step.position(series.start, period) + np.arange(count)) / length
        columns += [np.sin(angle), np.cos(angle)]
    for one in beside:
        values = ((series.beside[one["name"]] - one["mean"]) / one["std"]).clip(-LIMIT, LIMIT)
        columns.append(values[:count])
        if one["ahead"]:  # no window reaches where the end is repeated
            columns.append(np.concatenate([values, np.repeat(values[-1:], horizon)])[horizon : horizon + count])
    return np.stack(columns, axis=1).astype(np.float32)


def columns_of(step: Step, beside: Sequence[dict[str, Any]]) -> list[str]:
    """Names of what `features` gives."""
    calendar = [f"{name} of the {period}" for period in step.calendar for name in ("sin", "cos")]
    names = [[one["name"], f"{one['name']}{AHEAD}"][: 1 + one["ahead"]] for one in beside]
    return ["value", *calendar, *itertools.chain(*names)]


def fewest(history: int, horizon: int) -> int:
    """Steps that a series needs: a window and a horizon more in the shortest split."""
    return math.ceil((history + 2 * horizon) / (1 - SHARES[1]))


def _step(state: dict[str, Any]) -> Step:
    return Step(**state["step"]) if "step" in state else HOURLY  # older runs were all of hours


def _asked(state: dict[str, Any], request: dict[str, Any]) -> Series:
    """The history of a request. `UserError` names the field that is wrong."""
    step, count = _step(state), state.get("history", HISTORY)
    values = _numbers("history", request.get("history"), count, f"the last {count} values, one a {step.name}")
    first = _time(request.get("start")) if step.calendar else None
    given, beside = request.get("features", {}), {}
    if isinstance(given, dict):
        refuse_unknown(given, [one["name"] for one in state.get("beside", [])], "features.")
    for one in state.get("beside", []):
        name, ahead = one["name"], _horizon(state) * one["ahead"]
        wanted = f"the last {count}" + (f" and the next {ahead}" if ahead else "")
        found = given.get(name) if isinstance(given, dict) else None
        beside[name] = _numbers(f"features.{name}", found, count + ahead, wanted)
    return Series(first, values, np.ones(count, dtype=bool), step, beside)


def _horizon(state: dict[str, Any]) -> int:
    return int(state.get("horizon", DAY))


def _place(step: Step, request: dict[str, Any]) -> dict[str, float]:
    """Where the first hour stands in the shortest period of the calendar: in a longer one every season would be new."""
    for period, length in step.calendar.items():
        return {"calendar": step.position(_time(request["start"]), period) % length / length}
    return {}


def _time(given: Any) -> datetime:
    """As the clock showed it: an offset is left out, as of the times of a table."""
    try:
        if not isinstance(given, str):
            raise UserError(f'start is {in_words(given)}, not a time. Write it as "2010-05-01T00:00".')
        return datetime.fromisoformat(given).replace(tzinfo=None)
    except ValueError:
        raise UserError(f'start = "{given[:60]}" is not a time. Write it as "2010-05-01T00:00".') from None


def _numbers(field: str, given: Any, count: int, wanted: str) -> Array:
    """A list of finite numbers, none of which is ever in a sentence: they are what a user measured."""
    if not isinstance(given, list) or len(given) != count:
        raise UserError(f"{field} is {in_words(given)}, not a list of {count} numbers. Give {wanted}.")
    for place, value in enumerate(given):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise UserError(f"{field}[{place}] is {in_words(value)}, not a finite number. Give {count} numbers.")
    return np.array(given, dtype=np.float64)


def _refuse_far(field: str, values: Array, mean: float, std: float) -> None:
    """What lies farther off than anything that training saw tells a model nothing: its answer would be made up."""
    with np.errstate(over="ignore"):
        far = np.flatnonzero(~(np.abs(values / std - mean / std) <= LIMIT))
    if len(far):
        raise UserError(
            f"{field}[{far[0]}] is more than {LIMIT:.0e} standard deviations from what the model was trained on. "
            "Correct it, or train on such values."
        )


TASKS: tuple[Task, ...] = (
    Forecasting(
        name="forecast/power",
        title="the next 24 hours of a household's power from the last 168",
        eats="series",
        gives="one",
        metric=Metric(name="MAE", better="lower", unit="kW"),
        licence=POWER.licence,
        source=POWER,
        unit="kW",
        model={"dropout": 0.1},
        train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 30, "weight_decay": 0.01, "beta2": 0.98},
    ),
)
