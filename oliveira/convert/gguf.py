"""A Llama-style GGUF file, the format of llama.cpp, as a `GPT` and its tokenizer.

Every tensor is de-quantised to float32. Queries and keys are turned back: llama.cpp rotates neighbours (x₀, x₁), we
rotate halves (x₀, x_{K/2}) as Llama itself does, so its converter interleaves the two halves of each head's rows:

    row r of half h in a head stands at 2 r + h in the file

Covered: architecture llama, RoPE without scaling. Its tokenizer: `oliveira.convert.gguf_tokenizer`.
Checked against: transformers LlamaForCausalLM with the same de-quantised weights, 64 greedy tokens equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

from oliveira.convert import gguf_tokenizer
from oliveira.convert.base import Converted, explained
from oliveira.data.brought_tokenizer import BroughtTokenizer
from oliveira.errors import CorruptError, UserError
from oliveira.models.gpt import GPT, GPTConfig

_BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.output",
    "ffn_norm": "feed_forward_norm",
    "ffn_gate": "feed_forward.gate",
    "ffn_up": "feed_forward.up",
    "ffn_down": "feed_forward.down",
}
_LONGEST = 2**24  # tokens of context: a larger number is no size but a broken file


class About(NamedTuple):
    form: str  # architecture, by llama.cpp's name
    chat_template: str | None
    licence: str  # "" = the file says none


class FromGGUF(NamedTuple):
    model: GPT  # in `eval` mode
    tokenizer: BroughtTokenizer
    about: About


class Fields:
    """The settings of a file. What is asked for is noted; `close` refuses what nobody asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.read = values, set[str]()

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        self.read.add(name)
        value = self.values.get(name, default)
        if value is None:
            raise UserError(f"this GGUF file has no {name}. Give one of a plain Llama with its tokenizer.")
        if not isinstance(value, kind) or (isinstance(value, (int, float)) and not 0 < value < 2**48):
            raise UserError(f"{name} = {str(value)[:40]!r} of this GGUF file is not covered. Give a plain Llama.")
        return value

    def need(self, name: str, *allowed: Any) -> None:
        self.read.add(name)
        value = self.values.get(name)
        if value not in allowed:
            covered = " or ".join(repr(a) for a in allowed if a is not None)
            raise UserError(f"{name} = {value!r} of this GGUF file is not covered. Only {covered} can be read.")

    def close(self, prefix: str) -> None:
        if left := [name for name in self.values if name.startswith(prefix) and name not in self.read]:
            raise UserError(
                f"{left[0]} = {self.values[left[0]]!r} of this GGUF file is not read here, and might matter."
            )


def read_gguf(path: Path) -> FromGGUF:
    """Raises `UserError` for what `GPT` does not compute, `CorruptError` when the file is not a GGUF file."""
    if not path.is_file():
        raise UserError(f"{path.name} is no file. Give the path of a GGUF file.")
    try:
        reader = GGUFReader(path)
        fields = Fields({name: field.contents() for name, field in reader.fields.items()})
    except Exception as error:  # the reader slices bytes by numbers that it has just read
        raise CorruptError(f"{path.name} is not a GGUF file that can be read: {error}") from None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    with explained(path.name, "GPT"):
        config = _config(fields, tied="output.weight" not in tensors)
        state = _state(config, tensors)
        if tensors:
            raise UserError(f"{path.name} has weights that GPT does not know: {', '.join(sorted(tensors)[:3])}.")
        tokenizer = gguf_tokenizer.read(fields, config["vocab_size"])
    # There is no llama.cpp here to run beside it: `trial` is none.
    converted = Converted(config=config, state=state, trial=None, kind=path.name, wanted="GPT")
    return FromGGUF(converted.build(GPT, GPTConfig), tokenizer, _about(fields))


def _about(fields: Fields) -> About:
    texts = {name: fields.values.get(name) for name in ("tokenizer.chat_template", "general.license")}
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise UserError(f"{name} of this GGUF file is no text. Give a file whose {name} is one, or has none.")
    template, licence = texts.values()
    return About(fields.get("general.architecture", str), template, licence or "")


def _config(fields: Fields, *, tied: bool) -> dict[str, Any]:
    fields.need("general.architecture", "llama")
    fields.need("llama.rope.scaling.type", "none", None)
    fields.need("llama.rope.scaling.factor", 1.0, 0.0, None)
    fields.need("llama.expert_count", 0, None)
    fields.need("llama.expert_used_count", 0, None)
    fields.need("llama.attention.causal", True, None)
    d_model, n_heads = (fields.get(f"llama.{name}", int) for name in ("embedding_length", "attention.head_count"))
    if d_model % n_heads:
        raise UserError(f"llama.attention.head_count = {n_heads} does not divide llama.embedding_length = {d_model}.")
    for name in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
        fields.need(name, d_model // n_heads, None)
    tokens = fields.get("tokenizer.ggml.tokens", list)
    max_len = fields.get("llama.context_length", int)
    if max_len > _LONGEST:
        raise UserError(f"llama.context_length = {max_len} of this GGUF file is no length. At most {_LONGEST} can be.")
    config = {
        "vocab_size": fields.get("llama.vocab_size", int, len(tokens)),
        "d_model": d_model,
        "n_layers": fields.get("llama.block_count", int),
        "n_heads": n_heads,
        "n_kv_heads": fields.get("llama.attention.head_count_kv", int, n_heads),
        "d_ff": fields.get("llama.feed_forward_length", int),
        "max_len": max_len,
        "norm_eps": fields.get("llama.attention.layer_norm_rms_epsilon", float),
        "rope_base": fields.get("llama.rope.freq_base", (int, float), 10_000.0),
        "tied": tied,
    }
    fields.close("llama.")
    return config


def _state(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Takes the tensors that it reads out of `tensors`."""
    d_model, d_ff, n_heads, n_kv_heads = (config[name] for name in ("d_model", "d_ff", "n_heads", "n_kv_heads"))
    rows = {"attn_k": n_kv_heads, "attn_v": n_kv_heads}

    def take(name: str, *shape: int) -> Tensor:
        tensor = tensors.pop(f"{name}.weight", None)
        if tensor is None:
            raise UserError(f"this GGUF file has no {name}.weight. Give one of a plain Llama.")
        if tuple(reversed(tensor.shape.tolist())) != shape:
            found = tuple(reversed(tensor.shape.tolist()))
            raise UserError(f"{name}.weight of this GGUF file has the shape {found}, its sizes say {shape}.")
        try:
            values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except NotImplementedError:
            raise UserError(
                f"{name}.weight of this GGUF file is of the type {tensor.tensor_type.name}, which the package gguf "
                "cannot read. Give one in Q4_1, Q8_0 or F16."
            ) from None
        return torch.from_numpy(values if values.flags.writeable else values.copy())

    state = {
        "embedding.weight": take("token_embd", config["vocab_size"], d_model),
        "norm.weight": take("output_norm", d_model),
    }
    for i in range(config["n_layers"]):
        for name, ours in _BLOCK.items():
            wide = d_ff if name in ("ffn_gate", "ffn_up") else d_model // n_heads * rows.get(name, n_heads)
            shape = (d_model,) if name.endswith("norm") else (wide, d_ff if name == "ffn_down" else d_model)
            weight = take(f"blk.{i}.{name}", *shape)
            if name in ("attn_q", "attn_k"):
                weight = _halves(weight, rows.get(name, n_heads))
            state[f"blocks.{i}.{ours}.weight"] = weight
    head = state["embedding.weight"] if config["tied"] else take("output", config["vocab_size"], d_model)
    return {**state, "head.weight": head}


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (H · K/2 · 2) → (H · 2 · K/2): from neighbours to halves."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
