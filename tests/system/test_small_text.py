"""A real life of 30 kB of one's own text, on a terminal that cannot print an arrow; then the home goes on with it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from pydoc_data.topics import topics

import life_helpers as life
import pytest

from oliveira.ledger import Ledger

pytestmark = pytest.mark.slow

SMALL = {"export.onnx": "false", "train.steps": 12, "adapt.steps": 2, "monitor.check_windows": 10}


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*life.command(home, "up"), "--port", "0", *arguments],
        env={**life.ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="ascii",
    )  # fmt: skip


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    """What was said until the model is served; then the program is asked to stop."""
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ready"):
            break
    process.terminate()
    process.stdout.read()
    said = process.stderr.read()
    assert process.wait(60) == 0, "".join(lines) + said
    process.stdout.close()
    process.stderr.close()
    return lines


def test_30_kB_are_enough(tmp_path: Path) -> None:
    text, home = tmp_path / "text", tmp_path / "home"
    text.mkdir()
    (text / "all.txt").write_text("\n\n".join(topic for _, topic in sorted(topics.items()))[:30_000], encoding="utf-8")
    sets = [item for key, value in SMALL.items() for item in ("--set", f"{key}={value}")]
    first = until_ready(start(home, "--world", "tiny", "--text", str(text), *sets))
    [planned] = [line for line in first if line.startswith("planned")]
    assert "monitor.window 1000 -> " in planned
    assert any(line.startswith("adapt") and "->" in line for line in first), "the loop speaks plainly too"
    again = until_ready(start(home))
    reused = [line for line in again if "reused" in line]
    assert len(reused) == 9, "without a flag the home goes on: nothing is learnt anew"
    refused = life.run([*life.command(home, "up"), "--port", "0", "--text", str(tmp_path)])
    assert refused.returncode == 2 and "--text would change data.base" in refused.stderr
    with Ledger(home) as ledger:
        assert {row.name: row.attempts for row in ledger.stages()} == dict.fromkeys(
            ("collect", "preprocess", "train", "adapt", "compress", "package", "export", "serve", "monitor"), 1
        )
        assert [key.revoked for key in ledger.keys()] == [None, None], "both printed keys are good"  # noqa: SIM118
