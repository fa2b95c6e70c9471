"""One life for every kind of task: train → export → package → serve over HTTP with a key → drift → retrain → gate →
swap under load → rollback, by the same command; a `kill -9` at any moment costs nothing that was finished."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import life_helpers as life
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def series(folder: Path) -> list[str]:
    """Two months of hours."""
    hours, rng = np.arange(1500), np.random.default_rng(0)
    values = 10 + 3 * np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.3, len(hours))
    times = np.datetime64("2024-01-01T00", "h") + hours
    rows = [f"{time};{value:.3f}".replace(".", ",") for time, value in zip(times, values, strict=True)]
    (folder / "consumo.csv").write_text("hora;kwh\n" + "\n".join(rows), encoding="utf-8")
    own = ["--task", "forecast", "--data", str(folder / "consumo.csv"), "--target", "kwh", "--model", "mlp"]
    return [*own, "--set", 'task.budget="steps=60"', "--set", "task.values.d_model=16"]


def reviews(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    words = {"boa": "gostei ótimo bonito rápido feliz recomendo", "ruim": "quebrou lento péssimo triste caro devolvi"}
    common = ["o", "produto", "chegou", "ontem", "na", "casa", "e", "a", "loja", "respondeu", "depois", "semana"]
    rows = []
    for number in range(600):
        label = ("boa", "ruim")[number % 2]
        text = [*rng.choice(words[label].split(), 3), *rng.choice(common, 8)]
        rng.shuffle(text)
        rows.append(f'"{" ".join(text)} {number}",{label}')
    (folder / "avaliacoes.csv").write_text("texto,nota\n" + "\n".join(rows), encoding="utf-8")
    own = ["--task", "classify", "--data", str(folder / "avaliacoes.csv"), "--model", "mlp"]
    return [*own, "--set", 'task.budget="steps=60"', "--set", "task.values.d_model=16"]


def digits(folder: Path) -> list[str]:
    return ["--task", "classify/digits", "--model", "mlp", "--set", 'task.budget="steps=150"']


def pictures(folder: Path) -> list[str]:
    """Bright rows and bright columns, a folder a class."""
    for number in range(300):
        place = folder / "fotos" / ("linhas", "colunas")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        bright = np.indices((12, 12))[number % 2] % 4 == 0
        grey = np.random.default_rng(number).integers(0, 60, (12, 12)) + 180 * bright
        Image.fromarray(grey.astype(np.uint8)).save(place / f"{number}.png")
    own = ["--task", "classify", "--data", str(folder / "fotos"), "--model", "mlp"]
    return [*own, "--set", 'task.budget="steps=60"', "--set", "task.values.d_model=16"]


def pairs(folder: Path) -> list[str]:
    """A language of twelve words into another."""
    words = dict(
        zip(
            ["um", "dois", "três", "sol", "lua", "mar", "rio", "pão", "sal", "luz", "cor", "voz"],
            "ABCDEFGHIJKL",
            strict=True,
        )
    )
    rng, rows = np.random.default_rng(0), set()
    while len(rows) < 500:
        rows.add(" ".join(rng.choice(list(words), 4)))
    lines = [f"{row}\t{' '.join(words[word] for word in row.split())}" for row in sorted(rows)]
    (folder / "pares.tsv").write_text("pt\tcodigo\n" + "\n".join(lines), encoding="utf-8")
    sizes = {"d_model": 32, "n_layers": 1, "n_heads": 2, "d_ff": 64, "lr": 0.005}
    own = ["--task", "translate", "--data", str(folder / "pares.tsv"), "--set", 'task.budget="steps=150"']
    return [*own, *(item for key, value in sizes.items() for item in ("--set", f"task.values.{key}={value}"))]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "series": series,
    "reviews": reviews,
    "digits": digits,
    "pictures": pictures,
    "pairs": pairs,
}
QUICK = {
    "update.steps": 120,
    "gate.max_forgetting": 0.6,
    "gate.max_latency": 4.0,
    "adapt.replay": 0.3,
    "monitor.check_windows": 20,
    "monitor.requests": 25,
    "monitor.alpha": 0.01,
}


def up(home: Path, *arguments: str) -> list[str]:
    settings = [item for key, value in QUICK.items() for item in ("--set", f"{key}={value}")]
    return [*life.command(home, "up"), "--port", "0", *settings, *arguments]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_lives_the_whole_life(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = life.run([*up(home, *KINDS[kind](tmp_path)), "--once", "--json", str(tmp_path / "life.json")])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "life.json").read_text())
    assert list(found["stages"]) == ["collect", "train", "export", "package", "serve", "monitor"]
    assert found["drift"]["detected"] and found["drift"]["truths"] >= 50
    assert found["gate"]["decision"] == "promoted", found["gate"]
    assert all(scores["after"] is not None for scores in found["scores"].values()) and len(found["scores"]) == 2
    assert found["swap"]["failed"] == 0 and found["swap"]["requests"] >= 200 and found["failed_requests"] == 0
    assert found["rollback"]["digest_restored"]
    status = life.as_json(home, "status")
    assert status["stages"]["train"]["state"] == "done"
    # A start without flags goes on with the same task, and everything is found again.
    again = life.run([*life.command(home, "up"), "--port", "0", "--print-world"])
    assert json.loads(again.stdout)["task"]["name"], again.stderr


def test_killed_at_three_moments_it_goes_on(tmp_path: Path) -> None:
    home, flags = tmp_path / "home", series(tmp_path)
    rng = random.Random(0)
    for _ in range(3):
        with subprocess.Popen(
            up(home, *flags), env=life.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            time.sleep(rng.uniform(2, 10))
            os.killpg(process.pid, signal.SIGKILL)
    done = life.run([*up(home, *flags), "--once", "--json", str(tmp_path / "life.json")])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "life.json").read_text())["rollback"]["digest_restored"]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--task", "forecast"], "forecast/power"),
        (["--task", "forecast", "--data", "none.csv"], "none.csv"),
        (["--data", "none.csv"], "--task"),
        (["--model", "gru"], "--task"),
        (["--task", "classify/digits", "--model", "gru"], "Models that do"),
        (["--task", "classify/digits", "--target", "x"], "--target"),
        (["--task", "classify/digits", "--set", "task.values.d_modl=3"], "d_model"),
        (["--task", "classify/digits", "--set", 'task.budget="often"'], "--budget"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(flags: list[str], word: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = life.run([sys.executable, "-m", "oliveira", "up", "--home", str(home), "--port", "0", *flags])
    assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (home / "ledger.sqlite").exists()
