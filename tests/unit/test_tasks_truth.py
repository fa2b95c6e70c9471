"""What a task says of an answer that was given: what drift looks at, how wrong it was, what is learnt from it.

Every kind there and back: real requests of a split are answered, observed, judged with their truth, and trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oliveira.data.series import COUNTED, DAY, HOURLY, Series, Step
from oliveira.data.tokenizer import Tokenizer
from oliveira.data.vocabulary import Pieces
from oliveira.errors import UserError
from oliveira.registry import entry
from oliveira.runs.run import build
from oliveira.tasks.base import Data, Task
from oliveira.tasks.catalogue import task, tasks
from oliveira.tasks.forecasting import ForecastData
from oliveira.tasks.observing import LIMIT, class_of, evenly
from oliveira.tasks.pronunciation import PronunciationData
from oliveira.tasks.scoring import runner
from oliveira.tasks.translation import TranslationData

MONDAY = datetime(2024, 1, 1)
LEXICON = [("chuva", "ʃ u v ɐ", "c|h}ʃ u}u v}v a}ɐ"), ("uva", "u v ɐ", "u}u v}v a}ɐ"), ("hora", "o ɾ ɐ", "h}_ o}o")]
Opened = tuple[Task, Data]


def hours(step: Step = HOURLY, count: int = 24 * 80) -> ForecastData:
    time = np.arange(count)
    values = 2 + np.sin(2 * np.pi * time / 24) + 0.1 * np.random.default_rng(0).normal(size=count)
    start = MONDAY if step.calendar else None
    return ForecastData(Series(start, values, np.ones(count, bool), step), "kW", history=168, horizon=24)


def translation(folder: Path) -> TranslationData:
    names = ["Ana", "Rui", "Eva", "Ivo", "Noa", "Davi", "Rute", "Joel", "Ester", "Elias"]
    pairs = [(f"{a} saw {b} at the river", f"{a} viu {b} no rio") for a in names for b in names]
    parts = {"train": pairs[:60], "validation": pairs[60:80], "test": pairs[80:]}
    codecs = []
    for side in (0, 1):
        Tokenizer.train((pair[side] for pair in parts["train"]), 280).save(folder / "tokenizer.json")
        codecs.append(Pieces((folder / "tokenizer.json").read_text(encoding="utf-8")))
    return TranslationData(parts, codecs[0], codecs[1], 32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    """One task of each kind whose data need no network."""
    home = tmp_path_factory.mktemp("home")
    table = home / "avaliacoes.csv"
    rows = [(f"produto {n} muito {word}", word) for n in range(60) for word in ("bom", "ruim", "caro")]
    table.write_text("texto,nota\n" + "\n".join(",".join(row) for row in rows), encoding="utf-8")
    series = home / "consumo.csv"
    times = [MONDAY + timedelta(hours=n) for n in range(1500)]
    lines = [f"{time.isoformat()},{2 + math.sin(n)}" for n, time in enumerate(times)]
    series.write_text("quando,kwh\n" + "\n".join(lines), encoding="utf-8")
    names = {
        "digits": "classify/digits",
        "bncc": "classify/bncc",
        "own texts": f"classify/path:{table}",
        "own series": f"forecast/path:{series}",
    }
    found: dict[str, Opened] = {}
    for key, name in names.items():
        found[key] = task(name), task(name).open(home, lambda text: None)
    found["hours"] = task("forecast/power"), hours()
    found["days"] = task("forecast/power"), hours(Step(seconds=DAY))
    found["steps"] = task("forecast/power"), hours(COUNTED)
    found["translation"] = task("translate/almeida-web"), translation(home)
    lexicon = dict.fromkeys(("train", "validation", "test"), LEXICON * 4)
    found["pronunciation"] = task("g2p/gruut"), PronunciationData(lexicon, 12)
    return found


KEYS = ["digits", "bncc", "own texts", "own series", "hours", "days", "steps", "translation", "pronunciation"]
SMALL = {"d_model": 32, "n_layers": 1}


def model(opened: Opened) -> torch.nn.Module:
    wanted, data = opened
    name = {"pairs": "seq2seq", "tokens": "transformer"}.get(wanted.eats, "mlp")
    found = entry(name)
    known = set(found.config.__dataclass_fields__)
    values = {name: value for name, value in {**SMALL, "dropout": 0.0}.items() if name in known}
    return build(wanted, data, found, values)


def answers(opened: Opened, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    wanted, data = opened
    state, run = json.loads(json.dumps(data.state())), runner(model(opened))
    for request, truth in json.loads(json.dumps(data.requests("validation", count))):
        yield request, wanted.answer(state, run, request), truth


@pytest.mark.parametrize("key", KEYS)
def test_requests_are_answered_observed_and_judged(key: str, opened: dict[str, Opened]) -> None:
    wanted, data = opened[key]
    state = json.loads(json.dumps(data.state()))
    names, errors = set(), []
    for request, answer, truth in answers(opened[key], 6):
        seen = wanted.observe(state, request, answer)
        assert seen == wanted.observe(state, request, answer)
        assert all(type(value) is float and math.isfinite(value) for value in seen.values()), seen
        names.add(tuple(seen))
        errors.append(wanted.error(state, request, answer, truth))
    assert len(errors) >= 5 and len(names) == 1 and len(names.pop()) >= 4
    assert all(type(error) is float and error >= 0 for error in errors) and max(errors) > 0


@pytest.mark.parametrize("key", KEYS)
def test_a_field_that_nothing_reads_is_refused(key: str, opened: dict[str, Opened]) -> None:
    wanted, data = opened[key]
    request, _ = data.requests("validation", 1)[0]
    assert request.keys() <= set(data.fields)
    first = data.fields[0]
    for name, sentence in (
        (f"{first}s", f"{first}s is no field of a request. Did you mean {first}"),
        ("qq", "There are"),
    ):
        with pytest.raises(UserError, match=sentence):
            wanted.answer(data.state(), runner(model(opened[key])), request | {name: 1})


def test_every_task_names_its_fields() -> None:
    assert [found.name for found in tasks().values() if not found._kind().fields] == []


@pytest.mark.parametrize("key", KEYS)
def test_a_right_answer_has_no_error(key: str, opened: dict[str, Opened]) -> None:
    wanted, data = opened[key]
    request, truth = data.requests("test", 1)[0]
    right = {"forecast": truth, "label": truth, "translation": truth, "phonemes": truth}
    assert wanted.error(data.state(), request, right, truth) == pytest.approx(0)


@pytest.mark.parametrize("key", ["digits", "bncc", "own texts", "hours", "translation", "pronunciation"])
def test_what_came_back_is_learnt(key: str, opened: dict[str, Opened]) -> None:
    """Twenty steps on 32 pairs whose truth is another one than the data's lower the loss on them."""
    _, data = opened[key]
    pairs = data.requests("validation", 32)
    moved = pairs[1:] + pairs[:1]
    if key == "hours":
        shifted = [(request, [value + 3 for value in truth]) for request, truth in pairs]
    else:
        shifted = [(request, truth) for (request, _), (_, truth) in zip(pairs, moved, strict=True)]
    batch = data.learn(shifted)
    assert len(batch.inputs[0]) == len(pairs)
    trained = model(opened[key])
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    losses = []
    for _ in range(21):
        loss = data.loss(trained(*batch.inputs), batch.targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(map(math.isfinite, losses)) and losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("key", KEYS)
def test_a_batch_of_pairs_is_what_training_makes_of_them(key: str, opened: dict[str, Opened]) -> None:
    """The model sees the same numbers whether it answers a request or learns from it."""
    wanted, data = opened[key]
    state, seen = data.state(), []

    def run(*arrays: Any) -> Any:
        seen.append(arrays)
        raise StopIteration

    pair = data.requests("test", 1)[0]
    with pytest.raises(StopIteration):
        wanted.answer(state, run, pair[0])
    inputs = data.learn([pair]).inputs
    for learnt, asked in zip(inputs[:1], seen[0][:1], strict=True):
        assert np.allclose(learnt.numpy(), asked[:1])


WRONG = {
    "digits": ["eleven", 12, -1, True, None, ["three"]],
    "bncc": ["matemática", None, {}],
    "hours": [[1.0], None, [1.0] * 23 + [math.nan], [1.0] * 23 + [10**400], ["1"] * 24, [True] * 24, 5.0],
    "translation": ["", None, "  "],
    "pronunciation": ["", 7, "q q"],
}


@pytest.mark.parametrize(("key", "truth"), [(key, truth) for key, truths in WRONG.items() for truth in truths])
def test_a_truth_that_does_not_fit_is_named(key: str, truth: Any, opened: dict[str, Opened]) -> None:
    wanted, data = opened[key]
    request, right = data.requests("test", 1)[0]
    answer = {"forecast": right, "label": right, "translation": right, "phonemes": right}
    with pytest.raises(UserError, match=r"^truth"):
        wanted.error(data.state(), request, answer, truth)
    with pytest.raises(UserError, match=r"^truth"):
        data.learn([(request, truth)])


def test_an_unknown_label_is_told_the_known_ones(opened: dict[str, Opened]) -> None:
    wanted, data = opened["own texts"]
    known = r"Give one of: bom, caro, ruim, or its number from 0 to 2\."
    with pytest.raises(UserError, match=rf'truth = "ótimo" is no label of this task\. {known}'):
        wanted.error(data.state(), {"text": "a"}, {"label": "bom"}, "ótimo")
    with pytest.raises(UserError, match="and 80 more"):
        class_of([[str(n)] for n in range(100)], "none")


def test_a_label_may_be_told_by_its_number(opened: dict[str, Opened]) -> None:
    """Where labels are numbers themselves, a number is a name."""
    names, ages = [["bom"], ["caro"], ["ruim", "mau"]], [["10"], ["2"], ["0"]]
    assert [class_of(names, truth) for truth in ("caro", 1, "1", "mau", 2, 0)] == [1, 1, 1, 2, 2, 0]
    assert [class_of(ages, truth) for truth in ("2", 2, 0, 10)] == [1, 1, 2, 0]
    for labels, odd in ((names, 3), (names, -1), (names, True), (names, 1.0), (ages, 1), (ages, "1"), (names, [1])):
        with pytest.raises(UserError, match=r"^truth"):
            class_of(labels, odd)
    wanted, data = opened["digits"]
    request, right = data.requests("test", 1)[0]
    number = class_of(data.state()["labels"], right)
    assert wanted.error(data.state(), request, {"label": right}, number) == 0
    assert torch.equal(data.learn([(request, number)]).targets, data.learn([(request, right)]).targets)


def test_a_picture_has_a_name_in_two_languages(opened: dict[str, Opened]) -> None:
    wanted, data = opened["digits"]
    assert wanted.error(data.state(), {}, {"label": "three"}, "três") == 0
    assert wanted.error(data.state(), {}, {"label": "three"}, "two") == 1


def test_a_wrong_number_of_the_users_is_in_no_sentence(opened: dict[str, Opened]) -> None:
    wanted, data = opened["own series"]
    for odd in ("4711,5", [4711.5], None):
        asked = {"history": [odd] * data.sizes["max_len"], "start": "2024-01-01T00:00"}
        with pytest.raises(UserError) as told:
            wanted.answer(data.state(), lambda *arrays: arrays[0], asked)
        assert "4711" not in str(told.value) and str(told.value).startswith("history[0] is ")
        with pytest.raises(UserError) as told:
            wanted.error(data.state(), asked, {"forecast": [1.0, 2.0]}, [odd, 4711.5])
        assert "4711" not in str(told.value) and str(told.value).startswith("truth[0] is ")


def test_absurd_numbers_are_observed_and_learnt_all_the_same(opened: dict[str, Opened]) -> None:
    wanted, data = opened["hours"]
    assert isinstance(data, ForecastData)
    asked = {"history": [1e308, -1e308] * 84, "start": "2024-01-01T00:00"}
    seen = wanted.observe(data.state(), asked, {"forecast": [math.nan, math.inf] * 12})
    assert max(map(abs, seen.values())) <= 2 * LIMIT
    json.dumps(seen, allow_nan=False)
    with pytest.raises(UserError, match=r"truth\[0\] is more than"):
        wanted.error(data.state(), asked, {"forecast": [1.0] * 24}, [-1e308] * 24)
    batch = data.learn([(asked, [1e308] * 24)])
    assert bool(batch.inputs[0].isfinite().all()) and bool(batch.targets.isfinite().all())


def test_forecasts_are_asked_at_every_hour() -> None:
    """The judge asks at midnight; people do not, and an hour that the reference never saw would be drift."""
    data = hours()
    for count in (20, 24, 48, 100):
        pairs = data.requests("validation", count)
        assert 0.9 * count <= len(pairs) <= count
        first = [datetime.fromisoformat(request["start"]) for request, _ in pairs]
        assert first == sorted(first) and len({time.hour for time in first}) >= min(count, 24) / 2
    request, truth = data.requests("test", 5)[3]
    place = round((datetime.fromisoformat(request["start"]) - MONDAY).total_seconds() / 3600)
    assert truth == data.series.values[place + 168 : place + 192].tolist()
    assert place >= data.edges["test"][0][0]


def test_evenly() -> None:
    assert evenly(5, 9) == [0, 1, 2, 3, 4] and evenly(0, 3) == [] and evenly(9, 0) == []
    places = evenly(1000, 100)
    assert len(places) == 100 and [place // 10 for place in places] == list(range(100))
    assert len({place % 10 for place in places}) == 10


def test_what_is_seen_of_a_text(opened: dict[str, Opened]) -> None:
    """Words that training never saw are rare, surprising and cut into small pieces."""
    wanted, data = opened["bncc"]
    state, answer = data.state(), {"probabilities": {"a": 0.25, "b": 0.75}}
    known = wanted.observe(state, data.requests("test", 1)[0][0], answer)
    foreign = wanted.observe(state, {"text": "Хорошо, спасибо! Wirklich überhöht."}, answer)
    assert foreign["rare"] > known["rare"] + 0.1 and foreign["surprise"] > known["surprise"] + 1
    assert foreign["letters per token"] < 0.7 * known["letters per token"]
    assert known["confidence"] == 0.75 and known["class"] == 1 and 0 < known["entropy"] < 1
    older = {name: value for name, value in state.items() if name != "counts"}
    assert "rare" not in wanted.observe(older, {"text": "um"}, answer)


def test_what_is_seen_of_a_picture(opened: dict[str, Opened]) -> None:
    wanted, data = opened["digits"]
    state = data.state()
    answer = {"probabilities": {name: 0.1 for name, _ in state["labels"]}}
    image = np.array(data.requests("test", 1)[0][0]["image"])
    seen, inverted = (wanted.observe(state, {"image": i.tolist()}, answer) for i in (image, 16 - image))
    assert seen["brightness"] + inverted["brightness"] == pytest.approx(1)
    assert seen["contrast"] == pytest.approx(inverted["contrast"]) and seen["edges"] > 0.05
    flat = wanted.observe(state, {"image": np.full((8, 8), 16).tolist()}, answer)
    assert (flat["brightness"], flat["contrast"], flat["edges"]) == (1, 0, 0)
    assert seen["entropy"] == pytest.approx(1)


def test_what_is_seen_of_a_series(opened: dict[str, Opened]) -> None:
    data = opened["hours"][1]
    assert isinstance(data, ForecastData)
    rising = {"history": [data.mean + data.std * n / 167 for n in range(168)], "start": "2024-01-02T06:00"}
    seen = data.observe(data.state(), rising, {"forecast": [data.mean] * 24})
    assert seen["level"] == pytest.approx(0.5) and seen["trend"] == pytest.approx(0.5, rel=0.02)
    assert seen["calendar"] == 0.25 and seen["last step"] == pytest.approx(1 / 167)
    assert seen["jump"] == pytest.approx(-1) and seen["forecast spread"] == pytest.approx(0)
    assert "calendar" not in opened["steps"][1].observe(opened["steps"][1].state(), rising, {"forecast": [1.0] * 24})


def test_nothing_to_learn_from_is_told(opened: dict[str, Opened]) -> None:
    for _, data in opened.values():
        with pytest.raises(UserError, match="no truth to learn from"):
            data.learn([])


def test_a_task_without_a_truth_says_so(tmp_path: Path) -> None:
    wanted = task("probe/functions")
    data = wanted.open(tmp_path, lambda text: None)
    assert data.requests("test", 5) == [] and wanted.observe(data.state(), {}, {}) == {}
    for asked in (lambda: wanted.error(data.state(), {}, {}, 1), lambda: data.learn([({}, 1)])):
        with pytest.raises(UserError, match=r"this task (takes no truth|does not learn from truths)"):
            asked()
