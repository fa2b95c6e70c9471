"""`oliveira adapt`: own texts are learned, killed runs go on, the model itself stays what it was."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import Result
from serving_helpers import TEXTS, Home, Server, wait_for
from typer.testing import CliRunner

from oliveira.adaptation.lora import layers
from oliveira.adaptation.settings import AdaptSection
from oliveira.artifact import open_artifact
from oliveira.cli import app
from oliveira.errors import Interrupted, OliveiraError, UserError
from oliveira.files import sha256_file
from oliveira.lifecycle import own_adapter
from oliveira.lifecycle.overview import overview
from oliveira.lifecycle.own_adapter import make_adapter
from oliveira.serving.adapter_names import adapter_names

pytestmark = pytest.mark.slow


def texts(folder: Path) -> Path:
    """Of one kind, none a part of another: the same words in ever new order."""
    folder.mkdir()
    words = " ".join(TEXTS).split()
    for number in range(6):
        text = " ".join(random.Random(number).choices(words, k=300))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def oliveira(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oliveira", *words, "--home", str(home.path), "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def typed(home: Home, *words: str) -> Result:
    """The same in this process."""
    return CliRunner().invoke(app, [*words, "--home", str(home.path)], env={"COLUMNS": "80"})


@pytest.mark.parametrize("weights", ["fp32", "nf4", "int8"])
def test_own_texts_are_learned_and_served_by_name(make_home: Callable[..., Home], tmp_path: Path, weights: str) -> None:
    home, folder = make_home(), texts(tmp_path / "texts")
    made = home.make(weights=weights)
    home.promote(made)
    before = sha256_file(made.path / "model.safetensors")
    found = oliveira(home, "adapt", "ana", str(folder), "--steps", "40", "--lr", "0.01", "--json")
    assert found.returncode == 0, found.stderr
    bits = json.loads(found.stdout)["bits_per_byte"]
    assert bits["after"] < 0.7 * bits["before"], bits
    assert sha256_file(made.path / "model.safetensors") == before
    with Server(home) as server:
        server.ready()
        client = server.openai()

        def ask(name: str) -> str:
            found = client.completions.create(model=name, prompt=TEXTS[0][:20], max_tokens=20, temperature=0)
            return found.choices[0].text

        answers = {name: ask(name) for name in ("ana", "oliveira")}
        assert answers["ana"] != answers["oliveira"]
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="rui", prompt="a", max_tokens=1)


def test_what_will_not_do_is_one_sentence(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home = make_home()
    home.promote(home.make())
    single = tmp_path / "single"
    single.mkdir()
    (single / "a.txt").write_text("curto")
    learned, same = str(texts(tmp_path / "texts")), tmp_path / "same"
    same.mkdir()
    for name in ("a.txt", "b.txt"):  # 3.06 → 1.32 bits per byte was told of a text that had been learned
        (same / name).write_text(" ".join(TEXTS))
    for words, reason in (
        (("adapt", "oliveira", learned), "means the served model"),
        (("adapt", "ana", learned, "--rank", "17"), "adapt.rank = 17 is above 16"),
        (("adapt", "ana", learned, "--max-len", "257"), "--max-len 257"),
        (("adapt", "ana", str(same)), "1 text beside 1 that repeat"),
        (("adapt", "../ana", learned), "name"),
        (("adapt", "ana", str(tmp_path / "nowhere")), "does not exist"),
        (("adapt", "ana", str(single)), "held out"),
        (("adapt", "ana", learned, "--artifact", "previous"), "previous"),
    ):
        found = typed(home, *words)
        assert isinstance(found.exception, UserError) and reason in str(found.exception), found
    assert not (home.path / "adapters").exists()


def made(home: Home, folder: Path, **changes: Any) -> dict[str, Any]:
    row = home.ledger.artifact(home.ledger.alias("champion") or "")
    assert row is not None
    section = AdaptSection(rank=4, steps=changes.pop("steps", 20), lr=changes.pop("lr", 0.01), batch_size=2)
    name = changes.pop("name", "ana")
    return make_adapter(home.path, open_artifact(row.path), name, folder, section, n_threads=1, **changes)


def test_a_worse_adapter_is_not_taken_unless_asked_for(
    make_home: Callable[..., Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = make_home(), texts(tmp_path / "texts")
    home.promote(home.make())
    with monkeypatch.context() as patched:
        patched.setattr(own_adapter, "_measure", lambda model, *_: 4.0 if layers(model) else 3.0)
        told = typed(home, "adapt", "ana", str(folder), "--steps", "4", "--threads", "1").exception
        assert isinstance(told, OliveiraError) and "worse than the model without it: 3.000 → 4.000" in str(told)
        assert not (home.path / "adapters").exists()
        found = made(home, folder, steps=4)
        assert not found["active"] and not (home.path / "adapters").exists()
        kept = made(home, folder, steps=4, keep=True, on_progress=lambda _: pytest.fail("trained twice"))
        assert kept["active"] and adapter_names(home.path) == ["ana"]
    with pytest.raises(UserError, match="taken"):
        made(home, folder)
    better = made(home, folder, replace=True, max_len=32)
    assert better["active"] and better["max_len"] == 32 and better["leakage"] <= 0.05
    assert json.loads((home.path / "adapters" / "ana" / "made.json").read_bytes()) == better


def test_a_name_that_is_taken_meanwhile_is_left_to_who_took_it(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home, folder = make_home(), texts(tmp_path / "texts")
    made, taken = open_artifact(home.make().path), home.path / own_adapter.FOLDER / "ana"
    section = AdaptSection(steps=2, lr=0.01)

    def another(_: object) -> None:
        taken.mkdir(parents=True, exist_ok=True)

    with pytest.raises(UserError, match="taken"):
        make_adapter(home.path, made, "ana", folder, section, keep=True, on_progress=another)
    assert not list(taken.iterdir())


def test_stopped_it_says_what_is_kept_and_goes_on(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home, folder = make_home(), texts(tmp_path / "texts")
    home.promote(home.make())

    def late(_: object) -> None:
        raise Interrupted("stopped at once")

    with pytest.raises(Interrupted, match="nothing is kept"):
        made(home, folder, on_progress=late)
    with pytest.raises(Interrupted, match="stopped at step 1 of 20"):
        made(home, folder, should_stop=lambda: True)
    with pytest.raises(Interrupted, match="stopped at once"):
        made(home, folder, on_progress=late)
    steps: list[int] = []
    assert made(home, folder, on_progress=lambda progress: steps.append(progress.step))["active"]
    assert steps == list(range(2, 21))


def test_a_signal_ends_it_with_a_sentence(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home, folder = make_home(), texts(tmp_path / "texts")
    home.promote(home.make())
    command = [sys.executable, "-m", "oliveira", "adapt", "ana", str(folder), "--steps", "1000000", "--max-len", "64"]
    process = subprocess.Popen(
        [*command, "--home", str(home.path), "--threads", "1", "--quiet"], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list((home.path / "runs").glob("adapter-*/checkpoint.safetensors")) or process.poll())
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "start again to go on" in said and "Traceback" not in said, said


def test_the_commands_about_adapters(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home = make_home()
    home.promote(home.make())
    found = made(home, texts(tmp_path / "texts"))
    assert overview(home.ledger)["adapters"] == ["ana"]
    home.promote(home.make(seed=5))  # what it was trained on is served no more
    assert overview(home.ledger)["adapters"] == []
    listed = json.loads(typed(home, "adapters", "list", "--json").stdout)
    assert [(row["name"], row["fits"]) for row in listed] == [("ana", False)]
    assert "ana" in typed(home, "adapters", "list").stdout
    shown = typed(home, "adapters", "show", "ana").stdout
    assert f"{found['bits_per_byte']['after']}" in shown and "rank           4" in shown
    assert isinstance(typed(home, "adapters", "show", "eva").exception, UserError)
    assert "removed" in typed(home, "adapters", "remove", "ana").stdout
    assert json.loads(typed(home, "adapters", "list", "--json").stdout) == []
