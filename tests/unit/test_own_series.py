"""Columns beside a user's series, what is known of the horizon, and several series in one file."""

from __future__ import annotations

import json
import sys
import types
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oliveira.data.series import DAY, Series, Step, carried, joined, regular
from oliveira.errors import UserError
from oliveira.runs.predict import Predictor, export
from oliveira.runs.run import fit
from oliveira.study import own_data_looks
from oliveira.study.comparison import compare
from oliveira.study.own_data import describe_data
from oliveira.tasks import classical
from oliveira.tasks.catalogue import task, with_options
from oliveira.tasks.forecasting import ForecastData, columns_of, features
from oliveira.tasks.own import OwnSeries

MONDAY = datetime(2024, 1, 1)
SMALL: dict[str, Any] = {"d_model": 8, "budget": "steps=3", "batch_size": 8, "package": True}


def put(path: Path, days: int = 300, groups: tuple[str, ...] = ("",)) -> Path:
    """Sales that follow tomorrow's promotion, and noise: only who knows the promotion ahead forecasts them."""
    random = np.random.default_rng(0)
    rows = ["loja,dia,vendas,chuva,promo"]
    for number, name in enumerate(groups):
        promo = random.integers(0, 2, days)
        for day in range(days):
            sold = 10 * number + 5 * promo[day] + random.normal(scale=0.1)
            rain = "" if day % 50 == 7 else f"{random.normal():.3f}"
            rows.append(f"{name},{MONDAY + timedelta(days=day):%Y-%m-%d},{sold:.3f},{rain},{promo[day]}")
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def opened(path: Path, said: list[str] | None = None, **options: Any) -> ForecastData:
    found = task(with_options(f"forecast/path:{path}", target="vendas", **options))
    assert isinstance(found, OwnSeries)
    found.check()
    return found.open(path.parent / "home", (said if said is not None else []).append)


def test_columns_beside_are_inputs(tmp_path: Path) -> None:
    said: list[str] = []
    data = opened(put(tmp_path / "v.csv"), said, features="chuva", known_future="promo", history=14, horizon=7)
    names = columns_of(data.series.step, data.beside)
    assert names[-3:] == ["chuva", "promo", "promo ahead"] and data.sizes["d_in"] == len(names)
    assert any(line.endswith("6 missing values of 'chuva' are those of the step before") for line in said)
    start = int(data.starts["test"][3])
    x = data.windows(np.array([start]))[0][0]
    promo = (data.series.beside["promo"] - data.beside[1]["mean"]) / data.beside[1]["std"]
    assert np.allclose(x[:, -2], promo[start : start + 14]) and np.allclose(x[-7:, -1], promo[start + 14 : start + 21])


def test_what_is_known_ahead_is_worth_something(tmp_path: Path) -> None:
    path = put(tmp_path / "v.csv")
    blind, told = (
        opened(path, history=14, horizon=7).baselines,
        opened(path, known_future="promo", history=14, horizon=7).baselines,
    )
    assert blind["ridge regression"] > 1.5 and told["ridge regression"] < 0.5
    assert blind["last value"] == told["last value"]


def test_a_request_gives_what_the_window_gives(tmp_path: Path) -> None:
    data = opened(put(tmp_path / "v.csv"), features="chuva", known_future="promo", history=14, horizon=7)
    state = json.loads(json.dumps(data.state()))
    request, truth = data.requests("test", 3)[1]
    assert len(request["features"]["chuva"]) == 14 and len(request["features"]["promo"]) == 21 and len(truth) == 7
    seen: list[Any] = []

    def run(x: Any) -> Any:
        seen.append(x)
        return np.zeros((1, 7))

    answer = data.answer(state, run, request)
    assert any(np.allclose(seen[0], data.windows(np.array([s]))[0], atol=1e-5) for s in range(len(data.x) - 21))
    observed = data.observe(state, request, answer)
    assert {"feature chuva", "feature promo", "level"} <= observed.keys()
    assert data.learn([(request, truth)]).inputs[0].shape == (1, 14, data.sizes["d_in"])
    for wrong in ({}, {"chuva": [1.0] * 14}, {"chuva": [1.0] * 14, "promo": [1.0] * 14}, []):
        with pytest.raises(UserError, match=r"features\.(chuva|promo) is .*, not a list of (14|21) numbers"):
            data.answer(state, run, {**request, "features": wrong})
    rain, promo = request["features"]["chuva"], request["features"]["promo"]
    for given, sentence in (
        ({"chuva": [*rain[:-1], 1e300], "promo": promo}, r"features\.chuva\[13\] is more than"),
        ({"chuva": rain, "promos": promo}, r"features\.promos is no field of a request\. Did you mean promo\?"),
    ):
        with pytest.raises(UserError, match=sentence):
            data.answer(state, run, {**request, "features": given})


def test_several_series_in_one_file(tmp_path: Path) -> None:
    said: list[str] = []
    path = put(tmp_path / "v.csv", 200, ("sul", "norte", "leste"))
    data = opened(path, said, group="loja", history=14, horizon=7)
    assert "3 series by 'loja', one value every day" in " ".join(said)
    assert len(data.series.values) == 600 and data.edges["train"] == [(0, 140), (200, 340), (400, 540)]
    for split, starts in data.starts.items():
        inside = [any(low <= s and s + 21 <= high for low, high in data.edges[split]) for s in starts]
        assert all(inside) and len(starts) > 3, "no window reaches from one series, or split, into another"
    assert data.time(200) == MONDAY and data.time(201) == MONDAY + timedelta(days=1)
    place = int(data.starts["test"][-1])
    part = regular(np.array([MONDAY + n * timedelta(days=1) for n in range(200)], "datetime64[s]"), np.zeros(200))[0]
    calendar = features(part, 0, 1)[:, 1:]
    assert np.allclose(data.x[place : place + 14, 1:], calendar[place - 400 : place - 386]), "each has its own calendar"
    assert "same day last week" in data.baselines
    assert "start" in data.request() and "loja" not in json.dumps(data.request())


def test_a_season_before_never_comes_from_another_series() -> None:
    flat = [Series(MONDAY, np.full(60, v), np.ones(60, bool), Step(seconds=DAY)) for v in (0.0, 100.0)]
    data = ForecastData(flat, "x", history=3, horizon=2)
    assert joined(flat).values.tolist() == [0.0] * 60 + [100.0] * 60
    assert data.baselines["last value"] == data.baselines["same day last week"] == 0
    assert data._season(np.array([60]), 7) is None


def test_rows_that_are_not_in_order_are_sorted_whole() -> None:
    when = np.array([MONDAY + n * timedelta(days=1) for n in (2, 0, 3, 1)], "datetime64[s]")
    series, said = regular(when, np.array([2.0, 0, 3, 1]), {"a": np.array([20.0, 0, 30, 10])})
    assert series.values.tolist() == [0, 1, 2, 3] and series.beside["a"].tolist() == [0, 10, 20, 30]
    assert "rows were not in the order of time: sorted" in said


def test_gaps_beside_are_carried() -> None:
    nan = np.nan
    assert carried(np.array([nan, 1, nan, nan, 4, nan])).tolist() == [1, 1, 1, 1, 4, 4]
    assert carried(np.array([nan, nan])).tolist() == [0, 0]
    when = np.array([MONDAY + n * timedelta(days=1) for n in (0, 1, 1, 3)], "datetime64[s]")
    series, _ = regular(when, np.array([1.0, 2, 4, 5]), {"a": np.array([1.0, nan, 6, nan])})
    assert series.values.tolist()[:2] == [1, 3] and series.beside["a"].tolist() == [1, 6, 6, 6]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"features": "nada"}, "--features 'nada' is no column"),
        ({"features": "vendas"}, "has another part already"),
        ({"features": "dia"}, "has another part already"),
        ({"known_future": "loja", "group": ""}, "is not a column of numbers"),
        ({"group": "nada"}, "--group 'nada' is no column"),
        ({"known_future": "promo", "history": 4, "horizon": 7}, "--known-future needs a history of at least"),
        ({"time": "promo"}, "neither years nor seconds"),
        ({"size": 3}, "--size has no effect"),
    ],
)
def test_refused_options(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        opened(put(tmp_path / "v.csv", 300, ("sul",)), **options)


def test_a_run_with_columns_and_groups(tmp_path: Path) -> None:
    path, home = put(tmp_path / "v.csv", 200, ("sul", "norte")), tmp_path / "home"
    options = {"target": "vendas", "features": "chuva", "known_future": "promo", "group": "loja"}
    name = with_options(f"forecast/path:{path}", **options, history=14, horizon=7)
    run = fit(name, model="gru", home=home, **SMALL)
    assert export(run.folder)["onnx_error"] < 1e-4 and (run.folder / "picture.png").exists()
    path.unlink()
    predictor = Predictor(run.folder)
    assert len(predictor(predictor.example)["forecast"]) == 7
    assert set(predictor.example["features"]["promo"]) == {predictor.example["features"]["promo"][0]}


class Drift:
    """As the forecasters of statsforecast are called; repeats the value of a season before."""

    def __init__(self, season_length: int) -> None:
        self.season = season_length

    def fit(self, y: Any) -> Drift:
        self.first = y[: self.season]
        return self

    def forward(self, y: Any, h: int) -> dict[str, Any]:
        assert np.array_equal(y[: self.season], self.first), "the season begins where that of the training steps did"
        return {"mean": np.resize(y[len(y) - len(y) % self.season - self.season :][: self.season], h)}


class Refuses(Drift):
    def fit(self, y: Any) -> Drift:
        raise ValueError("too short")


def test_a_comparison_with_the_peers_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.csv"
    rows = [f"{MONDAY + timedelta(days=n):%Y-%m-%d},{n % 7}" for n in range(300)]
    path.write_text("dia,v\n" + "\n".join(rows))
    name = with_options(f"forecast/path:{path}", history=14, horizon=7)
    settings: dict[str, Any] = {"home": tmp_path / "home", "seeds": 1, "budget": "steps=1"}
    monkeypatch.setattr(classical, "available", lambda: False)
    assert compare(name, ["mlp", "gru"], **settings).result["peers"] == {}
    monkeypatch.setattr(classical, "available", lambda: True)
    there = types.ModuleType("statsforecast.models")
    there.AutoETS, there.AutoARIMA = Drift, Refuses  # type: ignore[attr-defined]
    parent = types.ModuleType("statsforecast")
    parent.models = there  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "statsforecast", parent)
    monkeypatch.setitem(sys.modules, "statsforecast.models", there)
    made = compare(name, ["mlp", "gru"], **settings)
    assert set(made.result["peers"]) == {"AutoETS"} and "| AutoETS (statsforecast) |" in made.text


def test_what_is_said_of_them(tmp_path: Path) -> None:
    path = put(tmp_path / "v.csv", 200, ("sul", "norte"))
    options = {"target": "vendas", "known_future": "promo", "group": "loja"}
    found = describe_data(str(path), home=tmp_path / "home", **options)
    series = next(one for one in found.tasks if one.kind == "forecast")
    assert series.commands[0].endswith("--target vendas --known-future promo --group loja")


def test_what_nothing_decides_is_said(tmp_path: Path) -> None:
    rows = "".join(f"2024-01-{1 + n // 24:02d} {n % 24:02d}:00;{100 + n % 7}.{500 + n % 24}\n" for n in range(700))
    (tmp_path / "t.csv").write_text("quando;v\n" + rows)
    found = describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home")
    doubt = "'v': nothing tells whether its points divide thousands; they are read as decimal"
    assert found.wrong == [doubt] and doubt not in found.tasks[0].said, "once"
    said: list[str] = []
    task(f"forecast/path:{tmp_path}/t.csv").open(tmp_path, said.append)
    assert f"t.csv: {doubt}" in said


@pytest.mark.parametrize(
    ("first", "name"),
    [("0001-01-01", "v"), ("9999-06-02", "v"), ("2024-01-01", "\x1b[31mv"), ("2024-01-01", "\N{GRINNING FACE} $^{")],
)
@pytest.mark.filterwarnings("error")
def test_odd_times_and_names_are_drawn(first: str, name: str, tmp_path: Path) -> None:
    days = np.datetime64(first) + np.arange(213)
    (tmp_path / "t.csv").write_text(f"dia,{name}\n" + "".join(f"{day},{n % 7}\n" for n, day in enumerate(days)))
    found = describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home")
    assert found.tasks[0].fits and not found.wrong and Path(found.picture).stat().st_size


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(figure: Any, roles: Any) -> None:
        raise OverflowError("no")

    monkeypatch.setattr(own_data_looks, "_series", draw)
    found = describe_data(str(put(tmp_path / "t.csv")), home=tmp_path / "home", target="vendas")
    assert found.tasks[0].fits and found.wrong[-1] == "it cannot be drawn (OverflowError)" and not found.picture
