"""Tasks of a user's own table: any regular step, what was guessed is said, and a run that outlives its file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from oliveira import cli
from oliveira.data.own_names import quoted
from oliveira.data.series import COUNTED, DAY, HOURLY, WEEK, Series, Step, filled, regular
from oliveira.errors import UserError
from oliveira.runs.predict import Predictor, export
from oliveira.runs.records import find_run
from oliveira.runs.run import fit
from oliveira.study.comparison import compare
from oliveira.study.explanation import explain
from oliveira.study.inspection import describe
from oliveira.study.own_data import describe_data
from oliveira.tasks.catalogue import pair, place_of, task, with_options
from oliveira.tasks.forecasting import ForecastData
from oliveira.tasks.own import OwnSeries, OwnTexts, fitting_kinds, resolve, suggested
from oliveira.training.diagnosis import diagnose

SECRET = "zqxsegredo"
MONDAY = datetime(2024, 1, 1)


def times(count: int, step: timedelta, start: datetime = MONDAY) -> np.ndarray[Any, Any]:
    return np.array([start + place * step for place in range(count)], dtype="datetime64[s]")


# Steps and series ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "name", "calendar", "season"),
    [
        (HOURLY, "hour", {"day": 24, "week": 168}, 168),
        (Step(seconds=900), "15 minutes", {"day": 96, "week": 672}, 672),
        (Step(seconds=DAY), "day", {"week": 7, "year": 365.25}, 7),
        (Step(seconds=WEEK), "week", {"year": 365.25 / 7}, 52),
        (Step(months=1), "month", {"year": 12}, 12),
        (Step(months=3), "quarter", {"year": 4}, 4),
        (Step(months=12), "year", {}, 1),
        (COUNTED, "step", {}, 1),
    ],
)
def test_the_calendar_of_a_step(step: Step, name: str, calendar: dict[str, float], season: int) -> None:
    assert (step.name, step.calendar, step.season) == (name, pytest.approx(calendar), season)
    history, horizon = suggested(step)
    assert history >= 2 * horizon > 0


def test_where_a_time_stands_in_its_period() -> None:
    assert HOURLY.position(datetime(2024, 1, 3, 5), "day") % 24 == 5
    assert HOURLY.position(datetime(2024, 1, 3, 5), "week") == 53
    assert Step(seconds=DAY).position(datetime(2024, 2, 1), "year") == 31
    assert Step(months=1).position(datetime(2024, 11, 30), "year") == 10
    assert Step(months=1).time(datetime(2024, 11, 30), 3) == datetime(2025, 2, 1)


@given(st.permutations(range(30)), st.sets(st.integers(1, 28), max_size=8))
@settings(deadline=None, max_examples=40)
def test_the_order_of_the_rows_and_holes_change_no_value(order: list[int], holes: set[int]) -> None:
    when, values = times(30, timedelta(hours=1)), np.arange(30.0)
    kept = [place for place in order if place not in holes]
    series, said = regular(when[kept], values[kept])
    assert series.step == HOURLY and series.start == MONDAY and len(series.values) == 30
    assert set(np.flatnonzero(~series.measured)) == holes
    assert np.array_equal(series.values[series.measured], [place for place in range(30) if place not in holes])
    assert any("sorted" in line for line in said) == (kept != sorted(kept))
    assert any(line.startswith(f"{len(holes)} gaps") for line in said) == bool(holes)


def test_a_doubled_time_gives_its_mean_and_a_missing_value_that_of_a_season_before() -> None:
    when = np.concatenate([times(20, timedelta(days=1)), times(1, timedelta(days=1))])
    values = np.concatenate([np.arange(20.0), [10.0]])
    values[15] = np.nan
    series, said = regular(when, values)
    assert series.values[0] == 5 and series.values[15] == series.values[8] == 8 and not series.measured[15]
    assert "1 rows with a time that another has: their mean is taken" in said
    assert "1 gaps are filled with the value of 7 days before; nothing is judged on them" in said


def test_a_gap_in_the_first_season_takes_the_mean() -> None:
    values, measured = filled(np.array([1.0, np.nan, 3.0, np.nan]), 3)
    assert values.tolist() == [1, 2, 3, 1] and measured.tolist() == [True, False, True, False]


@pytest.mark.parametrize("day", [1, 31])
def test_months_are_steps_though_they_differ_in_length(day: int) -> None:
    months = np.arange("2020-01", "2024-01", dtype="datetime64[M]")
    when = (
        months.astype("datetime64[s]")
        if day == 1
        else ((months + 1).astype("datetime64[D]") - 1).astype("datetime64[s]")
    )
    series, said = regular(when, np.arange(48.0))
    assert series.step == Step(months=1) and series.measured.all() and len(series.values) == 48, said
    assert regular(when[::3], np.arange(16.0))[0].step == Step(months=3)


@pytest.mark.parametrize(
    ("days", "months"),
    [
        (["2023-01-31", "2023-02-28", "2023-03-31", "2023-04-30", "2023-05-31", "2023-06-30"], 1),
        (["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"], 1),
        (["2023-03-31", "2023-06-30", "2023-09-30", "2023-12-31"], 3),
        (["2023-01-31", "2023-02-28", "2023-03-30", "2023-04-30", "2023-05-31"], 0),  # one is no end
    ],
)
def test_ends_of_months_are_steps(days: list[str], months: int) -> None:
    series, said = regular(np.array(days, dtype="datetime64[s]"), np.arange(len(days), dtype=float))
    assert series.step.months == months
    if months:
        assert series.measured.all() and series.values.tolist() == list(range(len(days)))
        assert said == [f"one value every {series.step.name}"]


def test_times_that_jitter_go_to_the_nearest_step() -> None:
    jitter = np.random.default_rng(0).integers(-40, 40, 200).astype("timedelta64[s]")
    series, said = regular(times(200, timedelta(minutes=15)) + jitter, np.arange(200.0))
    assert series.step == Step(seconds=900) and series.measured.all() and len(series.values) == 200
    assert any("lie between two steps of one 15 minutes" in line for line in said)


def test_a_series_that_would_be_mostly_invented_is_refused() -> None:
    when = np.concatenate([times(10, timedelta(hours=1)), times(10, timedelta(hours=1), MONDAY + timedelta(days=9000))])
    with pytest.raises(UserError, match="more than half would be invented"):
        regular(when, np.arange(20.0))
    with pytest.raises(UserError, match="1 different times"):
        regular(times(1, timedelta(hours=1)), np.arange(1.0))


def sine(count: int, step: Step, period: int) -> ForecastData:
    values = np.sin(2 * np.pi * np.arange(count) / period)
    start = None if step == COUNTED else MONDAY
    history, horizon = suggested(step)
    return ForecastData(Series(start, values, np.ones(count, bool), step), "x", history=history, horizon=horizon)


class Zero(nn.Module):
    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.horizon)


@pytest.mark.parametrize(
    ("step", "count", "period", "exact"),
    [
        (Step(seconds=900), 96 * 60, 96, ["same time yesterday", "same time last week"]),
        (Step(seconds=DAY), 900, 7, ["same day last week"]),
        (Step(months=1), 240, 12, ["same month last year"]),
        (COUNTED, 600, 8, []),
    ],
)
def test_forecasts_of_any_step(step: Step, count: int, period: int, exact: list[str], tmp_path: Path) -> None:
    data = sine(count, step, period)
    assert data.sizes["d_in"] == 1 + 2 * len(step.calendar) and data.sizes["d_out"] == data.horizon
    for name in exact:
        assert data.baselines[name] == pytest.approx(0, abs=1e-6)
    assert data.baselines["last value"] > 0.1 and data.baselines["ridge regression"] < 0.1
    asked = data.request()
    assert ("start" in asked) == (step != COUNTED) and len(asked["history"]) == data.history
    seen: list[Any] = []

    def run(x: Any) -> Any:
        seen.append(x)
        return np.zeros((1, data.horizon))

    answer = ForecastData.answer(json.loads(json.dumps(data.state())), run, asked)
    start = data.starts["test"][0]
    assert len(answer["forecast"]) == data.horizon
    assert np.allclose(seen[0][0], data.x[start : start + data.history], atol=2e-2)
    assert data.picture(Zero(data.horizon), tmp_path / "picture.png")
    train, validation = data.losses(Zero(data.horizon))
    assert train == pytest.approx(validation, rel=0.2)


def test_a_season_shorter_than_the_answer_is_repeated_and_never_looked_ahead_for() -> None:
    days = Series(MONDAY, np.arange(900.0), np.ones(900, bool), Step(seconds=DAY))
    data = ForecastData(days, "x", history=28, horizon=17)
    starts = data.starts["test"]
    forecast = data._season(starts, 7)
    assert forecast is not None
    values = np.rint(forecast * data.std + data.mean) - (starts + 28)[:, None]
    assert (values == [*range(-7, 0), *range(-7, 0), -7, -6, -5]).all()


def test_quarters_of_an_hour_are_judged_from_midnight() -> None:
    data = sine(96 * 60, Step(seconds=900), 96)
    first = [data.series.time(int(start) + data.history) for start in data.starts["test"]]
    assert {when.hour * 60 + when.minute for when in first if isinstance(when, datetime)} == {0} and len(first) > 3


def test_a_run_of_hours_that_was_trained_before_still_answers() -> None:
    state = {"mean": 1.0, "std": 2.0, "unit": "kW"}
    asked = {"history": [1.0] * 168, "start": "2010-05-01T00:00"}
    answer = ForecastData.answer(state, lambda x: np.zeros((1, 24)), asked)
    assert answer == {"forecast": [1.0] * 24, "unit": "kW"}


# Names --------------------------------------------------------------------------------------------------------------


def test_one_name_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = task("forecast/path:a b.csv")
    assert bare.name == f"forecast/path:{tmp_path}/a b.csv" and task(bare.name) == bare
    one = resolve("forecast/path:a b.csv?horizon=3&target=k%26w", history=9)
    assert isinstance(one, OwnSeries) and (one.target, one.horizon, one.history) == ("k&w", 3, 9)
    assert one == task(one.name) == task(with_options("forecast/path:a b.csv", target="k&w", horizon=3, history=9))
    assert one.folder == bare.folder and "/" not in one.folder and " " not in one.folder
    assert task("forecast/path:x/a b.csv").folder != bare.folder, "another folder's file of that name"
    assert place_of(one.name) == (one.folder, one.name) and place_of(bare.name) == (bare.folder, "")
    assert isinstance(task("classify/path:a.csv"), OwnTexts)
    with pytest.raises(UserError, match="does not exist"):
        pair("forecast/path:a.csv", "bert")
    put_hours(tmp_path / "a.csv")
    with pytest.raises(UserError, match="does not fit forecast/path"):
        pair("forecast/path:a.csv", "bert")


@given(
    name=st.text(st.characters(exclude_characters="/\0", exclude_categories=()) | st.sampled_from("?%=&25F3f\n~"))
    | st.lists(st.sampled_from(["?", "%", "25", "3F", "target=", "of=texts", "&"])).map("".join)
)
@example("a?target=b.csv")
@example("a?target=b\n")
@example("50%25 a?.csv")
def test_any_name_of_a_file_is_the_same_there_and_back(name: str) -> None:
    path = Path("/nowhere") / f"a{name}"
    for options in ({}, {"target": "k?w%3F"}):
        made = resolve(f"forecast/path:{quoted(str(path))}", **options)
        assert made.path == path and task(made.name) == made and made.options == options
        assert with_options(made.name, horizon=3).endswith("horizon=3")


def test_a_file_whose_name_looks_like_options_is_trained_as_it_is_printed(tmp_path: Path) -> None:
    path = put_hours(tmp_path / "a?target=b.csv")
    command = describe_data(str(path), home=tmp_path / "home").tasks[0].commands[0]
    name = shlex.split(command)[2]
    opened = task(name).open(tmp_path / "home", lambda text: None)
    assert opened.counts["train"] and task(name) == resolve(name)


def test_what_fits_once_a_column_is_named_is_said(tmp_path: Path) -> None:
    days = "".join(f"2024-{1 + n // 28:02d}-{1 + n % 28:02d},{n % 7},{n % 5}\n" for n in range(300))
    (tmp_path / "t.csv").write_text("dia,kwh,kvar\n" + days)
    series, texts, _ = describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home").tasks
    assert (series.fits, series.needs) == (False, "--target") and "columns of numbers: 'kwh', 'kvar'" in series.why
    assert series.commands[0] == f"oliveira train forecast/path:{tmp_path}/t.csv gru --target kwh"
    assert describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home", time="dia").tasks[0].needs == "--target"
    assert (texts.fits, texts.needs, texts.commands) == (False, "", [])
    (tmp_path / "t.csv").write_text("dia,kwh,kvar\n" + days[:200])
    short = describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home").tasks[0]
    assert short.needs == "" and not short.commands, "more is missing than the name of a column"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("draw/path:a.csv", {}, "forecast or classify"),
        ("forecast/path:", {}, "names no file"),
        ("forecast/path:a.csv", {"text": "x"}, "--text has no effect"),
        ("classify/path:a.csv", {"horizon": 3}, "--horizon has no effect"),
        ("forecast/path:a.csv?horizon=x", {}, "--horizon x is not a whole number"),
        ("forecast/path:a.csv", {"history": 10**9}, "--history 1000000000 is not a whole number"),
        ("forecast/power", {"target": "x"}, "--target has no effect on forecast/power"),
    ],
)
def test_a_wrong_name_or_option_is_refused(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        with_options(name, **options) if options else task(name)


# Files --------------------------------------------------------------------------------------------------------------


def put_hours(path: Path, count: int = 24 * 75, noise: int = 0) -> Path:
    random = np.random.default_rng(noise)
    rows = [
        f"{MONDAY + timedelta(hours=h):%d/%m/%Y %H:%M};{f'{1000 + h % 24 * 9 + random.normal():.2f}'.replace('.', ',')}"
        for h in range(count)
    ]
    path.write_text("data;Consumo (kWh)\n" + "\n".join(rows), encoding="cp1252")
    return path


def put_texts(path: Path) -> Path:
    good, bad = ("bom ótimo gostei", "ruim péssimo quebrou")
    rows = [f'"{SECRET} {n}, {(good, bad)[n % 2].split()[n // 2 % 3]}",{("pos", "neg")[n % 2]}' for n in range(60)]
    path.write_text("text,label\n" + "\n".join([*rows, rows[0], f"{SECRET} só,rara"]), encoding="utf-8")
    return path


SMALL: dict[str, Any] = {"d_model": 8, "budget": "steps=3", "batch_size": 8}


def test_a_run_on_a_series_lives_on_without_its_file(tmp_path: Path) -> None:
    path, home, said = put_hours(tmp_path / "consumo.csv"), tmp_path / "home", []
    run = fit(f"forecast/path:{path}", model="gru", home=home, say=said.append, **SMALL)
    text = " ".join(said)
    for part in ("UTF-8", "semicolon", "decimal comma", "day/month/year", "target: 'Consumo (kWh)'", "every hour"):
        assert part in text
    assert "the last 168 hours in, the next 24 out" in text
    assert run.result["metric"]["unit"] == "kWh"
    assert {"last value", "same hour yesterday"} < run.result["baselines"].keys()
    assert run.result["fit"]["words"].keys() == {"en", "pt"} and run.result["content"]
    assert run.folder.parent.parent.name.startswith("forecast-consumo-") and (run.folder / "picture.png").exists()
    assert fit(f"forecast/path:{path}", model="gru", home=home, **SMALL).folder == run.folder
    task_values = task(f"forecast/path:{path}").open(home, said.append).series.values
    figures = export(find_run(home, f"forecast/path:{path}/gru"))
    assert figures["onnx_error"] < 1e-4
    described = describe("gru", f"forecast/path:{path}", home=home, d_model=8)
    assert described.input == ["(1, 168, 5)"]
    assert explain("gru", f"forecast/path:{path}", home=home, d_model=8).disagreement < 1e-3
    put_hours(path, noise=1)
    other = fit(f"forecast/path:{path}", model="gru", home=home, **SMALL)
    assert other.folder != run.folder, "a changed file is another run"
    path.unlink()
    asked = Predictor(run.folder).example
    measured = {round(float(value), 4) for value in task_values}
    assert not measured & set(asked["history"]) and asked["start"] == "2024-01-01T00:00", (
        "an example is shown to others"
    )
    answer = Predictor(run.folder)(asked)
    assert len(answer["forecast"]) == 24 and answer["unit"] == "kWh"
    assert find_run(home, f"forecast/path:{path}/gru") == other.folder, "the newest"


def test_options_make_another_task_and_name_its_run(tmp_path: Path) -> None:
    path, home = put_hours(tmp_path / "c.csv", 600), tmp_path / "home"
    short = with_options(f"forecast/path:{path}", horizon=6, history=12)
    run = fit(short, model="mlp", home=home, **SMALL)
    assert run.result["config"]["d_out"] == 6
    later = fit(with_options(short, horizon=3), model="mlp", home=home, **SMALL)
    os.utime(run.folder / "run.json", (1, 1))
    assert find_run(home, f"{short}/mlp") == run.folder and find_run(home, f"forecast/path:{path}/mlp") == later.folder
    with pytest.raises(UserError, match="need 640"):
        fit(f"forecast/path:{path}", model="mlp", home=home, **SMALL)


def test_a_comparison_says_once_what_was_guessed(tmp_path: Path) -> None:
    from rich.console import Console

    from oliveira.process.progress import Reporter

    path = put_hours(tmp_path / "c.csv", 600)
    with (tmp_path / "said").open("w") as file:
        report = Reporter(console=Console(file=file, width=200))
        made = compare(
            with_options(f"forecast/path:{path}", horizon=6, history=12), ["mlp", "gru"], seeds=1, report=report,
            home=tmp_path / "home", budget="steps=2", values={"gru": {"d_model": 8}},
        )  # fmt: skip
    assert (tmp_path / "said").read_text().count("decimal comma") == 1
    assert made.result["metric"]["unit"] == "kWh" and made.folder.name.endswith("-mlp-gru")


def test_a_run_on_texts(tmp_path: Path) -> None:
    path, home, said = put_texts(tmp_path / "avaliações.csv"), tmp_path / "home", []
    data = task(f"classify/path:{path}").open(home, said.append)
    assert data.labels == ["neg", "pos"] and "1 rows are left out: their class has fewer than 3" in " ".join(said)
    sides = {split: {row[1] for row in rows} for split, rows in data.parts.items()}
    assert not sides["train"] & sides["test"] and sum(data.counts.values()) == 61, "both copies on one side"
    assert data.request() == {"text": "a text"}, "an example is shown to others"
    run = fit(f"classify/path:{path}", model="bilstm", home=home, say=said.append, **SMALL)
    path.unlink()
    assert set(Predictor(run.folder)({"text": "bom"})["probabilities"]) == {"neg", "pos"}
    assert SECRET not in " ".join(said) and SECRET not in json.dumps(run.result)


def test_what_a_file_is(tmp_path: Path) -> None:
    found = describe_data(str(put_hours(tmp_path / "consumo.csv")), home=tmp_path / "home")
    series, texts, pairs = found.tasks
    assert series.fits and not texts.fits and not pairs.fits and found.rows == 1800
    assert series.commands[0] == f"oliveira train forecast/path:{tmp_path}/consumo.csv gru --target 'Consumo (kWh)'"
    assert [column.kind for column in found.columns] == ["time", "number"]
    assert found.columns[0].smallest == "2024-01-01" and float(found.columns[1].largest) > 1200
    assert Path(found.picture).read_bytes().startswith(b"\x89PNG") and Path(found.picture).parent.name == "data"
    text = describe_data(str(put_texts(tmp_path / "t.csv")), home=tmp_path / "home")
    assert text.tasks[1].fits and "1 texts repeat another" in " ".join(text.wrong)
    assert SECRET not in json.dumps(text.as_json())
    for name in ("text", "target"):
        with pytest.raises(UserError):
            describe_data(str(tmp_path / "t.csv"), home=tmp_path / "home", **{name: "nada"})


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("", "forecast", "is empty"),
        ("data;v\n", "forecast", "no row below them"),
        ("dia,v\n2024-01-01,1\n2024-01-02,1\n2024-01-03,1\n", "forecast", "'v' has the same value in every row"),
        ("dia,v\n2024-01-01,\n2024-01-02,NA\n", "forecast?target=v", "all values of 'v' are missing"),
        ("dia,v\n2024-01-01,1\n2024-01-02,2\n", "forecast?target=w", "'w' is no column"),
        ("dia,v\n2024-01-01,1\n2024-01-02,2\n", "forecast?target=dia", "'dia' is not a column of numbers"),
        ("dia,v\n2024-01-01,1\n2024-01-02,2\n", "forecast", "gives 2 days"),
        ("dia,v,w\n2024-01-01,1,2\n2024-01-02,2,5\n", "forecast", "columns of numbers: 'v', 'w'. Name one"),
        ("dia,v\n2024-01-01,1\n2024-01-02,2\n", "forecast?time=w&target=v", "--time 'w' is no column"),
        ("text\num texto\noutro texto\n", "classify", "there is one column, 'text'"),
        ("text,label\n" + "".join(f"t{n},pos\n" for n in range(9)), "classify", "(one class: nothing to learn)"),
        ("text,label\n" + "".join(f"t{n},l{n}\n" for n in range(1001)), "classify", "1001 classes, more than 1000"),
        ("text,label\na,x\nb,y\nc,x\nd,y\n", "classify", "fewer than two classes of 'label' have 3 different texts"),
        ("text,label\n,\n,\nx,\n", "classify", "all values of 'label' are missing"),
    ],
)
def test_a_bad_file_is_one_sentence_and_writes_nothing(
    text: str,
    kind: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "t.csv").write_text(text)
    kind, _, options = kind.partition("?")
    name = f"{kind}/path:t.csv" + (f"?{options}" if options else "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLIVEIRA_LANG", "en")
    model = "mlp" if kind == "forecast" else "bilstm"
    for words in (["train", name, model], ["compare", name, model, "gru", "--write", str(tmp_path / "report")]):
        monkeypatch.setattr(sys, "argv", ["oliveira", *words, "--home", str(tmp_path / "home")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2 and sentence in " ".join(said.split()), said
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("form", ["{:02d}:00", "{:02d}:00:00", "{:02d}h", "{}h00", "{:02d}00 UTC", "{}"])
def test_a_date_and_its_hour_in_two_columns(form: str, tmp_path: Path) -> None:
    hours = [MONDAY + timedelta(hours=h) for h in range(24 * 90)]
    rows = [f"{when:%d/%m/%Y};{form.format(when.hour)};{when.hour},5" for when in hours]
    (tmp_path / "t.csv").write_text("Data;Hora;Chuva\n" + "\n".join(rows))
    found = fitting_kinds(tmp_path / "t.csv")["forecast"]
    assert isinstance(found, OwnSeries)
    series = found.roles()[0].series
    assert series.step == HOURLY and len(series.values) == len(hours) and series.measured.all()
    assert series.values[29] == 5.5 and "hours of the day: 'Hora'" in found.roles()[0].said


def test_numbers_beside_a_date_are_no_hours(tmp_path: Path) -> None:
    rows = [f"{MONDAY + timedelta(days=d):%Y-%m-%d},{d % 24}" for d in range(300)]
    (tmp_path / "t.csv").write_text("dia,visitas\n" + "\n".join(rows))
    found = fitting_kinds(tmp_path / "t.csv")["forecast"]
    assert isinstance(found, OwnSeries) and found.roles()[0].series.step == Step(seconds=DAY)


def test_a_picture_of_many_classes_shows_the_commonest(tmp_path: Path) -> None:
    rows = [f"palavra{n} t{copy},classe{n}" for n in range(60) for copy in range(3)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows))
    run = fit(f"classify/path:{tmp_path}/t.csv", model="mlp", home=tmp_path / "home", **SMALL)
    assert (run.folder / "picture.png").stat().st_size < 2 << 20


def test_years_of_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ano,v\n" + "".join(f"{1900 + n},{n % 7}\n" for n in range(100)))
    found = fitting_kinds(tmp_path / "t.csv", target="v", time="ano", text="", history=0, horizon=0)
    series = found["forecast"]
    assert isinstance(series, OwnSeries) and series.roles()[0].series.step == Step(months=12)


# In words -----------------------------------------------------------------------------------------------------------


def curve(*metrics: float) -> list[dict[str, Any]]:
    return [{"step": 10 * n, "loss": 1 / n, "validation_MAE": value} for n, value in enumerate(metrics, 1)]


@pytest.mark.parametrize(
    ("rows", "losses", "test", "verdict", "words"),
    [
        (curve(3, 2, 2.5), (0.1, 0.12), 2.5, "over-fits", "best at step 20 (2) and ended at 2.5"),
        (curve(3, 2, 1.999), (0.1, 0.3), 2.0, "over-fits", "loss 0.1 on training examples, 0.3 on validation"),
        (curve(3, 2, 1.999), (5e-7, 8e-6), 2.0, "fits", "neither"),  # learnt: nothing lies between them
        (curve(3, 2, 1.5), (0.1, 0.1), 1.5, "under-fits", "still improved"),
        (curve(3, 2, 1.999), (0.1, 0.1), 6.0, "under-fits", "naive (5) needs no network and is better"),
        (curve(3, 2, 1.999), (0.1, 0.1), 2.0, "fits", "neither"),
        (curve(3, 2, 1.999), (0.1, 0.1), 5.0, "fits", "neither"),
        (curve(3, 2, 1.999), None, 2.0, "fits", "training loss 0.333"),
    ],
)
def test_over_and_under_fitting_are_said(
    rows: list[dict[str, Any]], losses: tuple[float, float] | None, test: float, verdict: str, words: str
) -> None:
    found = diagnose(rows, losses, metric="MAE", better="lower", test=test, baselines={"naive": 5.0})
    assert found["verdict"] == verdict and words in found["words"]["en"], found
    assert ("sobreajuste" in found["words"]["pt"]) == (verdict != "under-fits")
