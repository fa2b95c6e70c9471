"""A life that begins with trained weights, whole: brought in, adapted, served, drift, retraining, swap, rollback."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import life_helpers as life
import pytest

from tests.tiny_base import write_base

pytestmark = pytest.mark.slow

QUICK: dict[str, object] = {
    "data.base": "bncc-computacao",
    "base.general": "bncc-computacao",
    "model.max_len": 64,
    "train.evaluate_tokens": 1000,
    "train.warmup_steps": 5,
    "adapt.steps": 40,
    "adapt.batch_size": 8,
    "adapt.lr": 0.02,
    "adapt.rank": 4,
    "monitor.window": 300,
    "monitor.check_windows": 20,
    "monitor.alpha": 0.01,
    "monitor.poll_seconds": 0.2,
    "update.steps": 12,
    "update.min_new_chars": 2000,
}


def test_a_base_lives_the_whole_life(tmp_path: Path) -> None:
    home, text = tmp_path / "home", life.new_domain(tmp_path / "text")
    base = write_base(tmp_path / "tiny.gguf", "\n".join(text for _, text in sorted(topics.items())[:20]))
    flags = life.settings(text, **QUICK)
    command = [*life.command(home, "up"), "--base", str(base), "--port", "0", *flags]
    done = life.run([*command, "--once", "--json", str(tmp_path / "life.json")])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "life.json").read_text())
    stages = found["stages"]
    assert list(stages)[:3] == ["collect", "bring_in", "preprocess"] and "train" not in stages
    assert stages["adapt"]["served"] == "adapted", stages["adapt"]
    assert found["drift"]["detected"] and found["gate"]["decision"] == "promoted", found["gate"]
    assert found["val_bits_per_byte"]["new"]["after"] < found["val_bits_per_byte"]["new"]["before"]
    assert found["swap"]["failed"] == 0 and found["failed_requests"] == 0 and found["rollback"]["digest_restored"]
    told = life.as_json(home, "status")["stages"]
    assert told["bring_in"]["licence"] == "cc0-1.0" and len(json.loads(told["adapt"]["answers"])) == 3
    other = write_base(tmp_path / "other.gguf", "a b c " * 2000, seed=1)
    refused = life.run([*life.command(home, "up"), "--port", "0", "--base", str(other)])
    assert refused.returncode == 2 and "lives with another base" in refused.stderr
