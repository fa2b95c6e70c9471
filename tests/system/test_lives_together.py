"""Two lives behind one front: one key, each with its own engine, swap and rollback, and what happens to one leaves the
other alone. And `oliveira up` with two lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import life_helpers as life
import pytest
from serving_helpers import Home, Server, wait_for
from test_task_lives import series

from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.ledger.lives import place
from oliveira.world import TaskSection, load_world

pytestmark = pytest.mark.slow


class Load(threading.Thread):
    """Asks one life without a pause. `failed` must stay empty."""

    def __init__(self, server: Server, model: str) -> None:
        super().__init__(daemon=True)
        self.server, self.model = server, model
        self.stop, self.failed, self.digests = threading.Event(), [], []
        self.start()

    def run(self) -> None:
        with self.server.http() as http:
            while not self.stop.is_set():
                found = ask(http, self.model)
                if found.status_code != 200:
                    self.failed.append(found.text)
                self.digests.append(found.headers.get("x-oliveira-model"))

    def __enter__(self) -> Load:
        wait_for(lambda: self.digests)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join(60)
        assert not self.failed and not self.is_alive(), self.failed[:3]


def ask(http: httpx.Client, model: str) -> httpx.Response:
    return http.post("/v1/completions", json={"model": model, "prompt": "O menino", "max_tokens": 4})


def of(server: Server, name: str) -> dict[str, Any]:
    return server.state()["models"][name]


def engine_of(server: Server, home: Home) -> int:
    """The process that serves this life."""
    for pid in server.engines():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if str(home.path).encode() == command[command.index(b"--home") + 1]:
            return pid
    raise AssertionError("no engine")


def test_what_happens_to_one_life_leaves_the_other_alone(tmp_path: Path, tokenizer_file: Path) -> None:
    own = Home(tmp_path / "home", tokenizer_file, idle=4.0)
    outra = Home(place(own.path, "outra"), tokenizer_file)
    own.promote(own.make(0))
    first, second = outra.make(1), outra.make(2)
    outra.promote(first)
    with Server(own) as server, server.http() as http:
        assert {row["id"] for row in http.get("/v1/models").json()["data"]} >= {"oliveira", "outra"}
        # The one that came first may sleep already when the other comes.
        wait_for(lambda: all(life["digest"] or life["asleep"] for life in server.state()["models"].values()))
        assert ask(http, "nenhuma").status_code == 404
        with Load(server, "oliveira") as mine, Load(server, "outra") as theirs:
            done = life.run([*life.command(own.path, "swap"), second.digest[:12], "--life", "outra"])
            assert done.returncode == 0, done.stderr
            wait_for(lambda: second.digest[:12] in theirs.digests)
            done = life.run([*life.command(own.path, "rollback"), "--life", "outra"])
            assert done.returncode == 0, done.stderr
            wait_for(lambda: theirs.digests[-1] == first.digest[:12])
            assert len(set(mine.digests)) == 1
        with Load(server, "oliveira"):
            os.kill(engine_of(server, outra), signal.SIGKILL)
            wait_for(lambda: ask(http, "outra").status_code == 200)
            wait_for(lambda: of(server, "outra")["asleep"])  # nobody asks it any more
            assert of(server, "oliveira")["digest"], "who is asked does not sleep"
            wait_for(lambda: len(server.engines()) == 1)  # its process takes a moment to end
            assert ask(http, "outra").status_code == 200, "the request waits for its engine"
        kinds = [event["kind"] for event in outra.ledger.events() if event["kind"] != "swap"]
        assert kinds == ["engine_died"] * kinds.count("engine_died") + ["engine_restarted"]
        assert [event["kind"] for event in own.ledger.events()] == ["swap"]


def test_two_lives_start_with_one_command(tmp_path: Path) -> None:
    """One that was interrupted before it had learnt anything, and a new one."""
    home = tmp_path / "home"
    series(tmp_path)
    task = {"name": f"forecast/path:{tmp_path}/consumo.csv?target=kwh", "model": "mlp", "budget": "steps=20"}
    small = load_world("default", {"monitor.check_windows": "10", "monitor.requests": "20"}, environment={})
    unfinished = small.model_copy(update={"task": TaskSection(**task)})
    place(home, "consumo").mkdir(parents=True)
    write_json_atomic(place(home, "consumo") / "world.json", unfinished.model_dump())
    flags = ["--task", "classify/digits", "--model", "mlp", "--set", 'task.budget="steps=20"', "--life", "digitos"]
    flags += ["--set", "monitor.check_windows=10", "--set", "monitor.requests=20", "--port", "0", "--quiet"]
    with subprocess.Popen(
        [*life.command(home, "up"), *flags], env=life.ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address, _, key = process.stdout.readline().split()[1].partition("/console/?key=")
            assert "ready" in process.stdout.readline()
            status = life.as_json(home, "status", "--life", "consumo")
            assert {name: row["state"] for name, row in status["lives"].items()} == {
                "consumo": "served", "digitos": "served",
            }  # fmt: skip
            with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
                for name in status["lives"]:
                    example = http.get(f"/v1/task?model={name}").json()["example"]
                    found = http.post("/v1/predict", json={**example, "model": name})
                    assert found.status_code == 200, found.text
                    assert found.headers["x-oliveira-model"] == status["lives"][name]["champion"][:12]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0
    spans = []
    for name in ("consumo", "digitos"):
        with Ledger(place(home, name)) as ledger:
            spans += [(row.started, row.finished or 0.0) for row in ledger.stages() if row.name == "train"]
    (_, ended), (began, _) = sorted(spans)
    assert ended <= began, "one life of a home learns at a time"
    refused = life.run([*life.command(home, "rollback")])
    assert refused.returncode == 2 and "several lives: consumo, digitos" in refused.stderr
    assert json.loads((place(home, "digitos") / "remembered.json").read_text())["world"]["task"]["name"]
