"""ONNX: one file for prefill and decoding, refused unless it computes what the model computes."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from oliveira.compression.model import quantise_model
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.export.onnx import OnnxGenerator, _quiet, export_onnx, verify_onnx
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.nn.attention import ConcatCache, KeyValueCache

SMALL = GPTConfig(vocab_size=37, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32, max_len=24)
GPT2_FORM = GPTConfig(
    vocab_size=37, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32, max_len=24,
    norm="layernorm", feed_forward="gelu", positions="learned", bias=True, tied=False,
)  # fmt: skip
PROMPTS = [[1, 2, 3], [5], [7, 30, 2, 2, 9, 11, 4, 36]]


def confident(config: GPTConfig, seed: int = 0) -> GPT:
    """Random weights that are large enough for the most likely token to depend on the text."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT, Path]:
    model = confident(SMALL)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path)
    return model, path


@pytest.mark.slow
def test_equals_torch_with_a_full_cache_and_without(exported: tuple[GPT, Path]) -> None:
    model, path = exported
    figures = verify_onnx(model, path, PROMPTS, new_tokens=16, max_logit_error=1e-3)
    assert figures["prompts"] == figures["texts_equal"] == 3
    assert 0 < figures["max_logit_error"] < 1e-4


def test_greedy_is_the_text_of_the_model(exported: tuple[GPT, Path]) -> None:
    model, path = exported
    tokens = torch.tensor([PROMPTS[2]])
    cache, fed = ConcatCache(), tokens
    made: list[int] = []
    with torch.inference_mode():
        for _ in range(12):
            fed = model(fed, cache=cache)[:, -1:].argmax(dim=-1)
            made.append(int(fed))
    assert OnnxGenerator(path, threads=1).greedy(PROMPTS[2], 12) == made
    assert len(set(made)) > 2  # a text that says something


def test_axes_are_free_and_named(exported: tuple[GPT, Path]) -> None:
    model, path = exported
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = {node.name: node.shape for node in session.get_inputs()}
    assert inputs["tokens"] == ["batch", "new"] and inputs["past_key_1"] == ["batch", 1, "past", 8]
    tokens = torch.randint(37, (3, 11))
    cache = ConcatCache()
    with torch.inference_mode():
        model(tokens[:, :4], cache=cache)
        flat = [tensor.numpy() for pair in cache.past for tensor in pair]
        expected = model(tokens)[:, 4:]
    logits, *present = session.run(None, dict(zip(inputs, [tokens[:, 4:].numpy(), *flat], strict=True)))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-4)
    assert all(tensor.shape == (3, 1, 11, 8) for tensor in present)


def test_the_file_stands_alone(exported: tuple[GPT, Path]) -> None:
    _, path = exported
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert b".py" not in path.read_bytes()  # no stack traces, no paths of this machine
    assert path.stat().st_size < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nf4", "int8", "gpt2"])
def test_other_forms(form: str, tmp_path: Path) -> None:
    model = confident(GPT2_FORM if form == "gpt2" else dataclasses.replace(SMALL, n_layers=1))
    if form != "gpt2":
        quantise_model(model, form)
    model.train()
    export_onnx(model, tmp_path / "model.onnx")
    verify_onnx(model, tmp_path / "model.onnx", PROMPTS, new_tokens=8, max_logit_error=1e-3)
    assert model.training  # left as it was


def test_wrong_weights_are_refused(exported: tuple[GPT, Path]) -> None:
    model, path = exported
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[1].feed_forward.down.weight.add_(0.01)
    with pytest.raises(OliveiraError, match=r"logits differ by .* export\.max_logit_error = 0\.001"):
        verify_onnx(other, path, PROMPTS, new_tokens=8, max_logit_error=1e-3)
    with torch.no_grad():
        other.norm.weight[0] = float("nan")
    with pytest.raises(OliveiraError, match="logits differ by nan"):
        verify_onnx(other, path, PROMPTS, new_tokens=8, max_logit_error=1e9)


def test_another_text_is_refused_however_wide_the_bound(exported: tuple[GPT, Path]) -> None:
    _, path = exported
    with pytest.raises(OliveiraError, match="greedy text of prompt 0 differs"):
        verify_onnx(confident(SMALL, seed=1), path, PROMPTS, new_tokens=8, max_logit_error=1e9)


@pytest.mark.parametrize("prompts", [[], [[]], [[1] * 17]])
def test_prompts_must_fit(exported: tuple[GPT, Path], prompts: list[list[int]]) -> None:
    model, path = exported
    with pytest.raises(UserError, match="1 to 16 tokens"):
        verify_onnx(model, path, prompts, new_tokens=8, max_logit_error=1e-3)


def test_damaged_file_is_refused(exported: tuple[GPT, Path], tmp_path: Path) -> None:
    _, path = exported
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CorruptError, match=r"damaged\.onnx"):
        OnnxGenerator(damaged)


class Unexportable(nn.Module):
    config = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        while self.scale > 0.5:  # a loop that depends on data: the probe of the catalogue
            self.scale.data /= 2
        return tokens[..., None] * self.scale


def test_a_model_that_cannot_be_exported_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(OliveiraError, match="Unexportable cannot be exported"):
        export_onnx(Unexportable(), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_only_known_chatter_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with _quiet():
            warnings.warn("# The axis name: batch will not be used", UserWarning, stacklevel=1)
            warnings.warn("something new", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["something new"]
