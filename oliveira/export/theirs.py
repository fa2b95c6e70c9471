"""A `GPT` under the names of transformers: the class that computes the same, its config, its tensors.

    theirs = under_their_names(model)       refuses, in one sentence, what no class of transformers computes

The inverse of `oliveira.convert`: what is read there under one name is written here under it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oliveira.compression.model import dequantise_model
from oliveira.errors import UserError
from oliveira.models.gpt import GPT, GPTConfig


class Theirs(NamedTuple):
    kind: str  # class of transformers
    config: dict[str, Any]  # of its config.json
    tensors: dict[str, Tensor]  # fp32
    layers: dict[str, str]  # our linear layer → theirs, for adapters


class _Form(NamedTuple):
    """One class of transformers. `needs`: fields of our config and what they are; `may`: fields that it writes down."""

    kind: str
    model_type: str
    needs: dict[str, Any]
    may: tuple[str, ...]
    config: Callable[[GPTConfig], dict[str, Any]]
    tensors: Callable[[Any], Iterator[tuple[str, Tensor]]]
    layers: dict[str, str]  # of one block; an empty name: no layer of its own there


# Every form says these; what is left of the config must stand in its `needs` or its `may`.
_SIZES = {"vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "max_len", "norm_eps", "tied", "dropout"}
_LLAMA_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
_GPT2_BLOCK = {
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


def under_their_names(model: GPT) -> Theirs:
    """Of a model with plain or quantised weights, which stay as they are. Raises `UserError`."""
    config = model.config
    form = _form(config)
    plain = dequantise_model(copy.deepcopy(model))
    said = {
        "architectures": [form.kind],
        "model_type": form.model_type,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        **form.config(config),
    }
    layers = {
        f"blocks.{i}.{ours}": f"{_STEMS[form.kind]}{i}.{theirs}"
        for i in range(config.n_layers)
        for ours, theirs in form.layers.items()
    }
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in form.tensors(plain)}
    return Theirs(form.kind, said, tensors, layers)


def _form(config: GPTConfig) -> _Form:
    set_ = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in _SIZES and field.default is not MISSING
    }
    defaults = {field.name: field.default for field in fields(config)}
    for form in FORMS:
        rest = {name: value for name, value in set_.items() if name not in form.needs and name not in form.may}
        fits = all(set_[name] == value for name, value in form.needs.items())
        grouped = form.kind == "GPT2LMHeadModel" and config.n_kv_heads != config.n_heads
        if fits and not grouped and all(value == defaults[name] for name, value in rest.items()):
            return form
    told = ", ".join(f"{name} = {value!r}" for name, value in set_.items() if value != defaults[name]) or "its config"
    raise UserError(f"no class of transformers computes this model ({told}). Serve it here, or export it as ONNX.")


def _llama(config: GPTConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_model // config.n_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "attention_bias": config.bias,
        "mlp_bias": False,
    }


def _llama_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    state = model.blocks.state_dict()
    for i in range(model.config.n_layers):
        for ours, theirs in _LLAMA_BLOCK.items():
            for part in ("weight", "bias"):
                if (tensor := state.get(f"{i}.{ours}.{part}")) is not None:
                    yield f"model.layers.{i}.{theirs}.{part}", tensor
    if not model.config.tied:
        yield "lm_head.weight", model.head.weight


def _gpt2(config: GPTConfig) -> dict[str, Any]:
    return {
        "n_embd": config.d_model,
        "n_inner": config.d_ff,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.max_len,
        "activation_function": "gelu_new" if config.feed_forward == "gelu" else "relu",
        "layer_norm_epsilon": config.norm_eps,
    }


def _gpt2_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Conv1D keeps (in, out) where a linear layer keeps (out, in); queries, keys and values are one of them."""
    yield "transformer.wte.weight", model.embedding.weight
    yield "transformer.wpe.weight", model.positions.table.weight
    yield "transformer.ln_f.weight", model.norm.weight
    yield "transformer.ln_f.bias", model.norm.bias
    state = model.blocks.state_dict()
    for i in range(model.config.n_layers):
        stem = f"transformer.h.{i}."
        for part in ("weight", "bias"):
            three = [state[f"{i}.attention.{name}.{part}"] for name in ("query", "key", "value")]
            stacked = torch.cat(three)
            yield f"{stem}attn.c_attn.{part}", stacked.T if part == "weight" else stacked
            for ours, theirs in _GPT2_BLOCK.items():
                tensor = state[f"{i}.{ours}.{part}"]
                yield f"{stem}{theirs}.{part}", tensor.T if tensor.ndim == 2 else tensor
    if not model.config.tied:
        yield "lm_head.weight", model.head.weight


_STEMS = {"GPT2LMHeadModel": "transformer.h.", "LlamaForCausalLM": "model.layers."}
FORMS = (
    _Form(
        "LlamaForCausalLM",
        "llama",
        {"norm": "rmsnorm", "feed_forward": "swiglu", "positions": "rope"},
        ("n_kv_heads", "rope_base", "bias"),
        _llama,
        _llama_tensors,
        _LLAMA_BLOCK,
    ),
    *(
        _Form(
            "GPT2LMHeadModel",
            "gpt2",
            {"norm": "layernorm", "feed_forward": activation, "positions": "learned", "bias": True},
            ("n_kv_heads",),
            _gpt2,
            _gpt2_tensors,
            _GPT2_BLOCK,
        )
        for activation in ("gelu", "relu")
    ),
)
