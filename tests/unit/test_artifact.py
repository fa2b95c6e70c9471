"""Artifacts: written whole, opened verified, and no damaged or hostile byte is ever loaded."""

from __future__ import annotations

import ast
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

import oliveira
from oliveira import artifact
from oliveira.artifact import Artifact, open_artifact, same_weights, write
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.compression.model import quantise_model
from oliveira.errors import CorruptError, OliveiraError
from oliveira.files import canonical_json, sha256_file, sha256_json, write_json_atomic
from oliveira.models.gpt import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=37, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32, max_len=24)
UNTIED = GPTConfig(**{**SMALL.__dict__, "tied": False, "bias": True})
TOKENS = torch.arange(18).view(2, 9)
WEIGHTS = ["fp32", "int4", "int4_mse", "nf4", "int8"]


def build(weights: str = "fp32", config: GPTConfig = SMALL) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval()
    return model if weights == "fp32" else quantise_model(model, weights)  # type: ignore[return-value]


def make(folder: Path, weights: str = "fp32", model: nn.Module | None = None, **changes: Any) -> Artifact:
    tokenizer = folder.parent / "tokenizer.json"
    tokenizer.write_text('{"model": {"type": "BPE"}}')
    arguments: dict[str, Any] = {
        "model": model or build(weights),
        "name": "gpt",
        "weights": weights,
        "tokenizer": tokenizer,
        "reference": {"loss": [1.5, 2.5]},
        "lineage": {"stage": "train", "key": "k" * 8},
        "metrics": {"loss": 1.25, "tiny": 1e-05},
    }
    return write(folder, **{**arguments, **changes})


@pytest.fixture(params=WEIGHTS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    return make(tmp_path / "artifact", request.param)


def seal(folder: Path, **changes: Any) -> None:
    """What an attacker with write access does: every sum in the manifest is made to fit."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("checksum")
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"] if (folder / name).exists()}
    manifest.update(changes)
    manifest["digest"] = sha256_json({key: manifest[key] for key in ("format", "files", "lineage")})
    write_json_atomic(folder / "manifest.json", {**manifest, "checksum": sha256_json(manifest)})


def test_round_trip(made: Artifact) -> None:
    model, loaded = build(made.weights), made.load_model()
    assert same_weights(loaded, model) and not loaded.training
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert open_artifact(made.path, made.digest) == made
    assert set(made.files) == {"config.json", "model.safetensors", "reference.json", "tokenizer.json"}
    assert made.metrics == {"loss": 1.25, "tiny": 1e-05} and made.lineage["stage"] == "train"


def test_a_model_that_is_loaded_while_predicting_can_learn(made: Artifact) -> None:
    with torch.inference_mode():
        model = made.load_model()
        model(torch.tensor([[1, 2]]))
    model(torch.tensor([[1, 2]])).sum().backward()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_untied_with_biases(weights: str, tmp_path: Path) -> None:
    model = build(weights, UNTIED)
    loaded = make(tmp_path / "a", weights, model).load_model()
    assert same_weights(loaded, model) and torch.equal(loaded(TOKENS), model(TOKENS))


def test_opening_searches_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored takes the place of what fresh weights would be rounded to."""
    made = make(tmp_path / "a", "int4_mse")

    def search(x: torch.Tensor) -> NoReturn:
        raise AssertionError("weights that are about to be replaced were searched")

    monkeypatch.setitem(CODECS, "int4_mse", CODECS["int4_mse"]._replace(quantise=search))
    methods = {layer.method for layer in made.load_model().modules() if isinstance(layer, QuantisedLinear)}
    assert methods == {"int4_mse"}


def test_fewer_bits_are_smaller_on_disk(tmp_path: Path) -> None:
    config = GPTConfig(**{**SMALL.__dict__, "d_model": 64, "d_ff": 128})
    sizes = {}
    for weights in WEIGHTS:
        made = make(tmp_path / weights, weights, build(weights, config))
        sizes[weights] = (made.path / "model.safetensors").stat().st_size
    assert sizes["nf4"] < sizes["int4"] < sizes["fp32"] / 3
    assert sizes["int4"] < sizes["int8"] < sizes["fp32"] / 2


def test_same_content_has_the_same_digest(tmp_path: Path) -> None:
    first, again = make(tmp_path / "1"), make(tmp_path / "2")
    assert first.digest == again.digest
    assert make(tmp_path / "3", metrics={"loss": 9.0}).digest == first.digest
    assert make(tmp_path / "4", lineage={"stage": "adapt"}).digest != first.digest
    assert make(tmp_path / "5", "nf4").digest != first.digest


def test_another_digest_is_refused(made: Artifact) -> None:
    with pytest.raises(CorruptError, match="is not the expected"):
        open_artifact(made.path, "0" * 64)


def test_unknown_format_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OliveiraError, match="fp8"):
        make(tmp_path / "a", weights="fp8", model=build())
    assert not (tmp_path / "a").exists()


def test_a_failed_write_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(tmp_path / "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    with pytest.raises(OliveiraError, match="no space left"):
        make(tmp_path / "a", "nf4")
    assert open_artifact(tmp_path / "a") == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "tokenizer.json"]


def offsets(n_bytes: int, n: int = 200) -> list[int]:
    """Random bits, and the first and last bytes."""
    chosen = random.Random(0)
    ends = [bit for byte in (0, 1, 7, 8, n_bytes - 1) for bit in (8 * byte, 8 * byte + 7) if byte < n_bytes]
    return [*ends, *(chosen.randrange(8 * n_bytes) for _ in range(n - len(ends)))]


def test_one_flipped_bit_anywhere_is_found(made: Artifact) -> None:
    """200 bits in each file. Nothing is loaded: `open_artifact` is where every load begins."""
    for path in sorted(made.path.iterdir()):
        written = path.read_bytes()
        for bit in offsets(len(written)):
            damaged = bytearray(written)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(CorruptError):
                open_artifact(made.path)
        path.write_bytes(written)
    open_artifact(made.path)


def test_damage_after_opening_is_found_too(made: Artifact) -> None:
    path = made.path / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptError, match="not the file"):
        made.load_model()
    path.unlink()
    with pytest.raises(CorruptError, match="cannot be read"):
        made.load_model()


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_truncated_files(made: Artifact, keep: float) -> None:
    for path in sorted(made.path.iterdir()):
        written = path.read_bytes()
        path.write_bytes(written[: int(keep * len(written)) if isinstance(keep, float) else keep])
        with pytest.raises(CorruptError):
            open_artifact(made.path)
        path.unlink()
        with pytest.raises(CorruptError):
            open_artifact(made.path)
        path.write_bytes(written)
    open_artifact(made.path)


def test_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(CorruptError):
            open_artifact(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"files": 1}', "[" * 100_000, "\0", "{" * 1000])
def test_strange_manifests(tmp_path: Path, text: str) -> None:
    made = make(tmp_path / "a")
    (made.path / "manifest.json").write_text(text)
    with pytest.raises(CorruptError, match="manifest cannot be read"):
        open_artifact(made.path)


@pytest.mark.parametrize(
    "name", ["../outside.json", "/etc/hostname", "sub/../../outside.json", ".", "..", "sub/inside.json"]
)
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    made = make(tmp_path / "a")
    (tmp_path / "outside.json").write_text("{}")
    (made.path / "sub").mkdir()
    (made.path / "sub" / "inside.json").write_text("{}")
    target = made.path / name
    digest = sha256_file(target) if target.is_file() else "0" * 64
    seal(made.path, files={**made.files, name: digest})
    with pytest.raises(CorruptError, match="is not the file that was written"):
        open_artifact(made.path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_manifest_cannot_leave_a_file_out(tmp_path: Path, name: str) -> None:
    """Otherwise an unverified file would be read."""
    made = make(tmp_path / "a")
    seal(made.path, files={key: value for key, value in made.files.items() if key != name})
    with pytest.raises(CorruptError, match=f"does not list {name}"):
        open_artifact(made.path)


def test_symbolic_links_are_refused(made: Artifact, tmp_path: Path) -> None:
    """Same bytes, but what the link points to may change at any time."""
    shutil.move(made.path / "tokenizer.json", tmp_path / "elsewhere.json")
    (made.path / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CorruptError, match=r"tokenizer\.json is not the file"):
        open_artifact(made.path)


def header(description: Any, length: int | None = None) -> bytes:
    body = description if isinstance(description, bytes) else canonical_json(description)
    return struct.pack("<Q", len(body) if length is None else length) + body


F32 = {"dtype": "F32", "shape": [37, 16], "data_offsets": [0, 2368]}
BOMBS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no length": lambda: b"\1\2\3",
    "length beyond the file": lambda: header({}, 2**20),
    "length of 8 EiB": lambda: header({}, 2**63 - 1),
    "length overflow": lambda: header({}, 2**64 - 1),
    "not JSON": lambda: header(b"\x80\x81"),
    "deep nesting": lambda: header(b"[" * 50_000),
    "offsets beyond the file": lambda: header({"embedding.weight": {**F32, "data_offsets": [0, 2**40]}}),
    "negative offset": lambda: header({"embedding.weight": {**F32, "data_offsets": [-8, 2360]}}),
    "shape overflow": lambda: header({"embedding.weight": {**F32, "shape": [2**62, 2**62]}}) + bytes(2368),
    "overlap": lambda: header({"embedding.weight": F32, "norm.weight": F32}) + bytes(2368),
    "hole": lambda: header({"embedding.weight": {**F32, "data_offsets": [8, 2376]}}) + bytes(2376),
    "unknown type": lambda: header({"embedding.weight": {**F32, "dtype": "OBJECT"}}) + bytes(2368),
    "one tensor only": lambda: header({"embedding.weight": F32}) + bytes(2368),
    "another shape": lambda: header({"embedding.weight": {**F32, "shape": [16, 37]}}) + bytes(2368),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_header_bombs(bomb: str, tmp_path: Path) -> None:
    """Sealed with the right sums, so that only the reader of the weights stands in the way."""
    made = make(tmp_path / "a")
    (made.path / "model.safetensors").write_bytes(BOMBS[bomb]())
    seal(made.path)
    opened = open_artifact(made.path)
    with pytest.raises(CorruptError):
        opened.load_model()


MISFITS = {
    "unknown model": {"name": "nonsense"},
    "unknown weights": {"weights": "pickle"},
    "other weights": {"weights": "nf4"},
    "no config": {"config": 3},
    "empty config": {"config": {}},
    "extra field": {"config": {"vocab_size": 37, "extra": 1}},
    "wider": {"config": {**SMALL.__dict__, "d_model": 32}},
    "fewer layers": {"config": {**SMALL.__dict__, "n_layers": 1}},
    "more layers": {"config": {**SMALL.__dict__, "n_layers": 3}},
    "no heads": {"config": {**SMALL.__dict__, "n_heads": 0}},
    "unknown norm": {"config": {**SMALL.__dict__, "norm": "none"}},
    "text for a number": {"config": {**SMALL.__dict__, "d_ff": "32"}},
    "too large for any machine": {"config": {**SMALL.__dict__, "d_ff": 2**50}},
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_a_sealed_config_that_does_not_fit(tmp_path: Path, change: dict[str, Any]) -> None:
    made = make(tmp_path / "a")
    described = json.loads((made.path / "config.json").read_bytes())
    write_json_atomic(made.path / "config.json", {**described, **change})
    seal(made.path)
    with pytest.raises(CorruptError):
        open_artifact(made.path).load_model()


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("yaml", "unsafe_load")}


def offences(source: str) -> list[str]:
    """What a file does that can run foreign bytes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES:
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else [node.arg]
    return found


def test_nothing_in_the_package_runs_foreign_bytes() -> None:
    package = Path(oliveira.__file__).parent
    files = list(package.rglob("*.py"))
    assert len(files) > 20
    bad = {str(path.relative_to(package)): found for path in files if (found := offences(path.read_text()))}
    assert not bad


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(p)",
        "eval('1')",
        "yaml.load(t)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert offences(source)
