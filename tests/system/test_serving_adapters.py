"""Adapters by name: hot-loaded, several in one batch, each answer that of the merged model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from serving_helpers import Home, Server

from oliveira import artifact
from oliveira.adaptation.lora import add_lora, layers, merge, save_adapter
from oliveira.artifact import Artifact
from oliveira.files import sha256_file
from oliveira.models.gpt import GPT

PROMPT = "No princípio era o verbo"


def train(home: Home, made: Artifact, name: str, seed: int) -> GPT:
    """Not trained, but strong: writes the adapter and returns the model with it merged."""
    model = made.load_model()
    torch.manual_seed(seed)
    add_lora(model, 4, 8.0, ["query", "value", "up"])
    with torch.no_grad():
        for layer in layers(model).values():
            layer.lora_b.normal_(std=0.5)
    folder = home.path / "adapters" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(folder, model, base=sha256_file(made.path / "model.safetensors"))
    merged = merge(model).eval()
    assert isinstance(merged, GPT)
    return merged


def as_text(home: Home, made: Artifact, model: GPT, path: Path) -> str:
    """What an engine with this very model answers."""
    from engine_helpers import request, run

    from oliveira.serving.engine.decoders import Settings
    from oliveira.serving.engine.text_engine import TextEngine

    own = artifact.write(
        path, model=model, name="gpt", tokenizer=made.path / "tokenizer.json", lineage={"of": path.name}, metrics={}
    )
    engine = TextEngine(own, Settings(slots=1))
    return str(run(engine, [[(request("r", engine.tokenizer.encode(PROMPT), 60), 0)]])["r", 0]["text"])


@pytest.mark.slow
def test_adapters_are_found_by_name_and_share_a_batch(make_home: Callable[..., Home], tmp_path: Path) -> None:
    home = make_home(slots=8)
    made = home.make()
    home.promote(made)
    wanted = {"oliveira": as_text(home, made, made.load_model(), tmp_path / "base")}  # type: ignore[arg-type]
    with Server(home) as server:
        server.ready()
        client = server.openai()
        with pytest.raises(openai.NotFoundError, match="oliveira"):
            client.completions.create(model="ana", prompt=PROMPT, max_tokens=1)
        for seed, name in enumerate(("ana", "rui", "eva")):
            wanted[name] = as_text(home, made, train(home, made, name, seed), tmp_path / name)  # while it serves
        assert len(set(wanted.values())) == 4
        assert {"ana", "rui", "eva", "oliveira"} <= {model.id for model in client.models.list()}

        def ask(name: str) -> str:
            found = client.completions.create(model=name, prompt=PROMPT, max_tokens=60, temperature=0)
            assert found.model == name
            return found.choices[0].text

        asked = list(wanted) * 4
        with ThreadPoolExecutor(16) as pool:
            for name, text in zip(asked, pool.map(ask, asked), strict=True):
                assert text == wanted[name], name

        time.sleep(0.01)
        wanted["ana"] = as_text(home, made, train(home, made, "ana", 9), tmp_path / "new")  # replaced while it serves
        assert ask("ana") == wanted["ana"]


@pytest.mark.slow
def test_an_adapter_that_does_not_fit_is_one_sentence(make_home: Callable[..., Home]) -> None:
    home = make_home()
    made, other = home.make(seed=1), home.make(seed=2)
    home.promote(made)
    train(home, other, "foreign", 0)
    train(home, made, "broken", 0)
    weights = home.path / "adapters" / "broken" / "lora.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with Server(home) as server:
        server.ready()
        client = server.openai()
        for name, word in (("foreign", "trained on weights"), ("broken", "not the one that was written")):
            with pytest.raises(openai.BadRequestError, match=word):
                client.completions.create(model=name, prompt=PROMPT, max_tokens=1)
        assert client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=1).choices
        assert [model.id for model in client.models.list()] == ["oliveira", made.digest[:12], "broken"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("foreign")


@pytest.mark.slow
def test_the_model_itself_wins_over_an_adapter_of_its_name(make_home: Callable[..., Home]) -> None:
    """A folder adapters/oliveira took every client's requests and ended the recording of traffic."""
    home = make_home()
    made = home.make()
    home.promote(made)
    with Server(home) as server:
        server.ready()
        client = server.openai()

        def ask() -> str:
            return (
                client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=20, temperature=0).choices[0].text
            )

        before = ask()
        train(home, made, "oliveira", 0)
        assert ask() == before and [model.id for model in client.models.list()] == ["oliveira", made.digest[:12]]
