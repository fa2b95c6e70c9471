"""A Llama-style GGUF file, the format of llama.cpp, as a `GPT` and its tokenizer.

Every tensor is de-quantised to float32. Queries and keys are turned back: llama.cpp rotates neighbours (x₀, x₁), we
rotate halves (x₀, x_{K/2}) as Llama itself does, so its converter interleaves the two halves of each head's rows:

    row r of half h in a head stands at 2 r + h in the file

Covered: architecture llama, RoPE without scaling, byte-level BPE ("gpt2") with the pre-tokenizers gpt-2 and smollm.
Needs: pip install "oliveira[weights]".
Checked against: transformers LlamaForCausalLM with the same de-quantised weights, 64 greedy tokens equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

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
_CONTROL = 3  # token type of what text never spells


class FromGGUF(NamedTuple):
    model: GPT  # in `eval` mode
    tokenizer: Tokenizer  # of `tokenizers`; its special tokens are matched in text


def read_gguf(path: Path) -> FromGGUF:
    """Raises `UserError` for what `GPT` does not compute, `CorruptError` when the file is not a GGUF file."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError('reading GGUF needs the package gguf. Run: pip install "oliveira[weights]".') from None
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CorruptError(f"{path.name} is not a GGUF file that can be read: {error}") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(fields, tied="output.weight" not in tensors)
    state = _state(config, tensors)
    if tensors:
        raise UserError(f"{path.name} has weights that GPT does not know: {', '.join(sorted(tensors)[:3])}.")
    model = GPT(config)
    model.load_state_dict(state)
    return FromGGUF(model.eval(), _tokenizer(fields))


def _config(fields: dict[str, Any], *, tied: bool) -> GPTConfig:
    _need(fields, "general.architecture", "llama")
    _need(fields, "llama.rope.scaling.type", "none", None)
    _need(fields, "llama.expert_count", 0, None)
    d_model, n_heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    for name in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
        _need(fields, name, d_model // n_heads, None)
    return GPTConfig(
        vocab_size=fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"])),
        d_model=d_model,
        n_layers=fields["llama.block_count"],
        n_heads=n_heads,
        n_kv_heads=fields.get("llama.attention.head_count_kv", n_heads),
        d_ff=fields["llama.feed_forward_length"],
        max_len=fields["llama.context_length"],
        norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_base=fields.get("llama.rope.freq_base", 10_000.0),
        tied=tied,
    )


def _need(fields: dict[str, Any], name: str, *allowed: Any) -> None:
    value = fields.get(name)
    if value not in allowed:
        covered = " or ".join(repr(a) for a in allowed if a is not None)
        raise UserError(f"{name} = {value!r} of this GGUF file is not covered. Only {covered} can be read.")


def _state(config: GPTConfig, tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Takes the tensors that it reads out of `tensors`."""
    from gguf.quants import dequantize

    def take(name: str) -> Tensor:
        tensor = tensors.pop(f"{name}.weight", None)
        if tensor is None:
            raise UserError(f"this GGUF file has no {name}.weight. Give one of a plain Llama.")
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        return torch.from_numpy(values if values.flags.writeable else values.copy())

    state = {"embedding.weight": take("token_embd"), "norm.weight": take("output_norm")}
    for i in range(config.n_layers):
        for name, ours in _BLOCK.items():
            weight = take(f"blk.{i}.{name}")
            if name in ("attn_q", "attn_k"):
                weight = _halves(weight, config.n_heads if name == "attn_q" else config.n_kv_heads)
            state[f"blocks.{i}.{ours}.weight"] = weight
    state["head.weight"] = state["embedding.weight"] if config.tied else take("output")
    return state


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (H · K/2 · 2) → (H · 2 · K/2): from neighbours to halves."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    _need(fields, "tokenizer.ggml.model", "gpt2")
    _need(fields, "tokenizer.ggml.pre", "smollm", "gpt-2", None)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    bytes_and_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    single_digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = (
        pre_tokenizers.Sequence([single_digits, bytes_and_words])
        if fields.get("tokenizer.ggml.pre") == "smollm"
        else bytes_and_words
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL])
    return backend
