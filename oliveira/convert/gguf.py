"""A GGUF file, the format of llama.cpp, as a `GPT` and its tokenizer.

Every tensor is de-quantised to float32. In the architecture llama, queries and keys are turned back: llama.cpp rotates
neighbours (x₀, x₁) there, we rotate halves (x₀, x_{K/2}) as Llama itself does, so its converter interleaves the two
halves of each head's rows:

    row r of half h in a head stands at 2 r + h in the file

Covered: the architectures llama, qwen2, qwen3, gemma2 and gemma3, with RoPE plain or scaled (linear, yarn, llama3's
factors). Its tokenizer: `oliveira.convert.gguf_tokenizer`. The types of its tensors: `oliveira.convert.gguf_file`.
Checked against: transformers' models with the same de-quantised weights, 64 greedy tokens equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from oliveira.convert import gguf_tokenizer
from oliveira.convert.base import Converted, explained
from oliveira.convert.gguf_file import Packed, open_gguf
from oliveira.convert.gguf_forms import FORMS, Fields, config_of
from oliveira.data.brought_tokenizer import BroughtTokenizer
from oliveira.errors import UserError
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
_HEAD_NORMS = {"attn_q_norm": "attention.query_norm", "attn_k_norm": "attention.key_norm"}
_POST_NORMS = {"post_attention_norm": "attention_post_norm", "post_ffw_norm": "feed_forward_post_norm"}
_BIASED = ("attn_q", "attn_k", "attn_v")


class About(NamedTuple):
    form: str  # architecture, by llama.cpp's name
    chat_template: str | None
    licence: str  # "" = the file says none


class FromGGUF(NamedTuple):
    model: GPT  # in `eval` mode
    tokenizer: BroughtTokenizer
    about: About


def read_gguf(path: Path) -> FromGGUF:
    """Raises `UserError` for what `GPT` does not compute, `CorruptError` when the file is not a GGUF file."""
    if not path.is_file():
        raise UserError(f"{path.name} is no file. Give the path of a GGUF file.")
    values, tensors = open_gguf(path)
    fields = Fields(values)
    with explained(path.name, "GPT"):
        factors = tensors.pop("rope_freqs.weight", None)
        tied = "output.weight" not in tensors
        config = config_of(fields, tied=tied, factors=None if factors is None else factors.unpack())
        state = _state(config, tensors, fields.values["general.architecture"])
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


def _state(config: dict[str, Any], tensors: dict[str, Packed], architecture: str) -> dict[str, Tensor]:
    """Takes the tensors that it reads out of `tensors`."""
    d_model, d_ff, n_heads, n_kv_heads = (config[name] for name in ("d_model", "d_ff", "n_heads", "n_kv_heads"))
    d_head = config.get("d_head") or d_model // n_heads
    heads = {"attn_k": n_kv_heads, "attn_v": n_kv_heads}
    form = FORMS[architecture]

    def take(name: str, *shape: int) -> Tensor:
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise UserError(f"this GGUF file has no {name}. Give one of a whole {architecture}.")
        if tensor.shape != shape:
            raise UserError(f"{name} of this GGUF file has the shape {tensor.shape}, its sizes say {shape}.")
        return tensor.unpack()

    state = {
        "embedding.weight": take("token_embd.weight", config["vocab_size"], d_model),
        "norm.weight": take("output_norm.weight", d_model),
    }
    names = {**_BLOCK, **(_HEAD_NORMS if form.qk_norm else {}), **(_POST_NORMS if form.post_norms else {})}
    for i in range(config["n_layers"]):
        for name, ours in names.items():
            wide = d_ff if name in ("ffn_gate", "ffn_up") else d_head * heads.get(name, n_heads)
            shape: tuple[int, ...] = (wide, d_model)
            if name.endswith("norm"):
                shape = (d_head if name in _HEAD_NORMS else d_model,)
            elif name in ("ffn_down", "attn_output"):
                shape = (d_model, d_ff if name == "ffn_down" else wide)
            weight = take(f"blk.{i}.{name}.weight", *shape)
            if form.neighbours and name in ("attn_q", "attn_k"):
                weight = _halves(weight, heads.get(name, n_heads))
            state[f"blocks.{i}.{ours}.weight"] = weight
            if form.qkv_bias and name in _BIASED:
                state[f"blocks.{i}.{ours}.bias"] = take(f"blk.{i}.{name}.bias", wide)
    head = state["embedding.weight"] if config["tied"] else take("output.weight", config["vocab_size"], d_model)
    return {**state, "head.weight": head}


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (H · K/2 · 2) → (H · 2 · K/2): from neighbours to halves."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
