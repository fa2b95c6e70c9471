"""A whole life in seconds: the tiny world, Portuguese curriculum as the known domain, English documentation as the
new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


# A life in which a retraining takes seconds and is promoted.
UPDATE = {
    "data.max_chars": "150000",
    "data.new": "bncc-computacao",
    "data.validation": "0.15",
    "data.test": "0.15",
    "monitor.window": "400",
    "export.onnx": "false",
    "train.steps": "300",
    "train.lr": "0.01",
    "train.warmup_steps": "20",
    "train.optimizer": "muon",
    "adapt.steps": "4",
    "adapt.lr": "0.01",
    "adapt.replay": "0.5",
    "update.steps": "60",
    "gate.min_gain": "0.5",  # far from both: a good challenger gains 2, one that saw "a a a a" 0.05
    "gate.max_forgetting": "0.1",
    "gate.max_latency": "4.0",
    "monitor.check_windows": "10",
}


def new_domain(folder: Path) -> Path:
    """Python's own documentation, which ships with Python: a domain that no Portuguese model knows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sorted(topics.items())[:60]:
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "oliveira", *arguments, "--home", str(home)]


def settings(text: Path, **changes: object) -> list[str]:
    """`--set` options of a life small enough for a test."""
    values: dict[str, object] = {
        "data.max_chars": 150_000,
        "data.new": f"path:{text}",
        "export.onnx": "false",
        "train.steps": 30,
        "adapt.steps": 6,
        "update.steps": 40,
        "adapt.lr": 0.01,
        "gate.max_forgetting": 0.5,
        "gate.min_gain": 0.001,
        "gate.max_latency": 3.0,
        "data.validation": 0.15,
        "data.test": 0.15,
    }
    return [item for key, value in (values | changes).items() for item in ("--set", f"{key}={value}")]


def up(home: Path, text: Path, *arguments: str, **changes: object) -> list[str]:
    return [*command(home, "up"), "--world", "tiny", "--port", "0", *settings(text, **changes), *arguments]


def run(arguments: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False)


def as_json(home: Path, *arguments: str) -> dict:
    done = run([*command(home, *arguments), "--json"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
