"""`oliveira adapt`: own texts are learned, killed runs go on, the model itself stays what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from serving_helpers import TEXTS, Home, Server

from oliveira.files import sha256_file

pytestmark = pytest.mark.slow


def texts(folder: Path) -> Path:
    folder.mkdir()
    for number in range(6):
        text = "\n\n".join(TEXTS[number % 3 :: 3] * 4) + f"\n{number}\n"
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def oliveira(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oliveira", *words, "--home", str(home.path), "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


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
    for words, reason in (
        (("adapt", "../ana", str(texts(tmp_path / "texts"))), "name"),
        (("adapt", "ana", str(tmp_path / "nowhere")), "does not exist"),
        (("adapt", "ana", str(single)), "held out"),
        (("adapt", "ana", str(tmp_path / "texts"), "--artifact", "previous"), "previous"),
    ):
        found = oliveira(home, *words)
        assert found.returncode != 0 and reason in found.stderr and "Traceback" not in found.stderr, found.stderr
    assert not (home.path / "adapters").exists()
