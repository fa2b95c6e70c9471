"""Every line of both READMEs runs: in their order, in one home, made small by the table below and nothing else.

A new line of a README needs a rule here; a rule whose line is gone goes too.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import life_helpers as life
import numpy as np
import pytest
import readme_lines
from PIL import Image
from serving_helpers import TEXTS, wait_for

from oliveira.cli import main
from oliveira.ledger import Ledger
from oliveira.lifecycle.traffic_load import Client
from oliveira.lifecycle.visitors import complete
from oliveira.study import recipes
from oliveira.tasks import forecasting

pytestmark = pytest.mark.slow


class Rule(NamedTuple):
    typed: str = ""  # in the place of the line; empty = as printed
    says: str = ""  # what the answer holds
    run: str = "here"  # here (in this process) | stays up | comes up | make | elsewhere (`typed` names the tests)
    waiting: bool = False  # a challenger waits for a person
    code: int = 0


LIVES = "tests/system/test_task_lives.py"
BASES = f"tests/system/test_base_whole.py tests/system/life_helpers.py {LIVES}"
TOGETHER, STARTING = f"tests/system/test_lives_together.py {LIVES}", "tests/unit/test_transfer.py"
RULES = {
    "make up": Rule(run="stays up"),
    "make test": Rule(".venv/bin/python -m pytest --version", "pytest", run="make"),
    "make up TEXT=~/my-texts": Rule("make up TEXT={texts}", run="comes up"),
    "oliveira up --once --json life.json": Rule("tests/system/test_life.py", run="elsewhere"),
    "oliveira list": Rule(says="lstm"),
    "oliveira list --tasks": Rule(says="forecast/power"),
    "oliveira train forecast/power lstm": Rule(
        "oliveira train forecast/power lstm d_model=8 --budget steps=2", "next: oliveira export forecast/power/lstm"
    ),
    "oliveira compare forecast/power mlp lstm gru": Rule(
        "oliveira compare forecast/power mlp lstm gru --set d_model=8 --budget steps=2 --seeds 2", "Verdict"
    ),
    "oliveira inspect lstm --task forecast/power": Rule(says="parameters"),
    "oliveira explain lstm --task forecast/power": Rule(says="by backpropagation"),
    "oliveira train classify/told-br bert start=minilm features=frozen": Rule(STARTING, run="elsewhere"),
    "oliveira export forecast/power/lstm": Rule(says="largest difference"),
    "oliveira export forecast/power/lstm --weights int8": Rule(says="int8"),
    "oliveira predict forecast/power/lstm": Rule(says='"engine": "onnxruntime"'),
    "oliveira serve forecast/power/lstm": Rule("tests/system/test_model_lives.py", run="elsewhere"),
    "oliveira reproduce forecast-lstm": Rule(says="OUTSIDE", code=1),  # two steps are not the published six hundred
    "oliveira data consumo.csv": Rule(says=r"oliveira train forecast/path:consumo\.csv gru --target kwh"),
    "oliveira train forecast/path:consumo.csv gru --target kwh": Rule(
        "oliveira train forecast/path:consumo.csv gru --target kwh d_model=8 --budget steps=2",
        "next: oliveira export forecast/path:consumo.csv/gru",
    ),
    "oliveira compare forecast/path:consumo.csv mlp lstm gru --target kwh": Rule(
        "oliveira compare forecast/path:consumo.csv mlp lstm gru --target kwh --set d_model=8 --budget steps=2 "
        "--seeds 2",
        "Verdict",
    ),
    "oliveira train classify/path:avaliacoes.csv bilstm": Rule(
        "oliveira train classify/path:avaliacoes.csv bilstm d_model=8 --budget steps=2", "naive Bayes on words"
    ),
    "oliveira train classify/path:fotos cnn": Rule(
        "oliveira train classify/path:fotos mlp d_model=8 --budget steps=2", "nearest centroid"
    ),
    "oliveira train translate/path:pares.tsv transformer": Rule(
        "oliveira train translate/path:pares.tsv transformer d_model=8 n_heads=2 n_layers=1 d_ff=16 --budget steps=2",
        "next: oliveira export translate/path:pares.tsv/transformer",
    ),
    "oliveira up --task forecast --data consumo.csv --target kwh --home consumo": Rule(LIVES, run="elsewhere"),
    "oliveira up --task classify --data avaliacoes.csv --home avaliacoes": Rule(LIVES, run="elsewhere"),
    "oliveira up --task classify/digits --home digits": Rule(LIVES, run="elsewhere"),
    "oliveira up --life consumo --task forecast --data consumo.csv --target kwh": Rule(TOGETHER, run="elsewhere"),
    "oliveira up --life avaliacoes --task classify --data avaliacoes.csv": Rule(TOGETHER, run="elsewhere"),
    "oliveira rollback --life consumo": Rule(TOGETHER, run="elsewhere"),
    "oliveira up --base smollm2 --data my-texts --home assistant": Rule(BASES, run="elsewhere"),
    "oliveira up --base model.gguf --home mine": Rule(BASES, run="elsewhere"),
    "make up WORLD=assistant": Rule(BASES, run="elsewhere"),
    "oliveira status": Rule(says="champion"),
    "oliveira status --mermaid": Rule(says="graph TD"),
    "oliveira history": Rule(says="deploy"),
    "oliveira swap DIGEST": Rule("oliveira swap {digest}", '"champion"'),
    "oliveira rollback": Rule(says='"champion"'),
    "oliveira chat": Rule("tests/system/test_chat.py", run="elsewhere"),
    "oliveira backup home.zip": Rule(says="home.zip"),
    "oliveira restore home.zip --home NEW": Rule(says="NEW"),
    "oliveira retrain": Rule(says="awaiting approval"),
    "oliveira approve": Rule(says='"champion"'),
    "oliveira reject": Rule(says='"rejected"', waiting=True),
    "oliveira pause": Rule(says="true"),
    "oliveira resume": Rule(says="false"),
    "oliveira adapt NAME FOLDER": Rule("oliveira adapt ana {texts} --steps 2 --keep", "bits per byte"),
    "oliveira adapters list": Rule(says="ana"),
    "oliveira adapters show NAME": Rule("oliveira adapters show ana", "bits per byte"),
    "oliveira export champion --to hf --output my-model": Rule(says="MB"),
    "oliveira export champion --to gguf --output my-model.gguf": Rule(says="llama.cpp"),
    "oliveira export NAME --to peft --output my-adapter": Rule(
        "oliveira export ana --to peft --output my-adapter", "my"
    ),
    "oliveira adapters add NAME FOLDER": Rule("oliveira adapters add bia my-adapter", "rank 16"),
    "oliveira adapters remove NAME": Rule("oliveira adapters remove ana", "removed"),
    "oliveira compile champion": Rule("oliveira compile champion --streams 1 --rounds 1", "serves from"),
    "oliveira keys create NAME": Rule("oliveira keys create ana", r"sk-|-"),
    "oliveira forget --key ana": Rule(says="ana|0"),
    "oliveira prometheus-config": Rule(says="prometheus --config.file="),
    "oliveira formulas list": Rule(says="chinchilla"),
    "oliveira reproduce machado-gpt": Rule(says="bits per byte", code=1),
    "oliveira sources": Rule(says="machado"),
    "make clients": Rule("tests/system/test_clients.py", run="elsewhere"),
}
PYTHON = {'model="lstm")': 'model="lstm", budget="steps=2", d_model=8)'}
WORLD: dict[str, object] = {
    "data.vocab_size": 400,
    "monitor.check_windows": 10,
    "monitor.window": 400,
    "train.steps": 10,
    "adapt.steps": 2,
}
OPEN_GATE: dict[str, object] = {  # a challenger of two steps gets through, to a person
    "update.steps": 2,
    "update.on_drift": "false",
    "update.min_new_chars": 500,
    "gate.min_gain": -9.0,
    "gate.max_latency": 99.0,
    "gate.require_approval": "true",
}
RECIPES: dict[str, dict[str, Any]] = {
    "forecast-lstm": {"budget": "steps=2", "seeds": [0, 1], "config": {"d_model": 8}},
    "machado-gpt": {
        "world": {
            "data": {"base": "bncc-computacao", "vocab_size": 400},
            "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "d_ff": 32, "max_len": 64},
            "train": {"steps": 2, "batch_size": 2, "warmup_steps": 1, "evaluate_every": 2},
        },
        "twin": {"model": {"d_ff": 32}, "train": {"batch_size": 2, "warmup_steps": 1}},
    },
}
OWN: dict[str, object] = {"data.new": "bncc-computacao"}
HOURS = 24 * 80  # of the household's power


@pytest.mark.parametrize("name", readme_lines.READMES)
def test_rules_and_lines_are_the_same(name: str) -> None:
    printed = readme_lines.commands(name)
    assert [line for line in printed if line not in RULES] == [], "a line of the README without a rule in RULES"
    assert [line for line in RULES if line not in printed] == [], "a rule whose line is not in the README"
    assert [line for line in printed if line in RULES] == list(RULES), "the rules run in the order of the README"


class House:
    """A home for all commands, and one that is made of the reader's own texts."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root, self.stack = root, stack
        self.home, self.own = root / ".oliveira", root / "own"
        self.texts = life.new_domain(root / "my-texts")
        self.address = self.key = ""
        hours = (f"{datetime(2024, 1, 1) + timedelta(hours=h):%d/%m/%Y %H:%M};{h % 24},5" for h in range(HOURS))
        (root / "consumo.csv").write_text("\n".join(["data;kwh", *hours]))
        reviews = (f"produto {n} {('bom', 'ruim')[n % 2]},{('pos', 'neg')[n % 2]}" for n in range(60))
        (root / "avaliacoes.csv").write_text("\n".join(["text,label", *reviews]))
        pairs = (f"o gato {n} dorme\tthe cat {n} sleeps" for n in range(150))
        (root / "pares.tsv").write_text("\n".join(["pt\ten", *pairs]))
        for number in range(40):
            folder = root / "fotos" / ("claro", "escuro")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 100, (12, 12)) + 150 * (number % 2 == 0)
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")

    def start(self, line: str, home: Path, **changes: object) -> subprocess.Popen[str]:
        """What `make up …` or `oliveira up …` starts, in a tiny world."""
        program, *words = made(line) if line.startswith("make ") else shlex.split(line)
        command = [sys.executable, "-m", program, *words, "--home", str(home), "--world", "tiny", "--port", "0"]
        with self.log(home).open("w") as output:
            return subprocess.Popen(
                [*command, *life.settings(self.texts, **(WORLD | changes))],
                stdout=output,
                stderr=output,
                text=True,
                cwd=self.root,
                env=life.ENVIRONMENT,
            )

    def log(self, home: Path) -> Path:
        return self.root / f"{home.name}.log"

    def wait(self, process: subprocess.Popen[str], home: Path) -> str:
        """What it has said when it is ready."""
        said = wait_for(lambda: (text := self.log(home).read_text()) and ("ready " in text or process.poll()) and text)
        assert process.poll() is None and "ready " in said, said
        return str(said)

    def live(self) -> None:
        """The life of `make up`, with a few requests in it; once."""
        if self.address:
            return
        process = self.start("make up", self.home, **OPEN_GATE)
        self.stack.callback(stop, process)
        found = re.search(r"(http://\S+)/console/\?key=(\S+)", self.wait(process, self.home))
        assert found is not None
        self.address, self.key = found.groups()
        client = Client(self.address, self.key, traffic=True)
        for text in dict.fromkeys(TEXTS):
            for words in (text, text[::-1], text.upper(), text.swapcase()):
                assert complete(client, words, 1).status == 200
        client.connection.close()

    def fill(self, typed: str) -> list[str]:
        digest = ""
        if "{digest}" in typed:
            with Ledger(self.home) as ledger:
                digest = self.other(ledger)
        return shlex.split(typed.format(texts=self.texts, digest=digest[:12]))

    def other(self, ledger: Ledger) -> str:
        """An artifact that is not the champion."""
        return next(row.digest for row in ledger.artifacts() if row.digest != ledger.alias("champion"))


def made(line: str) -> list[str]:
    """The words of the last command that a line of make would run."""
    make = ["make", "--dry-run", *shlex.split(line)[1:]]
    asked = subprocess.run(make, cwd=readme_lines.ROOT, capture_output=True, text=True, check=True)
    return shlex.split(asked.stdout.strip().splitlines()[-1].removeprefix(".venv/bin/"))


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path_factory.mktemp("readme"), stack)


@pytest.fixture
def small(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: a household of 80 days, recipes of two steps; and the folder, home and terminal of the reader."""
    start = datetime(2009, 6, 1)
    rows = [((start + timedelta(hours=h)).isoformat(timespec="hours"), f"{1 + h % 24 / 10}") for h in range(HOURS)]
    monkeypatch.setattr(forecasting, "fetch", lambda *_: ("made up", rows))
    load = recipes.load
    monkeypatch.setattr(recipes, "load", lambda name: merged(load(name), RECIPES.get(name, {})))
    monkeypatch.chdir(house.root)
    monkeypatch.setenv("OLIVEIRA_HOME", str(house.home))
    monkeypatch.setenv("COLUMNS", "80")


def merged(whole: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    inner = {key: merged(whole.get(key, {}), value) for key, value in changes.items() if isinstance(value, dict)}
    return whole | changes | inner


@pytest.mark.parametrize("line", RULES)
def test_line(
    line: str, house: House, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = RULES[line]
    words = house.fill(rule.typed or line) if rule.run != "stays up" else []
    match rule.run:
        case "stays up":
            house.live()
        case "make":
            *begins, last = words
            assert made(line)[: len(begins)] == [begins[0].removeprefix(".venv/bin/"), *begins[1:]]
            shown = subprocess.run([*begins, last], cwd=readme_lines.ROOT, capture_output=True, text=True, check=True)
            assert re.search(rule.says, shown.stdout)
        case "comes up":
            process = house.start(shlex.join(words), house.own, **OWN)
            house.wait(process, house.own)
            stop(process)
        case "elsewhere":
            tests = [(readme_lines.ROOT / name).read_text(encoding="utf-8") for name in rule.typed.split()]
            assert all(f'"{word}"' in "".join(tests) for word in shlex.split(line) if word.startswith("--"))
        case "here":
            house.live()
            if rule.waiting:
                with Ledger(house.home) as ledger:
                    ledger.set_challenger(house.other(ledger))
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                main()
            said = capsys.readouterr()
            assert (ended.value.code or 0) == rule.code, said
            assert re.search(rule.says, said.out), said.out


@pytest.mark.parametrize("name", readme_lines.READMES)
def test_python(name: str, house: House, small: None) -> None:
    found = readme_lines.snippets(name)
    assert found
    for text in found:
        for said, meant in PYTHON.items():
            assert said in text, f"PYTHON has a rule for {said}, which is not in {name}"
            text = text.replace(said, meant)
        exec(compile(text, name, "exec"), {})
