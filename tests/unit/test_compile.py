"""`oliveira compile`: the graph computes what the model computes, and the note is believed only where it holds."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from oliveira import artifact
from oliveira.artifact import Artifact
from oliveira.cli.compile import compile_
from oliveira.cli.options import find_artifact
from oliveira.compression.model import quantise_model
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.export import choice as notes
from oliveira.export import compile as compiling
from oliveira.export.choice import choice, graph_path, record_path
from oliveira.export.compile import compile_artifact, logit_error
from oliveira.export.decode import export_decode
from oliveira.export.decoder import OnnxDecoder
from oliveira.kernels import build
from oliveira.kernels.decoder import BlockPool, Run
from oliveira.kernels.twin import TorchDecoder
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.registry import entry
from oliveira.tasks.language_modelling import generate

V = 67
LLAMA = GPTConfig(vocab_size=V, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=128, max_len=96)
GPT2 = dataclasses.replace(
    LLAMA, norm="layernorm", feed_forward="gelu", positions="learned", bias=True, tied=False, n_kv_heads=4
)
SMALL = dataclasses.replace(LLAMA, n_layers=1)  # where the export is not the point: it takes most of a test's time
FORMS = {
    "llama": (LLAMA, "fp32"),
    "gpt2": (GPT2, "fp32"),
    "int4": (LLAMA, "int4"),
    "nf4": (GPT2, "nf4"),
    "int8": (LLAMA, "int8"),
}


def confident(config: GPTConfig, weights: str = "fp32", seed: int = 0) -> GPT:
    """Weights as large as trained ones, so that the past decides about the next token."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    for parameter in model.parameters():
        wide = parameter.ndim > 1
        nn.init.normal_(parameter, 0.0 if wide else 1.0, 2.0 * config.d_model**-0.5 if wide else 0.2)
    if weights != "fp32":
        quantise_model(model, weights)
    return model


def texts(*lengths: int) -> list[list[int]]:
    numbers = torch.Generator().manual_seed(1)
    return [torch.randint(V, (length,), generator=numbers).tolist() for length in lengths]


@pytest.fixture(scope="module", params=FORMS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT, Path]:
    model = confident(*FORMS[request.param])
    path = tmp_path_factory.mktemp("graph") / "decode.onnx"
    export_decode(model, path)
    return model, path


def decoder_of(exported: tuple[GPT, Path], n_blocks: int = 32) -> tuple[OnnxDecoder, BlockPool]:
    decoder = OnnxDecoder(exported[1], exported[0].config, threads=1)
    return decoder, BlockPool(decoder, n_blocks)


@pytest.mark.slow
@torch.inference_mode()
def test_streams_of_any_length_equal_torch(exported: tuple[GPT, Path]) -> None:
    """Decodes and chunks of prompts in the same steps; the free blocks hold NaN, which nobody may read."""
    model = exported[0]
    decoder, pool = decoder_of(exported)
    written = texts(70, 33, 16, 5)
    tables = [pool.take(5)[::-1], pool.take(3), pool.take(1), pool.take(1)]
    for table in tables:
        pool.blocks[table] = float("nan")
    found: list[list[torch.Tensor]] = [[] for _ in written]
    cuts = [(0, 20, 40, 41, 70), (0, 1, 21, 22, 33), (0, 14, 15, 16, 16), (0, 2, 3, 4, 5)]
    for step in range(4):
        runs = [
            Run(text[cut[step] : cut[step + 1]], cut[step], table, cut[step + 1] - cut[step])
            for text, cut, table in zip(written, cuts, tables, strict=True)
            if cut[step + 1] > cut[step]
        ]
        parts = decoder.step(runs).split([run.wanted for run in runs])
        for i, cut in enumerate(cuts):
            if cut[step + 1] > cut[step]:
                found[i].append(parts[[run.table for run in runs].index(tables[i])])
    for text, logits in zip(written, found, strict=True):
        expected = model(torch.tensor([text]))[0]
        assert expected.std() > 0.5
        assert float((torch.cat(logits) - expected).abs().max()) <= 1e-4


def test_greedy_text_is_the_models(exported: tuple[GPT, Path]) -> None:
    model = exported[0]
    decoder, pool = decoder_of(exported)
    prompts = texts(3, 17, 30)
    tables = [pool.take(4) for _ in prompts]
    made = [[int(decoder.prefill(p, 0, table).argmax())] for p, table in zip(prompts, tables, strict=True)]
    for _ in range(29):
        positions = [len(p) + len(m) - 1 for p, m in zip(prompts, made, strict=True)]
        for row, text in zip(decoder.decode([m[-1] for m in made], positions, tables), made, strict=True):
            text.append(int(row.argmax()))
    assert made == [generate(model, p, 30, max_len=96) for p in prompts]
    assert len({token for text in made for token in text}) > 2  # a text that says something


def test_blocks_may_have_been_dropped(exported: tuple[GPT, Path]) -> None:
    """Keys keep the rotation of their true position: as torch's twin computes it in the same blocks."""
    found, (text,) = [], texts(40)
    twin = TorchDecoder(exported[0])
    for decoder in (OnnxDecoder(exported[1], exported[0].config, threads=1), twin):
        pool = BlockPool(decoder, 4)
        table = pool.take(3)
        decoder.step([Run(text[:32], 0, table, 0)])
        table = [table[1], table[0]]  # the first sixteen are forgotten, their block takes what follows
        decoder.step([Run(text[32:38], 32, table, 0, slot=16)])
        found.append(decoder.step([Run(text[38:], 38, table, 2, slot=22)]))
    assert float((found[0] - found[1]).abs().max()) <= 1e-4
    with torch.inference_mode():
        assert float((found[0] - exported[0](torch.tensor([text]))[0, -2:]).abs().max()) > 1e-2  # it was forgotten


def test_only_wanted_logits_come(exported: tuple[GPT, Path]) -> None:
    decoder, pool = decoder_of(exported)
    (text,) = texts(20)
    table = pool.take(2)
    everything = decoder.prefill(text, 0, table, wanted=20)
    assert decoder.prefill(text, 0, table, wanted=0).shape == (0, V)
    torch.testing.assert_close(decoder.prefill(text, 0, table, wanted=2), everything[-2:], atol=1e-5, rtol=1e-5)


def test_what_would_reach_beyond_is_refused(exported: tuple[GPT, Path]) -> None:
    decoder = OnnxDecoder(exported[1], exported[0].config, threads=1)
    with pytest.raises(UserError, match="no blocks"):
        decoder.decode([1], [0], [[0]])
    pool = BlockPool(decoder, 4)
    for run, match in (
        (Run([], 0, [0]), "0 tokens from position 0"),
        (Run([1] * 97, 0, [0] * 7), r"97 tokens .* 1 … 96"),
        (Run([1], 0, [0], 2), "wanted = 2"),
        (Run([1], 16, [0]), "does not reach place 16"),
        (Run([1], 3, [0], slot=4), r"slot = 4: a token at position 3 stands at 0 … 3"),
        (Run([1], 0, [0], adapter=object()), "holds no adapters"),  # type: ignore[arg-type]
        (Run([1], 0, [4]), "not among 0 … 3"),
        (Run([V], 0, [0]), f"not among 0 … {V - 1}"),
    ):
        with pytest.raises(UserError, match=match):
            decoder.step([run])
    with pytest.raises(UserError, match="300 new tokens"):
        decoder.step([Run([1] * 60, 0, [0, 1, 2, 3])] * 5)
    pool.blocks = pool.blocks[:, 1:]
    with pytest.raises(UserError, match="the pool's blocks hold"):
        decoder.attach(pool)


# Providers --------------------------------------------------------------------------------------------------


def test_the_first_provider_that_starts_is_taken_and_logged(
    exported: tuple[GPT, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT fails, CUDA is left out by onnxruntime because its driver is missing, the CPU computes."""
    asked, real = [], onnxruntime.InferenceSession

    def session(graph: bytes, options: Any, providers: list[str]) -> Any:
        asked.append(providers)
        if providers[0].startswith("Tensorrt"):
            raise RuntimeError("no libnvinfer\nmore")
        return real(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    built_in = ["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
    with caplog.at_level(logging.INFO):
        decoder = OnnxDecoder(exported[1], exported[0].config, threads=1)
    assert decoder.provider == "cpu" and asked == [built_in[::-1], built_in[1::-1], built_in[:1]]
    refused = {"tensorrt": "no libnvinfer", "cuda": "it does not start on this machine"}
    assert [(r.provider, r.refused) for r in caplog.records if r.message == "provider"] == [("cpu", refused)]
    with pytest.raises(UserError, match=r"provider = 'cuda' cannot be had: it does not start"):
        OnnxDecoder(exported[1], exported[0].config, provider="cuda")


def test_providers_that_cannot_be_had(exported: tuple[GPT, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"provider = 'gpu' is not known\. Use auto, tensorrt, cuda, cpu"):
        OnnxDecoder(exported[1], exported[0].config, provider="gpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"provider = 'tensorrt' cannot be had: not in this onnxruntime\. Install"):
        OnnxDecoder(exported[1], exported[0].config, provider="tensorrt")


def test_graphs_that_do_not_fit(exported: tuple[GPT, Path], tmp_path: Path) -> None:
    model, path = exported
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CorruptError, match=r"damaged\.onnx is not a graph"):
        OnnxDecoder(damaged, model.config)
    with pytest.raises(CorruptError, match="not the graph of a decode step of this model"):
        OnnxDecoder(path, dataclasses.replace(model.config, n_layers=3))
    with pytest.raises(CorruptError, match="cannot be read"):
        OnnxDecoder(tmp_path / "none.onnx", model.config)


# The choice -------------------------------------------------------------------------------------------------


def written(folder: Path, model: nn.Module, name: str = "gpt", weights: str = "fp32") -> Artifact:
    return artifact.write(folder, model=model, name=name, weights=weights, lineage={}, metrics={})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, dict[str, Any]]:
    made = written(tmp_path_factory.mktemp("compiled") / "a", confident(LLAMA, "int4"), weights="int4")
    heard: list[str] = []
    record = compile_artifact(made.path, rounds=1, streams=(1, 3), say=heard.append)
    assert "int4 weights as fp32" in heard[0] and "provider cpu" in heard[1]
    return made, record


@pytest.mark.slow
def test_the_fastest_is_noted_with_every_number(compiled: tuple[Artifact, dict[str, Any]]) -> None:
    made, record = compiled
    assert json.loads(record_path(made.path).read_bytes()) == record
    known = {"onnx", "torch"} | ({"native"} if build.unavailable() is None else set())
    assert record["seconds"].keys() == {"1", "3"} and all(row.keys() == known for row in record["seconds"].values())
    product = {name: record["seconds"]["1"][name] * record["seconds"]["3"][name] for name in known}
    assert record["choice"] == choice(made.path, made.digest) == min(product, key=lambda name: product[name])
    assert 0 < record["graph"]["logit_error"] < 1e-4
    # 4 bits are fp32 in the graph, and it says so.
    assert record["weight_bytes"]["onnx"] == graph_path(made.path).stat().st_size > 250_000
    artifact.open_artifact(made.path)  # its own folder is as it was


def test_the_note_holds_for_this_artifact_and_machine_only(
    compiled: tuple[Artifact, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, record = compiled
    path, place = tmp_path / "b", record_path(tmp_path / "b")
    place.parent.mkdir()
    graph_path(path).write_bytes(graph_path(made.path).read_bytes())

    def note(**changes: Any) -> None:
        place.write_text(json.dumps({**record, **changes}))

    for engine in ("native", "onnx", "torch"):
        note(choice=engine)
        assert choice(path, made.digest) == engine
    assert choice(path, "0" * 64) is None
    assert choice(tmp_path / "never", made.digest) is None
    note(machine={**record["machine"], "cpu": "another"})
    assert choice(path, made.digest) is None
    for spoiled in (b"", b"[]", b"{}", b"null", b"[" * 10_000, place.read_bytes()[:-9]):
        place.write_bytes(spoiled)
        assert choice(path, made.digest) is None
    note(choice="fastest")
    assert choice(path, made.digest) is None
    note(choice="onnx")
    with monkeypatch.context() as patch:
        patch.setattr(notes, "_version", lambda package: "0.0")
        assert choice(path, made.digest) is None
    assert choice(path, made.digest) == "onnx"
    graph_path(path).write_bytes(graph_path(path).read_bytes()[:-1] + b"?")
    assert choice(path, made.digest) is None
    graph_path(path).unlink()
    assert choice(path, made.digest) is None
    note(choice="native")  # which needs no graph
    assert choice(path, made.digest) == "native"


def test_reading_the_note_costs_no_import_of_a_runtime() -> None:
    code = "import sys, oliveira.export.choice; sys.exit(len({'torch', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_candidate_can_win(compiled: tuple[Artifact, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    made, record = compiled
    monkeypatch.setattr(compiling, "export_decode", lambda model, path: None)  # it is there
    for winner in record["weight_bytes"]:
        seconds = {name: 1.0 if name == winner else 1.5 for name in record["weight_bytes"]}
        monkeypatch.setattr(compiling, "step_seconds", lambda *_, seconds=seconds: seconds)
        assert compile_artifact(made.path)["choice"] == choice(made.path, made.digest) == winner


@pytest.mark.slow
def test_without_the_native_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "not_covered", lambda model: "no compiler.")
    made = written(tmp_path / "a", confident(SMALL))
    record = compile_artifact(made.path, rounds=1, streams=(1,))
    assert record["left_out"] == {"native": "no compiler."}
    assert record["choice"] in ("onnx", "torch") and record["weight_bytes"].keys() == {"onnx", "torch"}


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = confident(SMALL)
    made = written(tmp_path / "a", model)
    compile_artifact(made.path, rounds=1, streams=(1,))
    other = confident(SMALL)
    with torch.no_grad():
        other.blocks[0].feed_forward.down.weight.add_(0.01)
    assert logit_error(OnnxDecoder(graph_path(made.path), SMALL), other) > 1e-3
    monkeypatch.setattr(compiling, "export_decode", lambda model, path: export_decode(other, path))
    with pytest.raises(OliveiraError, match=r"decode\.onnx: logits differ by .* more than 0\.0001\. It is refused"):
        compile_artifact(made.path, rounds=1, streams=(1,))
    assert choice(made.path, made.digest) is None  # nor is the older note kept
    with torch.no_grad():
        other.norm.weight[0] = float("nan")
    assert logit_error(OnnxDecoder(graph_path(made.path), SMALL), other) == float("inf")


def test_only_a_gpt_can_be_compiled(tmp_path: Path) -> None:
    found = entry("lstm")
    made = written(tmp_path / "a", found.model(found.config(d_in=2, d_out=1, **found.tiny)), name="lstm")
    with pytest.raises(UserError, match=r"a holds a lstm: only a gpt has a decode step.*oliveira export"):
        compile_artifact(made.path)
    with pytest.raises(UserError, match="threads = 0"):
        compile_artifact(written(tmp_path / "b", confident(SMALL)).path, threads=0)


# The command ------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command("compile")(compile_)
    return made


def test_help_shows_how_it_is_used(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert "oliveira compile champion" in shown.output and "--provider" in shown.output


@pytest.mark.slow
def test_the_command_compiles(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written(tmp_path / "run" / "artifact", confident(SMALL))
    (tmp_path / "run" / "run.json").write_text("{}")
    shown = CliRunner().invoke(app, [str(tmp_path / "run"), "--streams", "1,2", "--rounds", "1", "--quiet"])
    assert shown.exit_code == 0, shown.output
    chosen = choice(made.path, made.digest)
    assert f"{chosen} serves from the engine's next start on" in shown.output and "2 streams" in shown.output
    compiled = json.loads(record_path(made.path).read_bytes())
    monkeypatch.setattr(compiling, "export_decode", lambda model, path: None)  # it is there
    as_json = CliRunner().invoke(app, [str(made.path), "--streams", "1", "--rounds", "1", "--json"])
    again = json.loads(as_json.output)
    assert again == json.loads(record_path(made.path).read_bytes()) and again["graph"] == compiled["graph"]


def test_what_the_command_refuses(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["champion", "--streams", "one"])
    assert isinstance(result.exception, UserError) and "--streams one" in str(result.exception)
    with pytest.raises(UserError, match="holds no ledger"):
        find_artifact(tmp_path, "champion")
    with pytest.raises(UserError, match="run 'lm/none/gpt' is not in"):
        find_artifact(tmp_path, "lm/none/gpt")
