"""Folders as transformers' save_pretrained writes them: the same logits, tokens and stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from oliveira.convert.folder import read_folder
from oliveira.convert.gpt import MODEL_TYPES
from oliveira.convert.hub import bring_in
from oliveira.errors import CorruptError, UserError
from oliveira.files import sha256_file
from tests.tiny_templates import TEMPLATES
from tests.tiny_tokenizers import NAMED, make

pytestmark = pytest.mark.float32  # as stored
V = 761
SIZES = dict(
    vocab_size=V, hidden_size=30, intermediate_size=37, num_hidden_layers=3, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("Llama", SIZES, "llama3"),
    "llama-tied": ("Llama", {**SIZES, "tie_word_embeddings": True}, "llama2"),
    "gpt2": ("GPT2", dict(vocab_size=V, n_embd=30, n_layer=2, n_head=3, n_positions=64, eos_token_id=2), "gpt2"),
    "mistral": ("Mistral", {**SIZES, "sliding_window": 9}, "llama2"),
    "qwen2": ("Qwen2", SIZES, "qwen2"),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 14, "tie_word_embeddings": True}, "qwen2"),
    "smollm3": ("SmolLM3", {**SIZES, "num_hidden_layers": 4}, "llama3"),
    "phi3": ("Phi3", {**SIZES, "num_key_value_heads": 3}, "llama2"),
    "gemma2": ("Gemma2", {**SIZES, "head_dim": 14, "sliding_window": 9, "query_pre_attn_scalar": 11}, "gemma"),
    "gemma3_text": ("Gemma3", {**SIZES, "num_hidden_layers": 7, "head_dim": 14, "sliding_window": 9}, "gemma"),
    "gpt_neox": ("GPTNeoX", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, "gpt2"),
}


def save(folder: Path, form: str, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Any:
    """Returns the module, with the weights that were written."""
    family, options, kind = FORMS[form]
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(**options)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(0)
    module = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text(json.dumps(make(kind)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMED[kind]), encoding="utf-8")
    return type(module).from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_what_was_saved(form: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, form)
    ours = bring_in(tmp_path)
    tokens = torch.randint(1, V, (2, 23))
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
    assert ours.source["form"] == json.loads((tmp_path / "config.json").read_bytes())["model_type"]
    assert {2} <= set(ours.tokenizer.stops)


def test_every_form_is_here() -> None:
    assert set(MODEL_TYPES) <= set(FORMS)


@pytest.mark.parametrize("form", ["llama-tied", "gemma3_text", "gpt2"])
def test_stored_in_bfloat16_over_several_files(form: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, form, torch.bfloat16, "30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    tokens = torch.randint(1, V, (2, 23))
    with torch.inference_mode():
        torch.testing.assert_close(bring_in(tmp_path).model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_what_stands_beside_the_weights(tmp_path: Path) -> None:
    save(tmp_path, "qwen2")
    kind, template = TEMPLATES["chatml"]
    (tmp_path / "README.md").write_text("---\nlanguage: pt\nlicense: apache-2.0\n---\n# Olá\n", encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}', encoding="utf-8")
    brought = bring_in(tmp_path)
    assert brought.chat_template == template and brought.licence == "apache-2.0" and brought.name == "gpt"
    assert {2, 3, 4} <= set(brought.tokenizer.stops)
    theirs = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(make(kind))))
    assert brought.tokenizer.encode("Olá 🙂") == theirs("Olá 🙂", add_special_tokens=False).input_ids
    read = ("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
            "tokenizer.json", "tokenizer_config.json")  # fmt: skip
    expected = {name: sha256_file(tmp_path / name) for name in read}
    assert brought.source == {"kind": "hf", "form": "qwen2", "files": expected}
    (tmp_path / "chat_template.jinja").unlink()
    settings = {**NAMED["qwen2"], "chat_template": [{"name": "default", "template": template}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert bring_in(tmp_path).chat_template == template


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    found = json.loads(file.read_bytes()) if file.exists() else {}
    file.write_text(json.dumps({**found, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "mamba2"}, "mamba2.*llama"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}, "rope_parameters": None}, "longrope"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"what_nobody_knows": 3}, "what_nobody_knows"),
        ({"vocab_size": 10**9}, "shape"),
        ({"hidden_size": 2**40}, "shape|fit|cannot become"),
        ({"num_hidden_layers": 10**9}, "layers.3"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings"),
        ({"eos_token_id": 10**6}, "eos_token_id"),
        ({"num_attention_heads": 0}, "cannot become"),
    ],
)
def test_a_config_that_is_not_covered(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    save(tmp_path, "llama")
    change(tmp_path, "config.json", **changes)
    with pytest.raises(UserError, match=word):
        read_folder(tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    (tmp_path / "tokenizer.json").rename(tmp_path / "t")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        read_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "w")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
        read_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        read_folder(tmp_path)


def test_weights_that_say_otherwise(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    good = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for weights, error, word in (
        ({**good, name: good[name] * float("nan")}, CorruptError, "not finite"),
        ({**good, name: good[name].double()}, UserError, "float64"),
        ({**good, "more": torch.ones(2)}, UserError, "more"),
        ({key: value for key, value in good.items() if key != name}, UserError, "up_proj"),
        ({**good, name: torch.ones(3, 30)}, UserError, "shape"),
    ):
        save_file(weights, file)
        with pytest.raises(error, match=word):
            read_folder(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_what_config_json_leaves_out_is_transformers_default(form: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, form)
    whole = json.loads((tmp_path / "config.json").read_bytes())
    defaults = type(theirs.config)().to_dict()
    needed = {"model_type", "vocab_size", "layer_types", "no_rope_layers"}
    short = {name: value for name, value in whole.items() if name in needed or defaults.get(name, ...) != value}
    assert len(short) < len(whole) - 5
    expected = read_folder(tmp_path).model.config
    (tmp_path / "config.json").write_text(json.dumps(short), encoding="utf-8")
    assert read_folder(tmp_path).model.config == expected
