"""50 × `kill -9` over the loop: no finished stage is lost or run twice, the champion is always a whole model.

Half of the moments are random. The others are random within a stage that is waited for, or a busy machine would spend
all of them in one stage.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import life_helpers as life
import pytest

from oliveira import artifact
from oliveira.ledger import Ledger
from oliveira.process.holder import is_held

pytestmark = pytest.mark.slow
KILLS, TRAIN_HITS = 50, 5


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


def running(home: Path, since: float = 0.0) -> str | None:
    """The stage that a program is at, or was when it was killed: nobody has had the time to say that it failed."""
    if not (home / "ledger.sqlite").exists():
        return None
    with Ledger(home) as ledger:
        at = (row for row in ledger.life() if row.state == "running" and (row.started or 0.0) >= since)
        return next((row.name for row in at), None)


def ready(home: Path, since: float) -> bool:
    """All stages have been done since then: none will run any more."""
    if not (home / "ledger.sqlite").exists():
        return False
    with Ledger(home) as ledger:
        return float(ledger.setting("life", {}).get("ready", 0.0)) >= since


def enough(hits: Counter[str]) -> bool:
    """Kills have told something: many met a stage, and not one stage only."""
    return hits.total() >= KILLS // 4 and hits["train"] >= TRAIN_HITS and len(hits) >= 3


def wait_for_wanted(home: Path, since: float, hits: Counter[str]) -> None:
    """Until the program is where kills are wanted: in `train` until that was hit five times, then in whatever was hit
    less. It takes seconds to come so far, many on a busy machine."""
    deadline = time.monotonic() + (3 if enough(hits) else 60)
    while time.monotonic() < deadline and not ready(home, since):
        at = running(home, since)
        if at == "train" if hits["train"] < TRAIN_HITS else at is not None and hits[at] < hits["train"]:
            return
        time.sleep(0.02)


def finished(home: Path) -> dict[str, tuple[str, float]]:
    if not (home / "ledger.sqlite").exists():
        return {}
    with Ledger(home) as ledger:
        assert ledger.check()
        champion = ledger.alias("champion")
        if champion is not None:
            row = ledger.artifact(champion)
            assert row is not None, "the champion points at nothing"
            artifact.open_artifact(row.path, champion)
        return {row.key: (row.digest or "", row.finished or 0.0) for row in ledger.stages() if row.state == "done"}


def test_kills_anywhere(tmp_path: Path) -> None:
    home, text = tmp_path / "home-0", life.new_domain(tmp_path / "text")
    budget = {"train.steps": 600, "train.checkpoint_every": 10, "train.warmup_steps": 5}
    chance, hits = random.Random(0), Counter[str]()
    done: dict[str, tuple[str, float]] = {}
    for number in range(KILLS):
        if done and ready(home, 0.0) and hits.total() < KILLS // 2:
            # A life all of whose stages are done has none left to be killed in: begin another.
            home, done = tmp_path / f"home-{number}", {}
        arguments = life.up(home, text, "--quiet", **budget)
        started = time.time()
        process = subprocess.Popen(
            arguments,
            env=life.ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if number % 2:
            wait_for_wanted(home, started, hits)
            time.sleep(chance.uniform(0.0, 0.3))
        else:
            time.sleep(chance.uniform(0.3, 5.0))
        # Every third time only one child, so that the house has to raise it again; otherwise all of them at once.
        victims = children(process.pid)
        if number % 3 == 0 and victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
            time.sleep(chance.uniform(0.2, 1.5))
            victims = children(process.pid)
        for victim in (process.pid, *victims):
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert process.stderr is not None
        process.stderr.close()
        process.wait()
        hits.update(filter(None, [running(home, started)]))
        now = finished(home)
        for key, value in done.items():
            assert now.get(key) == value, f"kill {number}: a finished stage was lost or run again"
        done = now
    print(hits)
    assert enough(hits), f"kills hit too little: {hits}"
    last = life.run(life.up(home, text, "--quiet", "--once", **budget))
    assert last.returncode == 0, last.stdout[-2000:] + last.stderr[-2000:]
    now = finished(home)
    assert all(now[key] == value for key, value in done.items())
    assert not is_held(home, "loop") and not is_held(home, "up")


def test_ctrl_c_drains_and_the_next_start_goes_on(tmp_path: Path) -> None:
    home, text = tmp_path / "home", life.new_domain(tmp_path / "text")
    arguments = life.up(home, text, **{"train.steps": 3000, "train.checkpoint_every": 10})
    process = subprocess.Popen(
        arguments, env=life.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 90
    while not any(home.glob("runs/train-*/checkpoint.safetensors")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped at step" in err and "start again to go on" in err and "Traceback" not in err + out
    with Ledger(home) as ledger:
        states = {row.name: row.state for row in ledger.stages()}
    assert states == {"collect": "done", "preprocess": "done", "train": "failed"}
    assert not is_held(home, "up") and not is_held(home, "loop")
