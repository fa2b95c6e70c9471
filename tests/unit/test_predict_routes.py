"""The routes of a served task over an engine of a few lines: keys, odd bodies, what is kept, what is told after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import TASK, Engine
from starlette.testclient import TestClient

from oliveira.ledger import Ledger
from oliveira.serving.front import answer_log
from oliveira.serving.front.app import make_app
from oliveira.serving.front.served import Served
from oliveira.serving.front.service import Service
from oliveira.serving.protocol import Judge
from oliveira.serving.settings import ServeSection


class House:
    """A service whose fleet is one such engine, and a client with a key."""

    def __init__(self, home: Path, task: dict[str, Any] | None = TASK, **serve: Any) -> None:
        self.service = Service(home, ServeSection(**serve))
        self.served = Served(home, self.service.settings, [self.service])
        self.engine = Engine(task)
        self.service.fleet.current = self.engine  # type: ignore[assignment]
        self.key = self.service.ledger.add_key("ana", ("use",))
        self.client = TestClient(make_app(self.served), headers={"Authorization": f"Bearer {self.key}"})

    def predict(self, body: Any, **headers: str) -> Any:
        return self.client.post("/v1/predict", json=body, headers=headers)

    def kept(self) -> list[Any]:
        """After all that was submitted to the writer."""
        self.service._thread.submit(lambda: None).result()
        return self.service.ledger.answers()

    def close(self) -> None:
        self.service._thread.shutdown(wait=True)
        self.service._writer.close()
        self.service.ledger.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_an_answer_has_its_own_fields_and_a_name(house: House) -> None:
    found = house.predict({"level": 3})
    number = found.json().pop("id")
    assert found.json() == {"level": 6, "id": number, "model": "oliveira"} and number.startswith("pred-")
    assert found.headers["x-oliveira-model"] == "d" * 12
    assert house.predict({"level": 3, "model": "d" * 12}).json()["model"] == "d" * 12
    assert house.engine.asked[-1].body == {"level": 3}, "the name of a model is no part of the task's request"
    [row, _] = house.kept()
    assert row.key == house.key.split("-")[2]
    assert (row.id, row.request, row.answer, row.observed) == (number, {"level": 3}, {"level": 6}, {"level": 3.0})
    assert house.client.get("/v1/task").json() == TASK
    [model, _] = house.client.get("/v1/models").json()["data"]
    assert model["task"] == "forecast/x" and "max_model_len" not in model
    assert house.client.get("/ready").json()["task"] == "forecast/x"
    metrics = house.served.render_metrics().decode()
    for line in (
        'oliveira:request_success_total{finished_reason="stop",model="oliveira"} 2.0',
        'oliveira:e2e_request_latency_seconds_count{model="oliveira"} 2.0',
        'oliveira:time_to_first_token_seconds_count{model="oliveira"} 2.0',
    ):
        assert line in metrics


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'["level"]',
        b"3",
        b'"level"',
        b"{",
        b"\xff",
        b"{}",
        b'{"level": NaN}',
        b'{"level": 1e400}',
        b'{"level": ' + b"9" * 5000 + b"}",
        b'{"level": "x"}',
        b'{"level": [1]}',
        b'{"level": 1, "model": 3}',
        b'{"level": 1, "model": null}',
        b'{"level": 1, "model": "' + b"x" * 200 + b'"}',
        b"[" * 100_000,
        b'{"\\ud800": 1}',
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback"])
def test_odd_bodies_are_refused_in_a_sentence(house: House, path: str, body: bytes) -> None:
    found = house.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 400 and found.json()["error"]["message"].endswith((".", "number"))
    assert house.kept() == []


def test_a_body_that_is_too_large_is_not_read(house: House) -> None:
    found = house.client.post("/v1/predict", content=b" " * (2 << 20), headers={"Content-Type": "application/json"})
    assert found.status_code == 413


def test_another_model_is_not_found(house: House) -> None:
    assert house.predict({"level": 1, "model": "gpt-9"}).status_code == 404


def test_a_key_is_needed(house: House) -> None:
    for path in ("/v1/predict", "/v1/feedback"):
        assert TestClient(house.client.app).post(path, json={"level": 1}).status_code == 401
    assert TestClient(house.client.app).get("/v1/task").status_code == 401


def test_a_truth_is_judged_and_kept(house: House) -> None:
    number = house.predict({"level": 3}).json()["id"]

    def tell(truth: Any, name: str = number) -> Any:
        return house.client.post("/v1/feedback", json={"id": name, "truth": truth})

    assert tell(4).json() == {"id": number, "error": 2}
    assert tell(4).json() == {"id": number, "error": 2}, "told twice is told once"
    [row] = house.service.ledger.truths()
    assert (row.truth, row.error) == (4, 2.0)
    assert tell(7).json()["error"] == 1
    [again] = house.service.ledger.truths(row.told or 0.0)
    assert again.truth == 7, "another truth replaces the first"
    for odd in ("x", None, [], {}):
        assert tell(odd).status_code == 400
    for name in ("pred-unknown", "", "x" * 64):
        assert tell(4, name).status_code == 404
    assert tell(4, "x" * 65).status_code == 400
    assert house.client.post("/v1/feedback", json={"id": number}).status_code == 400
    assert house.service.ledger.pairs() == [({"level": 3}, 7)]


def test_only_who_asked_or_an_operator_tells_the_truth(house: House) -> None:
    number = house.predict({"level": 3}).json()["id"]

    def tell(scopes: tuple[str, ...], name: str) -> Any:
        key = house.service.ledger.add_key("bia", scopes)
        client = TestClient(house.client.app, headers={"Authorization": f"Bearer {key}"})
        return client.post("/v1/feedback", json={"id": name, "truth": 4})

    other, none = tell(("use",), number), tell(("use",), "pred-none")
    assert other.status_code == none.status_code == 404
    assert other.json()["error"]["message"].replace(number, "pred-none") == none.json()["error"]["message"]
    assert house.service.ledger.truths() == [] and not any(isinstance(asked, Judge) for asked in house.engine.asked)
    assert tell(("use", "admin"), number).status_code == 200
    [row] = house.kept()
    house.service.ledger.add_answer(
        "pred-old", time=1.0, digest="d", request=row.request, answer=row.answer, observed={}, key=""
    )
    assert tell(("use",), "pred-old").status_code == 404 and tell(("admin",), "pred-old").status_code == 200


@pytest.mark.parametrize("way", ["header", "setting"])
def test_what_is_not_to_be_kept_is_not(tmp_path: Path, way: str) -> None:
    house = House(tmp_path, keep_traffic=way != "setting")
    found = house.predict({"level": 3}, **({"X-Oliveira-No-Traffic": "1"} if way == "header" else {}))
    assert found.status_code == 200 and house.kept() == []
    told = house.client.post("/v1/feedback", json={"id": found.json()["id"], "truth": 1})
    assert told.status_code == 404 and "serve.keep_traffic" in told.json()["error"]["message"]
    house.close()


def test_a_dead_engine_is_asked_again_once(house: House) -> None:
    house.engine.deaths = 1
    assert house.predict({"level": 3}).status_code == 200
    house.engine.deaths = 2
    found = house.predict({"level": 3})
    assert found.status_code == 503 and found.json()["error"]["code"] == "engine_stopped"
    assert house.service.admission.taken == 0


def test_a_late_answer_and_a_full_queue_are_told(tmp_path: Path) -> None:
    house = House(tmp_path, deadline=0.05, slots=1, queue=0)
    assert house.predict({"level": "slow"}).status_code == 504
    permit = house.service.admission.take(1, "somebody")
    found = house.predict({"level": 3})
    assert found.status_code == 429 and found.headers["retry-after"]
    permit.release()
    assert house.predict({"level": 3}).status_code == 200
    house.close()


TEXT_ROUTES = {
    "/v1/completions": {"model": "oliveira", "prompt": "a"},
    "/v1/chat/completions": {"model": "oliveira", "messages": [{"role": "user", "content": "a"}]},
    "/v1/embeddings": {"model": "oliveira", "input": "a"},
    "/tokenize": {"text": "a"},
    "/detokenize": {"tokens": [1]},
}


@pytest.mark.parametrize("path", TEXT_ROUTES)
def test_a_task_continues_no_text(house: House, path: str) -> None:
    found = house.client.post(path, json=TEXT_ROUTES[path])
    assert found.status_code == 404 and "/v1/predict" in found.json()["error"]["message"]
    assert house.service.admission.taken == 0 and house.engine.asked == []


def test_text_is_no_task(tmp_path: Path) -> None:
    house = House(tmp_path, task=None)
    bodies = {"/v1/predict": {"level": 1}, "/v1/feedback": {"id": "pred-1", "truth": 1}}
    for path, body in bodies.items():
        found = house.client.post(path, json=body)
        assert found.status_code == 404 and "/v1/completions" in found.json()["error"]["message"]
    assert house.client.get("/v1/task").status_code == 404
    assert house.client.get("/v1/models").json()["data"][0]["max_model_len"] == 0
    house.close()


def test_a_slow_disk_costs_records_and_no_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "WAITING", 3)
    locked = Ledger(house.service.home)
    with locked.transaction():
        for level in range(8):
            assert house.predict({"level": level}).status_code == 200
    locked.close()
    kept = [row.request["level"] for row in house.kept()]
    assert kept[:1] == [0] and 3 <= len(kept) <= 4
    assert house.service.metrics.traffic_dropped_total._value.get() == 8 - len(kept)


def test_a_full_disk_costs_records_and_no_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(house.service._writer, "add_answer", full)
    assert house.predict({"level": 1}).status_code == 200 and house.kept() == []
    assert house.service.metrics.traffic_dropped_total._value.get() == 1


def test_the_openapi_shows_the_routes(house: House) -> None:
    paths = json.dumps(house.client.get("/openapi.json").json()["paths"])
    assert all(path in paths for path in ("/v1/predict", "/v1/feedback", "/v1/task"))


def test_several_requests_have_an_answer_and_a_name_each(house: House) -> None:
    found = house.predict({"requests": [{"level": 3}, {"level": 4}], "model": "oliveira"})
    first, second = found.json()["answers"]
    assert (first["level"], second["level"], found.json()["model"]) == (6, 8, "oliveira")
    assert [row.id for row in house.kept()] == [first["id"], second["id"]] and first["id"] != second["id"]
    assert [row.request for row in house.kept()] == [{"level": 3}, {"level": 4}]
    for one, truth in ((first, 5), (second, 5)):
        told = house.client.post("/v1/feedback", json={"id": one["id"], "truth": truth})
        assert told.json() == {"id": one["id"], "error": abs(one["level"] - truth)}
    assert len(house.engine.asked) == 3 and house.engine.asked[0].bodies == [{"level": 3}, {"level": 4}]
    assert house.service.admission.taken == 0


@pytest.mark.parametrize(
    "body",
    [
        {"requests": []},
        {"requests": {"level": 1}},
        {"requests": None},
        {"requests": [{"level": 1}] * 65},
        {"requests": [{"level": 1}], "level": 1},
        {"requests": [{"level": 1}, {"level": "x"}]},
        {"requests": [{"level": 1}, 3]},
    ],
)
def test_odd_lists_of_requests_are_refused_whole(house: House, body: Any) -> None:
    found = house.predict(body)
    assert found.status_code == 400 and "requests" in found.json()["error"]["message"]
    assert house.kept() == [] and house.service.admission.taken == 0


def test_several_requests_count_in_the_queue(tmp_path: Path) -> None:
    house = House(tmp_path, slots=2, queue=0)
    permit = house.service.admission.take(1, "somebody")
    assert house.predict({"requests": [{"level": 1}] * 2}).status_code == 429
    permit.release()
    assert house.predict({"requests": [{"level": 1}] * 2}).status_code == 200
    house.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"null", "the body is not a JSON object. Correct it."),
        (b'["id"]', "the body is not a JSON object. Correct it."),
        (b'{"truth": 1}', "id is missing. Correct it."),
        (b'{"id": 3, "truth": 1}', "id is not a text. Correct it."),
        (b'{"id": "' + b"x" * 65 + b'", "truth": 1}', "id has more than 64 characters. Correct it."),
        (b'{"id": "pred-1"}', "truth is missing. Correct it."),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_body(house: House, body: bytes, words: str) -> None:
    found = house.client.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 400 and found.json()["error"]["message"] == words
