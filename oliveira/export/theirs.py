"""A `GPT` under the names of transformers: the class that computes the same, its config, its tensors.

    theirs = under_their_names(model)       refuses, in one sentence, what no class of transformers computes

The inverse of `oliveira.convert`: what is read there under one name is written here under it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import partial
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
_QWEN3_BLOCK = {
    **_LLAMA_BLOCK,
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
_GEMMA_BLOCK = {
    **_QWEN3_BLOCK,
    "attention_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}
_GPT2_BLOCK = {
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


_STEM = {"GPT2LMHeadModel": "transformer.h."}


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
        "pad_token_id": None,
        **form.config(config),
    }
    layers = {
        f"blocks.{i}.{ours}": f"{_STEM.get(form.kind, 'model.layers.')}{i}.{theirs}"
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
        if fits and _possible(form.kind, config) and all(value == defaults[name] for name, value in rest.items()):
            return form
    told = ", ".join(f"{name} = {value!r}" for name, value in set_.items() if value != defaults[name]) or "its config"
    raise UserError(f"no class of transformers computes this model ({told}). Serve it here, or export it as ONNX.")


def _possible(kind: str, config: GPTConfig) -> bool:
    """What a class takes for granted beyond single fields."""
    match kind:
        case "GPT2LMHeadModel":
            return config.n_kv_heads == config.n_heads
        case "Qwen2ForCausalLM" | "SmolLM3ForCausalLM":
            return config.head_width * config.n_heads == config.d_model
        case "Gemma2ForCausalLM" | "Gemma3ForCausalLM":
            # rounded there to the weights' dtype, here not at all
            scalar = (config.attention_scale or config.head_width**-0.5) ** -2  # a whole number there
            return abs(config.embedding_scale / config.d_model**0.5 - 1) < 1e-6 and abs(scalar - round(scalar)) < 1e-6
        case _:
            return True


def _llama(config: GPTConfig) -> dict[str, Any]:
    said: dict[str, Any] = {
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "attention_bias": config.bias,
        "mlp_bias": False,
    }
    if config.rope_scaling is not None:
        scaling = dict(config.rope_scaling)
        said["rope_scaling"] = {"rope_type": scaling.pop("type"), **scaling}
    return said


def _mistral(config: GPTConfig) -> dict[str, Any]:
    return {**_llama(config), "sliding_window": config.window}


def _qwen2(config: GPTConfig) -> dict[str, Any]:
    said = _llama(config)
    return {name: said[name] for name in said if name not in ("head_dim", "attention_bias", "mlp_bias")}


def _smollm3(config: GPTConfig) -> dict[str, Any]:
    turning = [int(config.turns(layer)) for layer in range(config.n_layers)]
    return {**_llama(config), "no_rope_layers": turning, "no_rope_layer_interval": config.no_rope_every}


def _gemma(config: GPTConfig) -> dict[str, Any]:
    """Of Gemma 2 and 3: `query_pre_attn_scalar` is 1 / scale²."""
    scale = config.attention_scale or config.head_width**-0.5
    kinds = ["sliding_attention" if config.window_of(layer) else "full_attention" for layer in range(config.n_layers)]
    said = _llama(config)
    return {
        **{name: said[name] for name in said if name not in ("hidden_act", "mlp_bias")},
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(scale**-2),
        "sliding_window": config.window or 4096,
        "layer_types": kinds,
    }


def _gemma2(config: GPTConfig) -> dict[str, Any]:
    caps = {"attn_logit_softcapping": config.attention_cap, "final_logit_softcapping": config.logit_cap}
    return {**_gemma(config), **{name: cap or None for name, cap in caps.items()}}


def _gemma3(config: GPTConfig) -> dict[str, Any]:
    return {**_gemma(config), "rope_local_base_freq": config.rope_base_local or config.rope_base}


def _llama_tensors(model: Any, block: Mapping[str, str] = _LLAMA_BLOCK) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    state = model.blocks.state_dict()
    for i in range(model.config.n_layers):
        for ours, theirs in block.items():
            for part in ("weight", "bias"):
                if (tensor := state.get(f"{i}.{ours}.{part}")) is not None:
                    yield f"model.layers.{i}.{theirs}.{part}", tensor
    if not model.config.tied:
        yield "lm_head.weight", model.head.weight


def _gemma_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Its norms keep w where what counts is 1 + w."""
    for name, tensor in _llama_tensors(model, _GEMMA_BLOCK):
        yield name, tensor - 1 if "norm" in name else tensor


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


_ROPE = {"norm": "rmsnorm", "feed_forward": "swiglu", "positions": "rope"}
_SHARED = ("n_kv_heads", "rope_base", "rope_scaling")
_GEMMA = {**_ROPE, "feed_forward": "geglu", "post_norms": True}
_OF_GEMMA = ("n_kv_heads", "rope_base", "d_head", "bias", "window", "full_every", "embedding_scale", "attention_scale")
_WITH_NORMS = partial(_llama_tensors, block=_QWEN3_BLOCK)
FORMS = (
    _Form("LlamaForCausalLM", "llama", _ROPE, (*_SHARED, "d_head", "bias"), _llama, _llama_tensors, _LLAMA_BLOCK),
    _Form(
        "MistralForCausalLM", "mistral", _ROPE, (*_SHARED, "d_head", "window"), _mistral, _llama_tensors, _LLAMA_BLOCK
    ),
    _Form("Qwen2ForCausalLM", "qwen2", {**_ROPE, "qkv_bias": True}, _SHARED, _qwen2, _llama_tensors, _LLAMA_BLOCK),
    _Form(
        "Qwen3ForCausalLM",
        "qwen3",
        {**_ROPE, "qk_norm": True},
        (*_SHARED, "d_head", "bias"),
        _llama,
        _WITH_NORMS,
        _QWEN3_BLOCK,
    ),
    _Form(
        "SmolLM3ForCausalLM",
        "smollm3",
        _ROPE,
        (*_SHARED, "bias", "no_rope_every"),
        _smollm3,
        _llama_tensors,
        _LLAMA_BLOCK,
    ),
    _Form(
        "Gemma2ForCausalLM",
        "gemma2",
        _GEMMA,
        (*_OF_GEMMA, "attention_cap", "logit_cap"),
        _gemma2,
        _gemma_tensors,
        _GEMMA_BLOCK,
    ),
    _Form(
        "Gemma3ForCausalLM",
        "gemma3_text",
        {**_GEMMA, "qk_norm": True},
        (*_OF_GEMMA, "rope_base_local"),
        _gemma3,
        _gemma_tensors,
        _GEMMA_BLOCK,
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
