"""The engine of a task: one exception ends one request, keys take turns, a model that is not fit does not serve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from oliveira.artifact import Artifact
from oliveira.errors import CorruptError, UserError
from oliveira.runs.predict import Answerer, export
from oliveira.runs.records import Run
from oliveira.runs.run import fit
from oliveira.serving.engine.forward_engine import ForwardEngine
from oliveira.serving.protocol import Cancel, Error, Judge, Judged, Predict, PredictAll, Predicted, Question, Tokenize
from oliveira.serving.wire import pack


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = fit(
        "probe/adding", model="gru", budget="steps=3", home=tmp_path_factory.mktemp("home"), d_model=8, batch_size=4
    )
    export(made.folder)
    return made


@pytest.fixture(params=["artifact", "export"])
def engine(run: Run, request: pytest.FixtureRequest) -> ForwardEngine:
    return ForwardEngine(opened(run, request.param), threads=1)


def opened(run: Run, name: str) -> Artifact:
    from oliveira.artifact import open_artifact

    return open_artifact(run.folder / name)


def predict(number: str, body: Any, tenant: str = "ana") -> Predict:
    return Predict(id=number, request=f"x-{number}", tenant=tenant, body=body)


def talk(engine: ForwardEngine, messages: Sequence[Question]) -> list[Any]:
    said: list[Any] = engine.turn(messages)
    while engine.busy:
        said += engine.turn([])
    pack(said)
    return said


def test_it_says_what_it_serves(engine: ForwardEngine) -> None:
    engine.smoke()
    ready = engine.ready()
    assert ready.engine == ("onnxruntime" if "model.onnx" in engine.artifact.files else "torch")
    task = ready.task
    assert (task["task"], task["model"], task["eats"]) == ("probe/adding", "gru", "series")
    assert task["metric"]["better"] in ("lower", "higher")
    [answer] = talk(engine, [predict("1", task["example"])])
    [found] = answer.answers
    assert found.answer == engine.answerer(task["example"]) and found.observed == {}


@pytest.mark.parametrize("body", [None, [], 3, {}, {"series": "x"}, {"series": [[math.nan, 1.0]]}])
def test_what_the_task_refuses_is_told(engine: ForwardEngine, body: Any) -> None:
    [said] = talk(engine, [predict("1", body)])
    assert isinstance(said, Error) and (said.status, said.code) == (400, "invalid_request") and said.message


def test_an_exception_ends_its_own_request(engine: ForwardEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    good, answered = engine.answerer.example, Answerer.__call__

    def breaks(self: Answerer, body: Any) -> dict[str, Any]:
        if "bad" in body:
            raise RuntimeError("out of luck")
        return answered(self, body)

    monkeypatch.setattr(Answerer, "__call__", breaks)
    unknown = Tokenize(id="3", text="um")
    first, second, third = talk(engine, [predict("1", {"bad": 1}), predict("2", good), unknown])
    by_number = {said.id: said for said in (first, second, third)}
    assert isinstance(by_number["2"], Predicted)
    assert [(by_number[n].status, by_number[n].code) for n in "13"] == [(500, "internal")] * 2
    assert not engine.busy and engine.stats().waiting == 0


def test_keys_take_turns_and_what_is_not_wanted_is_not_computed(engine: ForwardEngine) -> None:
    good = engine.answerer.example
    messages = [predict(f"a{n}", good) for n in range(3)] + [predict("b", good, "bia"), Cancel(id="a2")]
    assert [said.id for said in talk(engine, messages)] == ["a0", "b", "a1"]


def test_observation_and_truth_are_the_tasks(engine: ForwardEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    task, good = type(engine.answerer.task), engine.answerer.example

    def error(self: Any, state: Any, request: Any, answer: Any, truth: Any) -> float:
        if not isinstance(truth, int | float):
            raise UserError(f"truth = {truth!r} is not a number.")
        return abs(float(truth)) * 1e308

    monkeypatch.setattr(task, "observe", lambda *_: {"level": 2, "broken": math.nan, "spread": 0.5})
    monkeypatch.setattr(task, "error", error)
    [said] = talk(engine, [predict("1", good)])
    [found] = said.answers
    assert found.observed == {"level": 2.0, "spread": 0.5}  # a number that is none is left out

    def judged(truth: Any) -> Judged | Error:
        return talk(engine, [Judge(id="2", body=good, answer=found.answer, truth=truth)])[0]

    assert judged(0.5) == Judged(id="2", queue_seconds=ANY, error=0.5e308)
    for odd in ("x", None, [], 100, math.inf, 10**400):
        said = judged(odd)
        assert isinstance(said, Error) and said.status == 400 and "truth" in said.message

    def breaks(*_: Any) -> dict[str, float]:
        raise RuntimeError("drift's own affair")

    monkeypatch.setattr(task, "observe", breaks)
    [said] = talk(engine, [predict("1", good)])
    assert [found.observed for found in said.answers] == [{}]


def test_a_task_without_a_truth_says_so(engine: ForwardEngine) -> None:
    message = Judge(id="1", body=engine.answerer.example, answer={}, truth="no such truth")
    [said] = talk(engine, [message])
    assert said.status == 400 and "truth" in said.message


@pytest.mark.parametrize("fault", ["raises", "changes"])
def test_a_model_that_fails_its_own_example_does_not_serve(
    engine: ForwardEngine, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([{"value": 1.0}, {"value": 2.0}])

    def answer(self: Any, request: Any) -> dict[str, Any]:
        if fault == "raises":
            raise UserError("the model's answer is not a finite number")
        return next(answers)

    monkeypatch.setattr(Answerer, "__call__", answer)
    with pytest.raises(CorruptError, match="its own example"):
        engine.smoke()


def batch(bodies: list[Any]) -> PredictAll:
    return PredictAll(id="1", request="x", tenant="ana", bodies=bodies)


def test_several_requests_share_a_run_and_answer_as_each_alone(engine: ForwardEngine) -> None:
    good = engine.answerer.example
    bodies, rows = [good, {"series": good["series"][::-1]}, good], counted(engine)
    [said] = talk(engine, [batch(bodies)])
    assert rows == [3], "arrays of one shape are computed together"
    for given, body in zip(said.answers, bodies, strict=True):
        alone = engine.answerer(body)
        assert given.answer.keys() == alone.keys() and given.observed == {}
        assert given.answer["value"] == pytest.approx(alone["value"], abs=1e-5)


def counted(engine: ForwardEngine) -> list[int]:
    """The rows of each run from now on."""
    plain, rows = engine.answerer._plain, list[int]()

    def count(*arrays: Any) -> Any:
        rows.append(len(arrays[0]))
        return plain(*arrays)

    engine.answerer._plain = count
    return rows


def test_texts_of_one_length_share_a_run(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    words = [(f"produto {n} {word}", word) for n in range(40) for word in ("bom", "ruim", "caro")]
    table.write_text("texto,nota\n" + "\n".join(map(",".join, words)), encoding="utf-8")
    made = fit(f"classify/path:{table}", model="bilstm", budget="steps=2", home=tmp_path, d_model=8, threads=1)
    engine = ForwardEngine(opened(made, "artifact"), threads=1)
    told = engine.ready()
    assert told.task["task"] == "classify/path:t.csv" and str(tmp_path) not in pack([told]).decode(), (
        "no folder is told"
    )
    bodies = [{"text": text} for text in ("bom", "produto 3 bom", "bom", "produto 4 bom", "ruim")]
    rows = counted(engine)
    [said] = talk(engine, [batch(bodies)])
    assert sum(rows) == 5 and 2 <= len(rows) <= 4
    for given, body in zip(said.answers, bodies, strict=True):
        alone = engine.answerer(body)
        assert given.answer["label"] == alone["label"] and given.observed["length"] == len(body["text"])
        assert given.answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    "bad", [{}, [], {"series": "x"}, {"series": [[math.nan, 1.0]]}, {"series": [[1.0, 0.0]] * 4000}]
)
def test_one_that_is_refused_refuses_all_and_is_named(engine: ForwardEngine, bad: Any) -> None:
    good = engine.answerer.example
    [said] = talk(engine, [batch([good, good, bad, good])])
    assert isinstance(said, Error) and said.status == 400 and said.message.startswith("requests[2]: ")
    assert len(said.message) > 20
