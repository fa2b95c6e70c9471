"""`oliveira up --once`: every arrow of the loop, twice in a row on one home; then what the commands say about it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import life_helpers as life
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict], list[float]]:
    """Home, new domain, life.json of two runs, and their seconds."""
    root = tmp_path_factory.mktemp("life")
    home, text = root / "home", life.new_domain(root / "text")
    lives, seconds = [], []
    for number in range(2):
        started = time.monotonic()
        path = root / f"life{number}.json"
        done = life.run(life.up(home, text, "--once", "--json", str(path)))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        lives.append(json.loads(path.read_text()))
        seconds.append(time.monotonic() - started)
    return home, text, lives, seconds


@pytest.mark.parametrize("turn", [0, 1])
def test_every_field_of_the_life_is_there(lived: tuple[Path, Path, list[dict], list[float]], turn: int) -> None:
    found = lived[2][turn]
    assert found["drift"]["detected"] and found["drift"]["requests"] > 0
    assert found["gate"]["decision"] == "promoted", found["gate"]
    assert found["swap"]["failed"] == 0 and found["swap"]["requests"] >= 200
    assert found["failed_requests"] == 0
    assert found["rollback"]["digest_restored"]
    for scores in found["val_bits_per_byte"].values():
        assert 0 < scores["after"] < 20 and 0 < scores["before"] < 20
    assert found["val_bits_per_byte"]["new"]["after"] < found["val_bits_per_byte"]["new"]["before"]
    assert len(found["swap"]["answered_by"]) == 2, "both models answered under the load, and nothing failed"
    assert {"collect", "preprocess", "train", "adapt", "compress", "package", "serve", "monitor"} <= found[
        "stages"
    ].keys()


def test_the_second_life_reuses_every_stage(lived: tuple[Path, Path, list[dict], list[float]]) -> None:
    first, second = lived[2]
    assert not any(stage["reused"] for stage in first["stages"].values())
    assert all(stage["reused"] for stage in second["stages"].values())
    assert {n: s["digest"] for n, s in first["stages"].items()} == {n: s["digest"] for n, s in second["stages"].items()}


def test_commands_tell_the_life(lived: tuple[Path, Path, list[dict], list[float]]) -> None:
    home = lived[0]
    status = life.as_json(home, "status")
    assert not status["running"] and status["stages"]["train"]["state"] == "done"
    history = life.as_json(home, "history")
    kinds = [row["kind"] for row in history["decisions"]]
    assert {"deploy", "promote", "swap", "rollback"} <= set(kinds)
    gate = next(row for row in history["decisions"] if row["kind"] == "promote")
    assert gate["numbers"]["gain"] > 0 and gate["numbers"]["thresholds"]["min_gain"] == 0.001
    mermaid = life.run([*life.command(home, "status"), "--mermaid"])
    assert mermaid.stdout.startswith("graph TD") and "Coleta de Dados<br/>done" in mermaid.stdout


def test_rollback_without_a_running_loop(lived: tuple[Path, Path, list[dict], list[float]]) -> None:
    """Both lives ended by rolling back: there is no way back until something else was served."""
    home = lived[0]

    def back() -> int:
        return life.run(life.command(home, "rollback")).returncode

    before = life.as_json(home, "status")["aliases"]
    assert back() == 2 and life.as_json(home, "status")["aliases"] == before
    promoted = next(row for row in life.as_json(home, "history")["decisions"] if row["verdict"] == "promoted")
    done = life.run(life.command(home, "swap", promoted["digest"][:12]))
    assert done.returncode == 0, done.stderr
    swapped = life.as_json(home, "status")["aliases"]
    assert (swapped["champion"], swapped["previous"]) == (promoted["digest"], before["champion"])
    assert back() == 0 and life.as_json(home, "status")["aliases"] == before
    assert back() == 2, "what was rolled back is not previous"


def test_a_corrupt_artifact_is_refused_by_swap(lived: tuple[Path, Path, list[dict], list[float]]) -> None:
    home = lived[0]
    victim = next(row for row in life.as_json(home, "history")["artifacts"] if row["kind"] == "adapted")
    weights = Path(victim["path"]) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    before = life.as_json(home, "status")["aliases"]
    done = life.run(life.command(home, "swap", victim["digest"][:12]))
    assert done.returncode == 2 and "model.safetensors is not the file that was written" in done.stderr
    assert life.as_json(home, "status")["aliases"] == before
    assert "Traceback" not in done.stderr
