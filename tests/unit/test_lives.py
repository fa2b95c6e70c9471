"""Several lives in one home: who is meant, which names there are, what each has for itself and what all share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import TASK, Engine
from starlette.testclient import TestClient

from oliveira.cli import keys
from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.ledger.lives import chosen, home_of, lives, main_life, make_place, name_of, place, work
from oliveira.lifecycle.backup import back_up
from oliveira.lifecycle.forgetting import forget
from oliveira.lifecycle.overview import lives_overview
from oliveira.lifecycle.pipeline import Pipeline, Stage
from oliveira.lifecycle.remembered import Asked, choose
from oliveira.lifecycle.restore import restore
from oliveira.lifecycle.starting import life_to_start, worlds_of_others
from oliveira.process.holder import holder
from oliveira.process.progress import Reporter
from oliveira.serving.adapter_names import check_life, check_name
from oliveira.serving.front.app import make_app
from oliveira.serving.front.served import Served
from oliveira.world import TaskSection, World

FORECAST = "forecast/path:/data/consumo.csv?target=kwh"


def lived(home: Path, *names: str, task: str = "") -> Path:
    """Lives that were started once."""
    Ledger(home).close()
    for name in names:
        folder = make_place(home, name)
        write_json_atomic(folder / "world.json", World(task=TaskSection(name=task)).model_dump())
        Ledger(folder).close()
    return home


def adapter(home: Path, life: str, name: str) -> None:
    folder = place(home, life) / "adapters" / name
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text("{}")


def test_who_is_meant(tmp_path: Path) -> None:
    assert chosen(tmp_path) == "oliveira" and lives(tmp_path) == [], "a home before its first start"
    lived(tmp_path, "consumo")
    assert chosen(tmp_path) == "consumo" == chosen(tmp_path, "consumo"), "the only one"
    lived(tmp_path, "avaliacoes")
    with pytest.raises(UserError, match=r"several lives: avaliacoes, consumo. Name one with --life"):
        chosen(tmp_path)
    with pytest.raises(UserError, match=r"--life outra is not in .* Its lives: avaliacoes, consumo"):
        chosen(tmp_path, "outra")
    with pytest.raises(UserError, match="--life oliveira is not in"):
        chosen(tmp_path, "oliveira")
    lived(tmp_path, "oliveira")
    assert chosen(tmp_path) == "oliveira" and lives(tmp_path) == ["oliveira", "avaliacoes", "consumo"]
    folder = place(tmp_path, "consumo")
    assert (home_of(folder), name_of(folder)) == (tmp_path, "consumo")
    assert (home_of(tmp_path), name_of(tmp_path)) == (tmp_path, "oliveira")
    (tmp_path / "cache" / "x").touch()
    assert (folder / "cache" / "x").exists(), "what one has fetched, no other fetches again"


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "-a", "a" * 33, "a_b", "ação"])
def test_a_name_is_a_folder_and_a_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a name"):
        check_life(tmp_path, name)


@pytest.mark.parametrize("name", ["champion", "previous", "0123456789ab"])
def test_a_name_that_means_another_model_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="means a model of another life"):
        check_life(tmp_path, name)


def test_lives_and_adapters_share_their_names(tmp_path: Path) -> None:
    lived(tmp_path, "oliveira", "consumo")
    adapter(tmp_path, "oliveira", "ana")
    with pytest.raises(UserError, match="--life ana is taken by an adapter of the life oliveira"):
        check_life(tmp_path, "ana")
    for folder in (tmp_path, place(tmp_path, "consumo")):
        with pytest.raises(UserError, match="'consumo' is a life's"):
            check_name(folder, "consumo")
    with pytest.raises(UserError, match="taken by an adapter of the life oliveira"):
        check_name(place(tmp_path, "consumo"), "ana", replace=True)
    check_name(tmp_path, "ana", replace=True)


def test_the_life_for_which_flags_are(tmp_path: Path) -> None:
    assert life_to_start(tmp_path, "consumo", ["serve.memory"], meant=True) == "consumo", "the first of a home"
    lived(tmp_path, "consumo", "avaliacoes")
    with Ledger(tmp_path) as ledger:
        ledger.set_setting("main", "consumo")
    assert main_life(tmp_path) == "consumo" == life_to_start(tmp_path, "", [], meant=False)
    with pytest.raises(UserError, match="several lives"):
        life_to_start(tmp_path, "", ["train.steps"], meant=True)
    assert life_to_start(tmp_path, "avaliacoes", ["train.steps"], meant=True) == "avaliacoes"
    with pytest.raises(UserError, match=r"serve.memory is of the whole home: set it with --life consumo"):
        life_to_start(tmp_path, "avaliacoes", ["serve.memory"], meant=True)


def trained(folder: Path, task: str) -> None:
    with Ledger(folder) as ledger:
        ledger.begin_stage("k", "train", {}, {}, "test")
    world = World(task=TaskSection(name=task)).model_dump()
    write_json_atomic(folder / "remembered.json", {"name": "default", "file": None, "world": world, "explicit": []})


@pytest.mark.parametrize(
    ("mine", "asked"),
    [
        ("", Asked(task=FORECAST, environment={})),
        (FORECAST, Asked(overrides={"task.name": '"classify/digits"'}, environment={})),
        (FORECAST, Asked(overrides={"task.name": '""'}, environment={})),
        (FORECAST, Asked(overrides={"task.name": f'"{FORECAST}&horizon=3"'}, environment={})),
        ("", Asked(environment={"OLIVEIRA_TASK__NAME": '"classify/digits"'})),
    ],
)
def test_a_life_keeps_its_task(tmp_path: Path, mine: str, asked: Asked) -> None:
    trained(tmp_path, mine)
    with pytest.raises(UserError, match=r"lives with another task .* --life NAME adds a life beside it"):
        choose(tmp_path, asked, lambda question: True)


def test_its_file_may_move(tmp_path: Path) -> None:
    trained(tmp_path, FORECAST)
    moved = FORECAST.replace("/data/", "/elsewhere/")
    found = choose(tmp_path, Asked(overrides={"task.name": f'"{moved}"'}, environment={}))
    assert found.world.task.name == moved


def test_interrupted_before_it_had_learnt_anything_it_goes_on_as_it_was_named(tmp_path: Path) -> None:
    lived(tmp_path, "consumo", task=FORECAST)
    folder = place(tmp_path, "consumo")
    assert choose(folder, Asked(environment={})).world.task.name == FORECAST
    other = choose(folder, Asked(task="classify/digits", environment={}))
    assert other.world.task.name == "classify/digits", "a slip of the first start can be mended"


def test_a_life_that_cannot_go_on_is_told_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lived(tmp_path, "oliveira", "consumo", "nova")
    trained(place(tmp_path, "consumo"), FORECAST)  # whose file is not there
    found = worlds_of_others(tmp_path, "nova")
    assert list(found) == ["oliveira"]
    assert "life consumo: " in capsys.readouterr().err


def test_one_life_learns_at_a_time_and_who_waits_says_for_whom(tmp_path: Path) -> None:
    lived(tmp_path, "oliveira", "consumo")
    code = (
        "import sys, pathlib\nfrom oliveira.ledger.lives import work\n"
        "from oliveira.process.holder import holder\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with holder(folder, 'loop'), work(folder, print): print('at it', flush=True); sys.stdin.read()"
    )
    folder = place(tmp_path, "consumo")
    seen: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline() == b"at it\n"
        stage = Stage("collect", 1, (), lambda world: {}, lambda context: {"seen": seen[0]})
        with Ledger(tmp_path) as ledger, holder(tmp_path, "up"), holder(tmp_path, "loop"):

            def look() -> bool:
                if waits := ledger.setting("waits"):
                    seen.append(waits)
                    seen.append(lives_overview(tmp_path)["oliveira"]["state"])
                    if not other.stdin.closed:
                        other.stdin.close()
                return False

            Pipeline([stage], tmp_path, World(), ledger, Reporter(quiet=True), look).run()
            assert ledger.setting("waits") is None
    assert seen[:2] == ["consumo", "waits for the life consumo, which learns"]
    with work(folder, print):
        pass


def test_what_a_key_asked_is_forgotten_in_every_life(tmp_path: Path) -> None:
    lived(tmp_path, "oliveira", "consumo")
    with Ledger(tmp_path) as ledger:
        key = ledger.add_key("ana", ("use",)).split("-")[2]
        for name in lives(tmp_path):
            with Ledger(place(tmp_path, name)) as other:
                other.add_answer("p", time=1.0, digest="d", request={}, answer={}, observed={}, key=key)
        assert forget(ledger, "ana")["answers"] == 2
        with holder(place(tmp_path, "consumo"), "update"), pytest.raises(UserError, match="a retraining reads"):
            forget(ledger, "ana")


def test_keys_are_the_homes_also_from_a_lifes_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lived(tmp_path, "oliveira", "consumo")
    keys.create("ana", home=place(tmp_path, "consumo"))
    with Ledger(tmp_path) as ledger, Ledger(place(tmp_path, "consumo")) as other:
        assert ledger.verify_key(capsys.readouterr().out.strip()) and not other.keys()


def test_a_backup_holds_every_life(tmp_path: Path) -> None:
    home = lived(tmp_path / "home", "oliveira", "consumo")
    (place(home, "consumo") / "traffic").mkdir()
    (place(home, "consumo") / "traffic" / "x").write_text("private")
    with Ledger(place(home, "consumo")) as ledger:
        ledger.event("note", {})
        ledger.wish("rollback", {}, "test")
    quiet = Reporter(quiet=True)
    with Ledger(home) as ledger:
        back_up(ledger, tmp_path / "home.zip", quiet, with_traffic=False)
    restore(tmp_path / "home.zip", tmp_path / "new", quiet)
    assert lives(tmp_path / "new") == ["oliveira", "consumo"]
    with Ledger(place(tmp_path / "new", "consumo")) as ledger:
        assert ledger.last_event("note") is not None and ledger.pending_wishes() == []
    assert not (place(tmp_path / "new", "consumo") / "traffic").exists()


# Behind one front -----------------------------------------------------------------------------------------------------


@pytest.fixture
def front(tmp_path: Path) -> Any:
    """Two tasks and a text, each with an engine of a few lines."""
    lived(tmp_path, "oliveira", "consumo", "avaliacoes")
    served = Served.open(tmp_path)
    for number, life in enumerate(served.lives.values()):
        engine = Engine(TASK | {"task": life.name} if life.name != "oliveira" else None)
        engine.digest = str(number) * 64
        life.fleet.current = engine  # type: ignore[assignment]
        life.ledger.add_artifact(engine.digest, "base", life.home / "artifacts" / "x", {}, {})
        life.ledger.promote(engine.digest, actor="test", numbers={})
    adapter(tmp_path, "oliveira", "ana")
    yield served
    for life in served.lives.values():
        life._thread.shutdown(wait=True)
        life._writer.close()
        life.ledger.close()
    served.ledger.close()


def client(front: Served) -> TestClient:
    key = front.ledger.add_key("root", ("use", "admin"))
    return TestClient(make_app(front), headers={"Authorization": f"Bearer {key}"})


def test_a_model_is_a_life_an_adapter_or_a_digest(front: Served) -> None:
    owners = {
        "oliveira": "oliveira",
        "consumo": "consumo",
        "ana": "oliveira",
        "2" * 12: "consumo",
        "1" * 64: "avaliacoes",
    }
    assert {model: front.of(model).name for model in owners} == owners
    asks = client(front)
    found = asks.post("/v1/predict", json={"level": 1, "model": "gpt-9"})
    assert found.status_code == 404 and "Use oliveira or avaliacoes or consumo" in found.json()["error"]["message"]
    assert asks.post("/v1/predict", json={"level": 1}).json()["error"]["code"] == "no_task", "oliveira is a text"
    assert (
        asks.post("/v1/completions", json={"model": "consumo", "prompt": "a"}).json()["error"]["code"]
        == "no_text_model"
    )
    assert {row["id"] for row in asks.get("/v1/models").json()["data"]} >= {"oliveira", "avaliacoes", "consumo"}
    assert asks.get("/v1/task?model=consumo").json()["task"] == "consumo"


def test_answers_truths_and_numbers_are_each_lifes_own(front: Served) -> None:
    asks = client(front)
    number = asks.post("/v1/predict", json={"level": 3, "model": "consumo"}).json()["id"]
    assert asks.post("/v1/feedback", json={"id": number, "truth": 7}).json()["error"] == 1
    assert [len(life.ledger.answers()) for life in front.lives.values()] == [0, 0, 1]
    text = asks.get("/metrics").text
    assert 'oliveira:request_success_total{finished_reason="stop",model="consumo"} 1.0' in text
    assert 'oliveira:request_success_total{finished_reason="stop",model="avaliacoes"} 0.0' in text
    assert text.count("# TYPE oliveira:request_success_total ") == 1 and "oliveira:queue_capacity 256.0" in text
    state = asks.get("/ready").json()
    assert state["model"] == "oliveira" and {name: row["digest"] for name, row in state["models"].items()} == {
        "oliveira": "0" * 64, "avaliacoes": "1" * 64, "consumo": "2" * 64,
    }  # fmt: skip


def test_an_operator_acts_on_the_life_that_is_named(front: Served) -> None:
    asks = client(front)
    assert asks.post("/admin/rollback?model=consumo").status_code == 202
    assert asks.post("/admin/swap?model=consumo", json={"digest": "1" * 64}).status_code == 404, "another life's"
    assert asks.post("/admin/pause?model=nobody").status_code == 404
    waiting = {name: [w.kind for w in life.ledger.pending_wishes()] for name, life in front.lives.items()}
    assert waiting == {"oliveira": [], "avaliacoes": [], "consumo": ["rollback"]}
    assert asks.get("/admin/state?model=consumo").json()["wishes"][0]["kind"] == "rollback"
    assert asks.get("/admin/state").json()["wishes"] == []
    labels = {"alertname": "OliveiraDrift", "action": "retrain", "model": "avaliacoes"}
    asks.post("/admin/alerts", json={"alerts": [{"labels": labels, "status": "firing"}]})
    assert [w.kind for w in front.lives["avaliacoes"].ledger.pending_wishes()] == ["retrain"]


def test_the_only_life_is_meant_whatever_it_is_called(tmp_path: Path) -> None:
    lived(tmp_path, "consumo")
    served = Served.open(tmp_path)
    served.main.fleet.current = Engine(TASK)  # type: ignore[assignment]
    asks = client(served)
    for named in ({}, {"model": "oliveira"}, {"model": "consumo"}, {"model": "d" * 12}):
        assert asks.post("/v1/predict", json={"level": 3, **named}).status_code == 200, named
    assert json.loads(asks.get("/v1/task").content)["task"] == TASK["task"]
    assert asks.post("/v1/predict", json={"level": 3, "model": "gpt-9"}).status_code == 404
