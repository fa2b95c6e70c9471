"""A trained run answers the same from its weights and from its exported graph; a damaged one does not answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_app import predict_app
from starlette.testclient import TestClient

from oliveira.errors import CorruptError, UserError
from oliveira.runs.predict import Predictor, export
from oliveira.runs.records import Run, find_run
from oliveira.runs.run import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("home")
    return fit("probe/adding", model="gru", budget="steps=3", home=home, d_model=8, batch_size=4)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_exported_and_plain_agree(run: Run) -> None:
    plain = Predictor(run.folder)
    assert plain.engine == "torch"
    before = plain(plain.example)
    figures = export(run.folder)
    exported = Predictor(run.folder)
    assert exported.engine == "onnxruntime" and figures["onnx_error"] <= 1e-4
    np.testing.assert_allclose(numbers(exported(plain.example)), numbers(before), atol=1e-4)
    assert find_run(run.folder.parents[3], "probe/adding/gru") == run.folder


def test_a_changed_graph_is_refused(run: Run, tmp_path: Path) -> None:
    if not (run.folder / "export").exists():
        export(run.folder)
    graph = run.folder / "export" / "model.onnx"
    kept = graph.read_bytes()
    graph.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(CorruptError, match=r"model\.onnx"):
            Predictor(run.folder)
    finally:
        graph.write_bytes(kept)


@pytest.mark.parametrize(
    "request_",
    [
        [],
        3,
        {},
        {"series": "x"},
        {"series": [[1.0] * 2] * 4000},
        {"series": [[10**400, 1]] * 8},
        {"series": [[1e300, 1]] * 8},
    ],
)
def test_bad_requests_get_a_sentence(run: Run, request_: Any) -> None:
    with pytest.raises(UserError):
        Predictor(run.folder)(request_)


def test_unknown_runs_are_named(tmp_path: Path, run: Run) -> None:
    with pytest.raises(UserError, match="There is no run yet"):
        find_run(tmp_path, "probe/adding/gru")
    with pytest.raises(UserError, match="Runs here: probe/adding/gru"):
        find_run(run.folder.parents[3], "probe/adding/lstm")


def test_the_newest_run_is_the_newest_that_kept_its_weights(tmp_path: Path) -> None:
    """`compare` measures and keeps nothing: its runs are newer and hold no artifact."""

    def measured(model: str, *, package: bool) -> Path:
        settings = {"budget": "steps=1", "home": tmp_path, "d_model": 8, "batch_size": 2, "package": package}
        return fit("probe/adding", model=model, seed=0 if package else 1, **settings).folder

    trained, newer, only = (
        measured("gru", package=True),
        measured("gru", package=False),
        measured("lstm", package=False),
    )
    assert find_run(tmp_path, "probe/adding/gru") == trained
    for name, model in ((str(newer), "gru"), (str(only), "lstm"), ("probe/adding/lstm", "lstm")):
        with pytest.raises(UserError, match=f"no weights.*oliveira train probe/adding {model}"):
            find_run(tmp_path, name)


def test_over_http(run: Run) -> None:
    predictor = Predictor(run.folder)
    with TestClient(predict_app(predictor, {"task": predictor.task.name, "example": predictor.example})) as client:
        about = client.get("/v1/task").json()
        good = client.post("/v1/predict", json=about["example"])
        assert good.status_code == 200 and good.json() == json.loads(json.dumps(predictor(predictor.example)))
        for body in (
            b"{",
            b"[]",
            b'{"series": "x"}',
            b"\xff",
            b'{"series": NaN}',
            b"[" * 100_000,
            b'{"series": 1' + b"0" * 400 + b"}",
        ):
            bad = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
            assert bad.status_code == 400 and bad.json()["error"]["message"]
        assert client.post("/v1/predict", content=b" " * (1 << 21)).status_code == 413
        assert client.get("/health").json() == {"status": "ok"}
