"""Every form of `GPT` beside transformers' model of it: random weights, odd sizes, prompts longer than any window."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from oliveira.convert import from_reference
from oliveira.convert.base import Reference
from oliveira.convert.gpt import MODEL_TYPES, READERS
from oliveira.errors import UserError
from oliveira.models.gpt import GPT
from oliveira.nn.attention import ConcatCache

V, PROMPT, NEW = 67, 23, 64
SIZES = dict(
    vocab_size=V, hidden_size=30, intermediate_size=37, num_hidden_layers=3, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)  # fmt: skip
NEOX = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
GEMMA = {**SIZES, "head_dim": 14, "sliding_window": 9, "query_pre_attn_scalar": 11}


def rope(kind: str, **numbers: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **numbers}}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0)
# Name → (what of transformers, its options).
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-gelu": ("GPT2", dict(
        vocab_size=V, n_embd=30, n_layer=3, n_head=3, n_positions=128, activation_function="gelu", eos_token_id=0,
    )),
    "llama": ("Llama", SIZES),
    "llama-wide-heads-bias": ("Llama", {**SIZES, "head_dim": 14, "attention_bias": True}),
    "llama-linear": ("Llama", {**SIZES, **rope("linear", factor=2.5)}),
    "llama-llama3-tied": ("Llama", {**SIZES, **LLAMA3, "head_dim": 14, "tie_word_embeddings": True}),
    "llama-yarn": ("Llama", {**SIZES, **YARN, "head_dim": 14}),
    "llama-yarn-mscale": ("Llama", {**SIZES, **rope(
        "yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=1.2, truncate=False,
    )}),
    "mistral": ("Mistral", {**SIZES, "sliding_window": 9}),
    "mistral-full-wide": ("Mistral", {**SIZES, "sliding_window": None, "head_dim": 6}),
    "qwen2": ("Qwen2", SIZES),
    "qwen2-windows": ("Qwen2", {
        **SIZES, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0, "tie_word_embeddings": True,
    }),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 14}),
    "qwen3-bias-yarn": ("Qwen3", {**SIZES, "head_dim": 14, "attention_bias": True, **YARN}),
    "smollm3": ("SmolLM3", {**SIZES, "num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    "smollm3-one-still": ("SmolLM3", {**SIZES, "no_rope_layers": [1, 1, 0], "attention_bias": True}),
    "phi3": ("Phi3", {**SIZES, "num_key_value_heads": 3}),
    "phi3-part-window": ("Phi3", {**SIZES, "sliding_window": 9, **rope("default", partial_rotary_factor=0.4)}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma2-caps": ("Gemma2", {
        **GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "attention_bias": True,
    }),
    "gemma3": ("Gemma3", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-linear-third": ("Gemma3", {
        **GEMMA, "layer_types": ["sliding_attention"] * 2 + ["full_attention"], "final_logit_softcapping": 4.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 5e4, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    }),
    "gpt-neox": ("GPTNeoX", {**NEOX, **rope("default", partial_rotary_factor=0.4)}),
    "gpt-neox-in-turn": ("GPTNeoX", {**NEOX, "use_parallel_residual": False, "hidden_act": "gelu_new", **rope(
        "default", partial_rotary_factor=0.6,
    )}),
}  # fmt: skip


def class_of(family: str) -> str:
    return "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"


def config_of(family: str, options: dict[str, Any]) -> Any:
    name = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    return getattr(transformers, name)(**json.loads(json.dumps(options)))


def reference(form: str) -> Any:
    """Every weight, norms and biases too, random, and so large that what is written does not repeat itself."""
    family, options = FORMS[form]
    gemma = family.startswith("Gemma")  # √d_model times its embedding: small norms behind would add nothing
    torch.manual_seed(3 if gemma else 1)
    module = getattr(transformers, class_of(family))(config_of(family, options)).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            ends, vectors = (0.05, 2.0) if gemma else (0.6, 0.1)
            size = ends if "embed" in name or "wte" in name else 0.8 if parameter.ndim > 1 else vectors
            parameter.add_(size * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_greedy_text(form: str) -> None:
    theirs = reference(form)
    ours = from_reference(GPT, theirs)
    assert ours.config.window < PROMPT
    prompt = torch.randint(1, V, (1, PROMPT))
    torch.testing.assert_close(ours(prompt), theirs(prompt).logits, atol=1e-4, rtol=1e-5)
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )[0, PROMPT:].tolist()
    cache, fed, made = ConcatCache(), prompt, []
    with torch.inference_mode():
        for _ in range(NEW):
            fed = ours(fed, cache=cache)[:, -1:].argmax(dim=-1)
            made.append(int(fed))
    assert made == expected
    assert len(set(made)) >= 16


@pytest.mark.parametrize("form", FORMS)
def test_the_same_from_its_files(form: str) -> None:
    """config.json as transformers writes it and the weights of a file, where a tied head stands once."""
    theirs = reference(form)
    expected = from_reference(GPT, theirs)
    written = json.loads(theirs.config.to_json_string())
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    if expected.config.tied:
        del weights["lm_head.weight"]
    kind = MODEL_TYPES[written["model_type"]]
    assert kind == class_of(FORMS[form][0])
    read = Reference.of_files(kind, weights, written)
    converted = READERS[kind](read)
    read.close()
    converted.trial, converted.kind, converted.wanted = None, kind, "GPT"
    made = converted.build(GPT, type(expected.config))
    assert made.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), expected.parameters(), strict=True))


OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-linear": ("llama-linear", {"rope_theta": 10_000.0, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    "gemma3-linear-third": ("gemma3-linear-third", {
        "rope_theta": 5e4, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }),
    "smollm3": ("smollm3", {"rope_theta": 2e6, "max_window_layers": 28, "transformers.js_config": {"dtype": "q4"}}),
    "gpt-neox": ("gpt-neox", {"rotary_emb_base": 10_000, "rotary_pct": 0.4}),
    "phi3-part-window": ("phi3-part-window", {
        "rope_theta": 10_000.0, "partial_rotary_factor": 0.4, "rope_scaling": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD)
def test_the_names_of_older_files(case: str) -> None:
    form, keys = OLD[case]
    theirs = reference(form)
    written = {key: value for key, value in theirs.config.to_dict().items() if key != "rope_parameters"} | keys
    kind = class_of(FORMS[form][0])
    read = Reference.of_files(kind, theirs.state_dict(), written)
    found = READERS[kind](read)
    read.close()
    assert type(from_reference(GPT, theirs).config)(**found.config) == from_reference(GPT, theirs).config


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic": ("Llama", {**SIZES, **rope("dynamic", factor=2.0)}, "rope_type = 'dynamic'"),
    "longrope": ("Phi3", {
        **SIZES, **rope("longrope", short_factor=[1.0] * 5, long_factor=[2.0] * 5, factor=2.0),
    }, "rope_type = 'longrope'"),
    "late windows": ("Qwen2", {**SIZES, "use_sliding_window": True, "max_window_layers": 1}, "layer_types"),
    "windows of some": ("SmolLM3", {
        **SIZES, "use_sliding_window": True, "sliding_window": 9, "no_rope_layer_interval": 2,
    }, "layer_types"),
    "still layers": ("SmolLM3", {**SIZES, "no_rope_layers": [0, 1, 1]}, "no_rope_layers"),
    "both ways": ("Gemma3", {**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "local scaling": ("Gemma3", {**GEMMA, "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    }}, "RoPE of layers with a window is scaled"),
    "erf": ("Gemma2", {**GEMMA, "hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
    "no biases": ("GPTNeoX", {**NEOX, "attention_bias": False}, "attention_bias"),
    "odd": ("GPTNeoX", {**NEOX, **rope("default", partial_rotary_factor=0.5)}, "turns 5 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_form_expresses_is_refused(case: str) -> None:
    family, options, sentence = REFUSED[case]
    module: nn.Module = getattr(transformers, class_of(family))(config_of(family, options))
    with pytest.raises(UserError, match=sentence):
        from_reference(GPT, module)
