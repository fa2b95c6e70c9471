"""What is benchmarked is what is served: one construction, and the form that `compile` chose within the loss."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from benchmarks import q4
from oliveira import artifact
from oliveira.artifact import Artifact
from oliveira.cli.compile import compile_
from oliveira.data.shards import TokenShard, write_shard
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.export import compile as compiling
from oliveira.export.choice import record_path
from oliveira.export.compile import compile_artifact
from oliveira.kernels import build, options
from oliveira.kernels.decoder import NativeDecoder
from oliveira.kernels.options import Options, faster, losses, native
from oliveira.lifecycle import compression_report as report
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.serving.engine import decoders
from oliveira.serving.engine.decoders import Settings, make_decoder
from oliveira.serving.settings import ServeSection
from oliveira.world import World

ROOT = Path(__file__).parents[2]
CONFIG = GPTConfig(vocab_size=83, d_model=64, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=128, max_len=64)
needs_kernels = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))


def trained_like(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 2.0 * CONFIG.d_model**-0.5)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("options") / "a"
    return artifact.write(folder, model=trained_like(), name="gpt", weights="fp32", lineage={}, metrics={})


TEXT = torch.randint(0, CONFIG.vocab_size, (1200,), generator=torch.Generator().manual_seed(1)).tolist()


def test_there_is_one_construction() -> None:
    """`NativeDecoder(…)` is called by `options.native` alone: server, compile and benchmarks use that."""
    callers = set()
    for folder in ("oliveira", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if name == "NativeDecoder":
                    callers.add(str(path.relative_to(ROOT)))
    assert callers == {"oliveira/kernels/options.py"}
    assert q4.native is compiling.native is decoders.native is options.native
    assert report.fastest_safe is decoders.fastest_safe is options.fastest_safe


def test_what_is_benchmarked_can_be_chosen() -> None:
    for _, head, inputs in q4.OURS:
        wanted = q4.options_of(head, inputs)
        assert wanted in list(faster(trained_like(), Options(activations=wanted.activations)))


@needs_kernels
def test_what_was_chosen_serves_within_the_loss(
    made: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fastest form that loses no more than was allowed, measured on text; the server builds just that one."""
    forms = list(faster(trained_like(), Options()))
    speed = {"native": 1.5} | {f"native, {form}": 1.0 - i / 10 for i, form in enumerate(forms)}  # the later the faster
    monkeypatch.setattr(
        compiling, "step_seconds", lambda candidates, *_: {name: speed.get(name, 2.0) for name in candidates}
    )
    built: list[Options] = []

    def spied(model: GPT, held: Options, **more: Any) -> NativeDecoder:
        built.append(held)
        return native(model, held, **more)

    monkeypatch.setattr(decoders, "native", spied)

    def serve(**settings: Any) -> Options:
        decoder, name = make_decoder(made, made.load_model(), Settings(**settings))
        assert isinstance(decoder, NativeDecoder) and str(built[-1]) in name
        return built[-1]

    record = compile_artifact(made.path, rounds=1, streams=(1,), max_loss=10.0, text=TEXT)
    monkeypatch.setattr(compiling, "export_decode", lambda model, path: None)  # it is there
    assert record == json.loads(record_path(made.path).read_bytes())
    assert record["native"] == dataclasses.asdict(forms[-1]) and record["choice"] == "native"
    assert serve(max_loss=10.0) == forms[-1]
    assert serve() == Options()  # the default loses nothing, whatever was chosen
    assert serve(max_loss=record["loss"] / 2) == Options()
    assert "serve.max_loss" in caplog.records[-1].reason  # type: ignore[attr-defined]
    assert serve(max_loss=10.0, activations="int8") == Options(activations="int8")  # its loss was not measured

    lost = {str(form): loss_of(form) for form in forms}
    limit = (lost[str(forms[1])] + lost[str(forms[-1])]) / 2  # between an int8 and an int4 head
    record = compile_artifact(made.path, rounds=1, streams=(1,), max_loss=limit, text=TEXT)
    chosen = Options(**record["native"])
    assert chosen.head in ("int8", "int6") and lost[str(chosen)] <= limit
    assert record["loss"] == pytest.approx(lost[str(chosen)])
    assert serve(max_loss=limit) == chosen

    record = compile_artifact(made.path, rounds=1, streams=(1,), text=TEXT)  # nothing may be lost
    assert record["native"] == dataclasses.asdict(Options()) and record["loss"] == 0.0
    assert serve(max_loss=10.0) == Options()


def loss_of(form: Options) -> float:
    """Mean of the windows and two standard errors, from whole decoders anew."""
    model = trained_like()
    each = (losses(native(model, form), TEXT) - losses(native(model, Options()), TEXT)) / CONFIG.max_len
    return float(each.mean() + 2 * each.std() / len(each) ** 0.5)


@needs_kernels
def test_losses_are_the_models() -> None:
    model = trained_like()
    with torch.inference_mode():
        logits = model(torch.tensor([TEXT[:64], TEXT[64:128]]))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(TEXT[1:129]), reduction="none"
    ).view(2, 64)
    assert losses(native(model, Options()), TEXT[:129]).tolist() == pytest.approx(expected.sum(1).tolist(), rel=1e-5)


def test_a_loss_needs_text(made: Artifact) -> None:
    with pytest.raises(UserError, match=r"max_loss = 0\.1.*100 tokens are too few.*--text"):
        compile_artifact(made.path, max_loss=0.1, text=TEXT[:100])


@needs_kernels
def test_states_are_the_models_and_blank_zeros_what_is_not_used() -> None:
    """States of a text in pieces, in a batch; and the parts of blocks that no position of the text stands in."""
    from oliveira.kernels.decoder import BlockPool, Run
    from oliveira.kernels.twin import TorchDecoder

    model = trained_like()
    with torch.inference_mode():
        expected = model.features(torch.tensor([TEXT[:50]]))[0]
    for decoder in (native(model, Options()), native(model, Options(cache="fp16")), TorchDecoder(model)):
        pool = BlockPool(decoder, 8)
        pool.blocks[:] = float("nan")
        table, other = pool.take(4), pool.take(2)
        found = [decoder.states([Run(TEXT[:20], 0, table)])]
        both = decoder.states([Run(TEXT[7:10], 0, other), Run(TEXT[20:50], 20, table)])
        found.append(both[3:])
        tolerance = 1e-4 if decoder.cache_dtype == torch.float32 else 2e-2
        assert float((torch.cat(found) - expected).abs().max()) < tolerance
        decoder.blank(table, 50)
        kept = pool.blocks[table]
        assert bool(kept.isfinite().all())
        used = CONFIG.n_layers * CONFIG.n_kv_heads * 2 * (CONFIG.d_model // CONFIG.n_heads) * 50
        assert used * 0.99 < int((kept != 0).sum()) <= used
        again = decoder.states([Run(TEXT[49:50], 49, table)])
        assert float((again - found[1][-1:]).abs().max()) < tolerance


def test_the_command_measures_on_what_the_home_has_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within serve.max_loss, unless told otherwise; only text of the artifact's own tokenizer counts."""
    home, folder = tmp_path / "home", tmp_path / "artifact"
    base = home / "stages" / "preprocess" / "key" / "base"
    base.mkdir(parents=True)
    folder.mkdir()
    (folder / artifact.MANIFEST).write_text("{}")
    tokenizer = Tokenizer.train(["um texto pequeno " * 20], vocab_size=280)
    for place in (base, folder):
        tokenizer.save(place / "tokenizer.json")
    write_shard(base, "validation", ["um texto", "pequeno"], tokenizer)
    (tmp_path / "other.txt").write_text("texto um", encoding="utf-8")
    (home / "world.json").write_text(World(serve=ServeSection(max_loss=0.02, activations="int8")).model_dump_json())
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(compiling, "compile_artifact", lambda path, **given: asked.append(given) or {})
    app = typer.Typer()
    app.command("compile")(compile_)

    def ask(*more: str) -> tuple[float, list[int]]:
        shown = CliRunner().invoke(app, [str(folder), "--home", str(home), "--json", *more])
        assert shown.exit_code == 0, shown.output
        assert asked[-1]["options"] == Options(activations="int8")
        return asked[-1]["max_loss"], list(asked[-1]["text"])

    held_out = TokenShard.open(base, "validation").tokens.tolist()
    assert ask() == (0.02, held_out) and len(held_out) > 2
    assert ask("--max-loss", "0.5", "--text", str(tmp_path / "other.txt")) == (0.5, tokenizer.encode("texto um"))
    assert ask("--max-loss", "0") == (0.0, [])
    (base / "tokenizer.json").write_text("{}")
    assert ask() == (0.02, [])
    (tmp_path / "other.txt").write_bytes(b"\xff")
    wrong = CliRunner().invoke(app, [str(folder), "--home", str(home), "--text", str(tmp_path / "other.txt")])
    assert isinstance(wrong.exception, UserError) and "--text" in str(wrong.exception)
