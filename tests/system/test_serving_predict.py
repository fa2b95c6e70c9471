"""A task behind the real front: predicted, swapped under load, killed, told the truth; no text in the way."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_helpers import Home, Server, wait_for

from oliveira import artifact
from oliveira.artifact import Artifact, open_artifact
from oliveira.runs.predict import Answerer, export
from oliveira.runs.run import fit

HISTORY, HORIZON, REQUESTS = 24, 4, 40


class Served:
    """A home with two forecasters of one table, the first of which is served."""

    def __init__(self, path: Path, tokenizer: Path) -> None:
        self.home = Home(path, tokenizer)
        table = path / "table.csv"
        rows = (f"{5 + 3 * math.sin(step / 4):.3f}" for step in range(400))
        table.write_text("\n".join(["kwh", *rows]) + "\n")
        self.first, self.second = (self.make(table, seed) for seed in (0, 1))
        self.home.promote(self.first)

    def make(self, table: Path, seed: int) -> Artifact:
        run = fit(
            f"forecast/path:{table}?target=kwh&history={HISTORY}&horizon={HORIZON}",
            model="mlp",
            budget="steps=3",
            seed=seed,
            home=self.home.path,
        )
        export(run.folder)
        made = open_artifact(run.folder / "export")
        self.home.ledger.add_artifact(made.digest, "package", made.path, made.lineage, made.metrics)
        return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("predict") / "home", tokenizer_file)
    yield made
    made.home.ledger.close()


@pytest.fixture(scope="module")
def running(served: Served) -> Iterator[Server]:
    with Server(served.home) as found:
        found.ready()
        yield found


def request(level: float = 5.0) -> dict[str, Any]:
    return {"history": [level + math.sin(step) for step in range(HISTORY)]}


def swap(served: Served, running: Server, made: Artifact) -> None:
    served.home.promote(made)
    running.ready(made.digest)


def test_a_forecast_over_http(served: Served, running: Server) -> None:
    swap(served, running, served.first)
    with running.http() as http, running.http(served.home.admin) as admin:
        about = http.get("/v1/task").json()
        found = http.post("/v1/predict", json={**about["example"], "model": "oliveira"})
        assert found.headers["x-oliveira-model"] == served.first.digest[:12]
        expected = Answerer(served.first)(about["example"])
        assert {name: found.json()[name] for name in expected} == expected
        assert (about["model"], about["metric"]["name"], about["eats"]) == ("mlp", "MAE", "series")
        state = http.get("/ready").json()
        assert state["ready"] and state["task"] == about["task"] and state["vocab_size"] is None
        assert admin.get("/admin/state").json()["serving"]["digest"] == served.first.digest
        [model, _] = http.get("/v1/models").json()["data"]
        assert model["id"] == "oliveira" and "max_model_len" not in model
        refused = http.post("/v1/completions", json={"model": "oliveira", "prompt": "a"})
        assert refused.status_code == 404 and "/v1/predict" in refused.json()["error"]["message"]
        assert 'finished_reason="stop",model="oliveira"} 1.0' in admin.get("/metrics").text


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"history": NaN}',
        b'{"history": "x"}',
        b'{"history": [1, "x"]}',
        b'{"history": [' + b"1," * (HISTORY - 1) + b"1e400]}",
        b'{"history": [' + b"1e308," * (HISTORY - 1) + b"-1e308]}",
        b'{"history": [' + b"1," * 200_000 + b"1]}",
        b'{"history": [' + b"null," * (HISTORY - 1) + b"null]}",
        b'{"history": [' + b"true," * (HISTORY - 1) + b"true]}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_odd_bodies_end_themselves(running: Server, body: bytes) -> None:
    before = running.state()["digest"]
    with running.http() as http:
        odd = http.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
        assert odd.status_code == 400 and odd.json()["error"]["message"]
        assert http.post("/v1/predict", json=request()).status_code == 200
    assert running.state()["digest"] == before
    assert not [e for e in running.home.ledger.latest_events() if e["kind"] == "engine_died"]


def test_what_was_answered_is_kept_unless_it_is_not_to_be(served: Served, running: Server) -> None:
    with running.http() as http:
        kept = http.post("/v1/predict", json=request(7.0)).json()["id"]
        left = http.post("/v1/predict", json=request(), headers={"X-Oliveira-No-Traffic": "1"}).json()["id"]
        row = wait_for(lambda: served.home.ledger.get_answer(kept), 30)
        assert row.request == request(7.0) and row.digest == running.state()["digest"] and len(row.answer["forecast"])
        told = http.post("/v1/feedback", json={"id": left, "truth": {}})  # asked of the writer: all before it is kept
        assert told.status_code == 404 and served.home.ledger.get_answer(left) is None


def test_a_truth_is_judged_by_the_task_and_kept(served: Served, running: Server) -> None:
    with running.http() as http:
        found = http.post("/v1/predict", json=request(6.0)).json()

        def tell(truth: Any) -> Any:
            return http.post("/v1/feedback", json={"id": found["id"], "truth": truth})

        right = [value + 0.5 for value in found["forecast"]]
        assert tell(right).json() == {"id": found["id"], "error": pytest.approx(0.5)}
        assert tell(right).json()["error"] == pytest.approx(0.5)
        for odd in ("x", None, {}, right[1:], ["x"] * HORIZON, [1e308] * HORIZON + [1]):
            refused = tell(odd)
            assert refused.status_code == 400 and "truth" in refused.json()["error"]["message"]
    [row] = served.home.ledger.truths()  # acknowledged is committed
    assert (row.id, row.truth, row.key) == (found["id"], right, served.home.use.split("-")[2])
    assert row.observed.keys() >= {"level", "spread", "forecast level"}
    assert served.home.ledger.pairs() == [(request(6.0), right)]


def test_forty_requests_through_a_swap(served: Served, running: Server) -> None:
    """None fails, and each answer is that of the artifact which the header names."""
    swap(served, running, served.first)
    expected = {made.digest[:12]: Answerer(made)(request()) for made in (served.first, served.second)}
    assert len({tuple(answer["forecast"]) for answer in expected.values()}) == 2
    failed: list[str] = []
    versions: Counter[str] = Counter()

    def ask(wanted: int) -> None:
        with running.http() as http:
            while versions.total() < REQUESTS or versions[served.second.digest[:12]] < wanted:
                try:
                    found = http.post("/v1/predict", json=request()).raise_for_status()
                    version = found.headers["x-oliveira-model"]
                    assert found.json()["forecast"] == expected[version]["forecast"], "an answer of another version"
                    versions[version] += 1
                except Exception as error:
                    failed.append(repr(error))
                    return

    threads = [threading.Thread(target=ask, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: versions.total() >= REQUESTS // 4 or failed, 60)
    served.home.promote(served.second)
    for thread in threads:
        thread.join(120)
    assert failed == [] and len(versions) == 2 and versions.total() >= REQUESTS


def test_a_killed_engine_is_replaced_and_asked_again(served: Served, running: Server) -> None:
    wait_for(lambda: len(running.engines()) == 1, 60)  # an engine that was swapped out may still be ending
    [engine] = running.engines()
    with running.http() as http:
        os.kill(engine, signal.SIGKILL)
        assert http.post("/v1/predict", json=request()).status_code == 200
    assert running.engines() not in ([], [engine])


def test_an_artifact_that_fails_its_example_does_not_take_over(served: Served, running: Server) -> None:
    """Its weights are whole, its numbers are not."""
    model = served.first.load_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    files = {"task.json": (served.first.path / "task.json").read_bytes()}
    place = served.home.path / "artifacts" / "spoilt"
    made = artifact.write(place, model=model, name="mlp", files=files, lineage={"spoilt": 1}, metrics={})
    served.home.ledger.add_artifact(made.digest, "package", place, made.lineage, made.metrics)
    before = running.state()["digest"]
    served.home.promote(made)
    event = wait_for(lambda: served.home.ledger.last_event("swap_failed"), 120)
    assert event["data"]["digest"] == made.digest and "its own example" in event["data"]["reason"]
    with running.http() as http:
        assert http.post("/v1/predict", json=request()).headers["x-oliveira-model"] == before[:12]
    served.home.promote(served.second)


def test_a_language_model_has_no_task(server: Server) -> None:
    with server.http() as http:
        for path, body in (("/v1/predict", request()), ("/v1/feedback", {"id": "pred-1", "truth": 1})):
            found = http.post(path, json=body)
            assert found.status_code == 404 and "/v1/completions" in found.json()["error"]["message"]
        assert http.get("/v1/task").status_code == 404
