"""Forecasting: a week of hours in, the next day out, all 24 hours at once.

    x_t = ((p_t − μ) / σ, sin and cos of the hour of the day, sin and cos of the hour of the week)        t = 1 … 168
    y   = (p_169 … p_192 − μ) / σ                                              μ, σ of the training hours

    loss: Huber (δ = 1) on y          metric: mean |p̂ − p| in the unit of the series

The split is by time, 70 / 15 / 15 %: the future judges. A window lies in one split as a whole, its input too. A window
with an hour in its answer that was not measured is left out. Validation and test are forecast as an operator would,
once a day, at midnight.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.data.power import POWER, WEEK, Series, fill
from oliveira.data.prepared import prepared
from oliveira.data.routes import Say
from oliveira.data.sources import Source, fetch
from oliveira.errors import UserError
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Split, Task, shuffled
from oliveira.tasks.scoring import chunks, judged

HISTORY, DAY = WEEK, 24  # hours in, hours out
FEATURES = 5
SHARES = (0.70, 0.85)  # where validation and test begin
_PREPARING = 1  # raise when `_build` changes
_ROWS = 256  # windows scored together
_RIDGE = 10.0


class ForecastData(Data):
    dynamic = False

    def __init__(self, series: Series, unit: str) -> None:
        edges = [0, *(int(len(series.values) * share) for share in SHARES), len(series.values)]
        self.series, self.unit = series, unit
        train = series.values[: edges[1]]
        self.mean, self.std = float(train.mean()), float(train.std()) or 1.0
        self.x = features(series.values, series.start, self.mean, self.std)  # (hours, FEATURES)
        self.starts = {
            split: _starts(series, low, high, every=1 if split == "train" else DAY)
            for split, low, high in zip(("train", "validation", "test"), edges[:-1], edges[1:], strict=True)
        }
        self.counts = {split: len(starts) for split, starts in self.starts.items()}
        if not all(self.counts.values()):
            raise UserError(
                f"a series of {len(series.values)} hours leaves {self.counts} windows of {HISTORY + DAY} hours. "
                f"Give at least {math.ceil((HISTORY + 2 * DAY) / (1 - SHARES[1]))} hours."
            )
        self.sizes = {"d_in": FEATURES, "d_out": DAY, "gives": "one", "max_len": HISTORY}

    def windows(self, starts: Array) -> tuple[Array, Array]:
        """Inputs (B, HISTORY, FEATURES) and standardised answers (B, DAY), float32."""
        hours = starts[:, None] + np.arange(HISTORY + DAY)
        return self.x[hours[:, :HISTORY]], self.x[hours[:, HISTORY:], 0]

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        starts = self.starts["train"]
        x, y = self.windows(starts[shuffled(number, seed=seed, size=size, count=len(starts))])
        return Batch((torch.from_numpy(x),), torch.from_numpy(y))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(output, targets)

    def forecast(self, model: nn.Module, starts: Array) -> Array:
        """Standardised forecasts, (B, DAY)."""
        with judged(model):
            parts = [model(torch.from_numpy(self.windows(starts[part])[0])) for part in chunks(len(starts), _ROWS)]
        return torch.cat(parts).numpy()

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        starts = self.starts[split]
        return self._score(self.forecast(model, starts), split)

    def _score(self, forecast: Array, split: Split) -> dict[str, float]:
        error = forecast.astype(np.float64) - self.windows(self.starts[split])[1]
        return {"MAE": float(np.abs(error).mean()) * self.std, "MSE": float((error**2).mean())}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:  # type: ignore[override]
        """MAE of the same hour yesterday, the same hour last week, and of ridge regression, on the test split."""
        x, _ = self.windows(self.starts["test"])
        forecasts = {
            "same hour yesterday": x[:, -DAY:, 0],
            "same hour last week": x[:, :DAY, 0],
            "ridge regression": self._ridge(x),
        }
        return {name: self._score(forecast, "test")["MAE"] for name, forecast in forecasts.items()}

    def _ridge(self, x: Array) -> Array:
        """W = (AᵀA + λI)⁻¹ AᵀY, A the 168 values, the calendar of the last hour and 1."""

        def rows(x: Array) -> Array:
            flat = [x[:, :, 0], x[:, -1, 1:], np.ones((len(x), 1))]
            return np.concatenate(flat, axis=1).astype(np.float64)

        known, answers = self.windows(self.starts["train"])
        a = rows(known)
        weights = np.linalg.solve(a.T @ a + _RIDGE * np.eye(a.shape[1]), a.T @ answers)
        return rows(x) @ weights

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "unit": self.unit}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"history": [168 numbers], "start": hour of the first} → {"forecast": [24 numbers], "unit"}."""
        values = _history(request.get("history"))
        start = request.get("start")
        try:
            first = datetime.fromisoformat(str(start))
        except ValueError:
            raise UserError(f'start = {start!r} is not a time. Write it as "2010-05-01T00:00".') from None
        x = features(values, first, state["mean"], state["std"])
        forecast = np.asarray(run(x[None]))[0] * state["std"] + state["mean"]
        return {"forecast": [round(float(value), 4) for value in forecast], "unit": state["unit"]}

    def request(self) -> dict[str, Any]:
        start = int(self.starts["test"][0])
        return {
            "history": [round(float(value), 4) for value in self.series.values[start : start + HISTORY]],
            "start": (self.series.start + timedelta(hours=start)).isoformat(timespec="minutes"),
        }

    def picture(self, model: nn.Module, png: Path) -> bool:
        """The first week of the test: what was measured, and the seven forecasts made at each midnight."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        starts = self.starts["test"][:7]
        forecasts = self.forecast(model, starts) * self.std + self.mean
        first = int(starts[0]) + HISTORY
        hours = np.arange(first, int(starts[-1]) + HISTORY + DAY)
        figure, axes = plt.subplots(figsize=(10, 3.5), constrained_layout=True)
        axes.plot((hours - first) / DAY, self.series.values[hours], color="black", lw=1, label="measured")
        for number, (start, values) in enumerate(zip(starts, forecasts, strict=True)):
            days = (np.arange(DAY) + start + HISTORY - first) / DAY
            axes.plot(days, values, color="tab:red", lw=1.4, label="forecast at midnight" if not number else None)
        axes.set(xlabel=f"days from {self.series.start + timedelta(hours=first):%Y-%m-%d}", ylabel=self.unit)
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
                start=np.array(series.start.isoformat()),
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
            series = Series(datetime.fromisoformat(str(file["start"])), file["values"], file["measured"])
        return ForecastData(series, self.unit)


def features(values: Array, start: datetime, mean: float, std: float) -> Array:
    """(hours, FEATURES) float32: the standardised value, and where the hour stands in the day and in the week."""
    first = start.weekday() * DAY + start.hour
    hours = first + np.arange(len(values))
    day, week = 2 * np.pi * hours / DAY, 2 * np.pi * hours / WEEK
    columns = [(values - mean) / std, np.sin(day), np.cos(day), np.sin(week), np.cos(week)]
    return np.stack(columns, axis=1).astype(np.float32)


def _starts(series: Series, low: int, high: int, *, every: int) -> Array:
    """First hours of the windows inside [low, high) whose answer was measured; `every` = DAY: answers from midnight."""
    starts = np.arange(low, high - HISTORY - DAY + 1)
    if every == DAY:
        starts = starts[(series.start.hour + starts + HISTORY) % DAY == 0]
    unknown = np.concatenate([[0], np.cumsum(~series.measured)])
    answers = starts + HISTORY
    return starts[unknown[answers + DAY] == unknown[answers]]


def _history(given: Any) -> Array:
    if not isinstance(given, list) or len(given) != HISTORY:
        found = f"{len(given)} values" if isinstance(given, list) else repr(given)
        raise UserError(f"history = {found} is not {HISTORY} numbers. Give the last {HISTORY} hourly values.")
    wrong = [
        value
        for value in given
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ]
    if wrong:
        raise UserError(f"history holds {wrong[0]!r}, which is not a finite number. Give {HISTORY} numbers.")
    return np.array(given, dtype=np.float64)


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
