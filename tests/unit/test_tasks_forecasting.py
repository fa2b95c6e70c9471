"""Forecasts of hours: the right answers, no look into the future, and a request there and back."""

from __future__ import annotations

import dataclasses
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.data.series import HOURLY, Series
from oliveira.data.sources import content_digest
from oliveira.errors import UserError
from oliveira.tasks.base import Array
from oliveira.tasks.catalogue import task
from oliveira.tasks.forecasting import DAY, HISTORY, ForecastData, Forecasting
from oliveira.tasks.scoring import runner

START = datetime(2010, 3, 1, 17)
HOURS = 24 * 80


def _series() -> Series:
    """A day's and a week's rhythm with noise; a gap of three hours."""
    time = np.arange(HOURS)
    noise = np.random.default_rng(0).normal(size=HOURS) * 0.1
    values = 2 + np.sin(2 * np.pi * time / 24) + 0.5 * np.sin(2 * np.pi * time / 168) + noise
    measured = np.ones(HOURS, dtype=bool)
    measured[[500, 501, 502, HOURS - 60]] = False
    return Series(START, values, measured, HOURLY)


def day_ahead(series: Series) -> ForecastData:
    return ForecastData(series, "kW", history=HISTORY, horizon=DAY)


@pytest.fixture(scope="module")
def data() -> ForecastData:
    return day_ahead(_series())


class LastWeek(nn.Module):
    """The same hour a week ago."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x[:, :DAY, 0]


def test_the_answer_is_what_comes_next() -> None:
    data = day_ahead(Series(START, np.arange(HOURS, dtype=float), np.ones(HOURS, dtype=bool), HOURLY))
    batch = data.batch(3, seed=1, size=16)
    x = batch.inputs[0][:, :, 0] * data.std + data.mean
    hours = batch.targets * data.std + data.mean
    assert batch.inputs[0].shape == (16, HISTORY, data.sizes["d_in"]) and batch.targets.shape == (16, DAY)
    assert torch.allclose(x[:, 1:] - x[:, :-1], torch.ones(1), atol=1e-2)
    assert torch.allclose(hours - x[:, -1:], torch.arange(1.0, DAY + 1), atol=1e-2)
    assert batch.inputs[0].dtype == batch.targets.dtype == torch.float32


def test_the_calendar_tells_the_hour_and_the_weekday(data: ForecastData) -> None:
    times = [START + timedelta(hours=hour) for hour in range(HOURS)]
    hour = np.round(np.arctan2(data.x[:, 1], data.x[:, 2]) / (2 * np.pi) * 24) % 24
    week = np.round(np.arctan2(data.x[:, 3], data.x[:, 4]) / (2 * np.pi) * 168) % 168
    assert hour.tolist() == [time.hour for time in times]
    assert week.tolist() == [time.weekday() * 24 + time.hour for time in times]


def test_no_window_crosses_a_split_and_the_scale_is_that_of_training(data: ForecastData) -> None:
    edges = [0, int(0.7 * HOURS), int(0.85 * HOURS), HOURS]
    for number, split in enumerate(("train", "validation", "test")):
        starts = data.starts[split]
        assert starts.min() >= edges[number] and starts.max() + HISTORY + DAY <= edges[number + 1]
        assert data.counts[split] == len(starts) > 0
    assert data.mean == pytest.approx(data.series.values[: edges[1]].mean())
    changed = Series(
        START, np.where(np.arange(HOURS) >= edges[1], 99.0, data.series.values), data.series.measured, HOURLY
    )
    later = day_ahead(changed)
    assert (later.mean, later.std) == (data.mean, data.std)
    assert torch.equal(later.batch(0, seed=0, size=64).targets, data.batch(0, seed=0, size=64).targets)


def test_nothing_is_judged_on_an_hour_that_was_not_measured(data: ForecastData) -> None:
    for split, starts in data.starts.items():
        answers = starts[:, None] + HISTORY + np.arange(DAY)
        assert data.series.measured[answers].all(), split
    inputs = data.starts["train"][:, None] + np.arange(HISTORY)
    assert not data.series.measured[inputs].all(), "it may be read, though"


def test_forecasts_are_judged_from_midnight_every_hour_once(data: ForecastData) -> None:
    answers = (data.starts["test"][:, None] + HISTORY + np.arange(DAY)).ravel()
    assert len(set(answers)) == len(answers)
    assert {(START + timedelta(hours=int(first))).hour for first in data.starts["test"] + HISTORY} == {0}


def test_a_batch_depends_on_seed_and_number_alone(data: ForecastData) -> None:
    again = day_ahead(_series())
    left, right = data.batch(5, seed=2, size=8), again.batch(5, seed=2, size=8)
    assert torch.equal(left.inputs[0], right.inputs[0]) and torch.equal(left.targets, right.targets)
    assert not torch.equal(data.batch(5, seed=3, size=8).targets, again.batch(5, seed=2, size=8).targets)
    count = data.counts["train"]
    epoch = torch.cat([data.batch(number, seed=0, size=1).targets for number in range(count)])
    assert len(torch.unique(epoch, dim=0)) == count, "every window once an epoch"


def test_metrics_and_baselines(data: ForecastData) -> None:
    model = LastWeek().train()
    scores = data.evaluate(model, "test")
    assert model.training, "its mode is restored"
    assert next(iter(scores)) == "MAE" and scores["MAE"] == pytest.approx(data.baselines["same hour last week"])
    truth, forecast = (
        np.stack([data.series.values[s + shift : s + shift + DAY] for s in data.starts["test"]])
        for shift in (HISTORY, 0)
    )
    assert scores["MAE"] == pytest.approx(np.abs(truth - forecast).mean(), rel=1e-4)
    assert scores["MSE"] == pytest.approx(((truth - forecast) ** 2).mean() / data.std**2, rel=1e-3)
    # Noise of 0.1 on both sides of the difference; the regression sees through most of one.
    assert data.baselines["ridge regression"] < 0.9 * data.baselines["same hour last week"]
    assert data.baselines["same hour last week"] < data.baselines["same hour yesterday"]


def test_the_loss_is_huber(data: ForecastData) -> None:
    output, targets = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    assert float(data.loss(output, targets)) == pytest.approx((0.5 * 0.25 + 2.5) / 2)


def test_a_request_there_and_back(data: ForecastData) -> None:
    request = data.request()
    seen: list[Array] = []

    def run(x: Array) -> Array:
        seen.append(x)
        return np.zeros((1, DAY), dtype=np.float32)

    answer = Forecasting.kind.answer(data.state(), run, request)
    assert answer == {"forecast": [round(data.mean, 4)] * DAY, "unit": "kW"}
    start = data.starts["test"][0]
    assert seen[0].dtype == np.float32
    assert np.allclose(seen[0][0], data.x[start : start + HISTORY], atol=1e-3)
    week = ForecastData.answer(data.state(), runner(LastWeek()), request)
    assert week["forecast"] == pytest.approx(request["history"][:DAY], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"history": [1.0] * 5}, "history is a list of 5, not a list of 168 numbers"),
        ({"history": "a"}, "history is a text, not a list of 168 numbers"),
        (
            {"history": [1.0] * 167 + [float("nan")]},
            r"history\[167\] is a number that no float can hold, not a finite number",
        ),
        ({"history": [1.0] * 167 + ["2"]}, r"history\[167\] is a text, not a finite number"),
        ({"history": [True] * 168}, r"history\[0\] is true"),
        ({"history": [1.0] * 167 + [10**400]}, r"history\[167\] is a number that no float can hold"),
        ({"start": "yesterday"}, 'start = "yesterday" is not a time'),
        ({"start": None}, "start is missing or null, not a time"),
        ({"history": [1.0] * 167 + [1e39]}, r"history\[167\] is more than 1e\+06 standard deviations"),
        ({"history": [-1.7e308] + [1.0] * 167}, r"history\[0\] is more than"),
        ({"features": {"chuva": [1.0]}}, r"features\.chuva is no field of a request. There are: none"),
    ],
)
def test_a_wrong_request_names_the_field(data: ForecastData, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ForecastData.answer(data.state(), runner(LastWeek()), data.request() | change)


@pytest.mark.parametrize("offset", ["Z", "+03:00", "-0300"])
def test_the_offset_of_a_start_is_left_out(data: ForecastData, offset: str) -> None:
    """As of the times of a table: the hour is that of the clock."""
    asked = data.request()
    with_offset = asked | {"start": f"{asked['start']}:00{offset}"}
    answers = [ForecastData.answer(data.state(), runner(LastWeek()), one) for one in (asked, with_offset)]
    assert answers[0] == answers[1]
    seen = [ForecastData.observe(data.state(), one, answers[0]) for one in (asked, with_offset)]
    assert seen[0] == seen[1]


def test_a_short_series_is_refused() -> None:
    with pytest.raises(UserError, match=r"a series of 500 hours leaves .* Give at least"):
        day_ahead(Series(START, np.ones(500), np.ones(500, dtype=bool), HOURLY))


def test_a_picture_is_drawn(data: ForecastData, tmp_path: Path) -> None:
    assert data.picture(LastWeek(), tmp_path / "week.png")
    assert (tmp_path / "week.png").read_bytes().startswith(b"\x89PNG")


def test_the_task_prepares_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = _series()
    rows = [
        ((START + timedelta(hours=hour)).isoformat(timespec="hours"), f"{value:.6f}")
        for hour, value in enumerate(series.values)
        if series.measured[hour]
    ]
    power = task("forecast/power")
    assert isinstance(power, Forecasting)
    (tmp_path / "mine").mkdir()
    assert power.source.package
    zipfile.ZipFile(tmp_path / "mine" / power.source.package.wheel, "w").close()
    monkeypatch.setenv("OLIVEIRA_DATA", str(tmp_path / "mine"))
    source = dataclasses.replace(power.source, read=lambda root, scratch: iter(rows), content=content_digest(rows))
    small = dataclasses.replace(power, source=source)
    said: list[str] = []
    first = small.open(tmp_path / "home", said.append)
    assert "4 more filled" in said[0] and "Route: your file" in said[0] and "CC BY 4.0" in said[0]
    second = small.open(tmp_path / "home", said.append)
    assert len(said) == 1 and np.array_equal(first.x, second.x) and first.state() == second.state()
    assert first.counts == day_ahead(series).counts
