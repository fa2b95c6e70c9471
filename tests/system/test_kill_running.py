"""`kill -9` in the middle of a retraining, of the gate and of a swap under traffic: each kill hits what runs, the
champion stays a whole model, and the next start brings it to its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import life_helpers as life
import pytest
from serving_helpers import Home, Server, wait_for

from oliveira import artifact
from oliveira.files import write_json_atomic
from oliveira.ledger import RETRAINING, Ledger
from oliveira.lifecycle.traffic_load import Load
from oliveira.lifecycle.visitors import complete
from oliveira.process.holder import is_held
from oliveira.world import load_world

pytestmark = pytest.mark.slow


def start_update(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "oliveira.lifecycle.update", "--home", str(home), "--trigger", "test"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=life.ENVIRONMENT,
    )  # fmt: skip


def training(home: Path, ledger: Ledger) -> bool:
    """A checkpoint is there, and the last step is not done."""
    return any(home.glob("runs/update-*/checkpoint.safetensors")) and phase(ledger) != "gate"


def phase(ledger: Ledger) -> str:
    return str((ledger.setting(RETRAINING) or {}).get("phase"))


def test_killed_in_the_training_and_in_the_gate(updatable: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(updatable, tmp_path / "home"))
    world = load_world("tiny", life.UPDATE | {"update.steps": "150", "gate.max_forgetting": "1.0"}, environment={})
    write_json_atomic(home / "world.json", world.model_dump())
    with Ledger(home) as ledger:
        before = ledger.alias("champion")
        assert before is not None
        seen: list[Callable[[], bool]] = [lambda: training(home, ledger), lambda: phase(ledger) == "gate"]
        for running in seen:
            with start_update(home) as process:
                wait_for(lambda running=running, process=process: running() or process.poll() is not None)
                process.kill()
                assert process.wait() == -signal.SIGKILL, "it had ended: the kill hit nothing"
            [run] = [row for row in ledger.runs() if row["kind"] == "update"]
            assert run["state"] == "running", "the kill hit a finished retraining"
            assert ledger.alias("champion") == before and not is_held(home, "update")
            row = ledger.artifact(before)
            assert row is not None
            artifact.open_artifact(row.path, before)
            assert [d for d in ledger.decisions() if d.actor == "gate"] == [] and ledger.check()
        [checkpoint] = home.glob("runs/update-*/checkpoint.safetensors")
        trained = checkpoint.stat().st_mtime
        with start_update(home) as process:
            assert process.stdout is not None
            result = json.loads(process.stdout.read())  # not `communicate`: the end of its input is the parent's end
        assert result["verdict"] == "promoted", result
        assert ledger.alias("champion") == result["digest"] and ledger.alias("previous") == before
        made = ledger.artifact(result["digest"])
        assert made is not None and made.created > trained, "the gate alone was run again"
        artifact.open_artifact(made.path, made.digest).load_model()
    curve = next(home.glob("runs/update-*/curve.jsonl")).read_text().splitlines()
    steps = [json.loads(line)["step"] for line in curve if "loss" in json.loads(line)]
    assert steps == list(range(1, 151)), "each step once, over two kills"


@pytest.mark.parametrize("victim", ["the new engine", "the front"])
def test_killed_in_a_swap_under_traffic(make_home: Callable[..., Home], victim: str) -> None:
    home = make_home(keep_traffic=False)
    old, new = home.make(seed=1), home.make(seed=2)
    home.promote(old)
    server = Server(home)
    try:
        server.ready(old.digest)
        [serving] = server.engines()
        port = server.url.rpartition(":")[2]
        with Load(server.url, home.use, complete, ["No princípio"], workers=2) as load:
            wait_for(lambda: len(load.answers) >= 5)
            home.promote(new)
            [loading] = wait_for(lambda: [pid for pid in server.engines() if pid != serving])
            assert server.state()["digest"] == old.digest, "the swap was over: the kill hits nothing"
            if victim == "the front":
                down = len(load.answers)
                server.process.kill()
                server.process.wait()
                assert server.process.stdin is not None
                server.process.stdin.close()
                (home.path / "front.json").unlink()
                server = Server(home, "--port", port)  # as `oliveira up` does: at its port
            else:
                os.kill(loading, signal.SIGKILL)
                down = 0
                wait_for(lambda: [e for e in home.ledger.events() if e["kind"] == "swap_failed"])
                assert server.state()["digest"] == old.digest
                home.promote(new)  # a refused artifact is tried again when somebody asks again
            server.ready(new.digest)
            answered = len(load.answers)
            wait_for(lambda: len(load.answers) >= answered + 20)
        assert set(load.models) <= {old.digest[:12], new.digest[:12]}
        assert load.models[new.digest[:12]] > 0
        statuses = [answer.status for answer in load.answers]
        if victim == "the front":
            assert set(statuses[:down]) == {200} and set(statuses[answered + 2 :]) == {200}
            assert set(statuses) <= {200, 0, 503}, "while nobody is there: no answer, or not yet"
        else:
            assert load.failed == 0, "the old engine served on"
        assert home.ledger.check() and home.ledger.alias("champion") == new.digest
    finally:
        server.__exit__()
