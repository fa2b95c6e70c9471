"""An artifact of text as a GGUF file, which llama.cpp and what is built on it open.

Weights are written as float32, 4 and 8 bits with what they have lost. llama.cpp rotates neighbours (x₀, x₁) in the
architecture `llama`, where we rotate halves (x₀, x_{K/2}): rows of queries and keys are put in turn, as its own
converter does. Which tensor has which name there, the package gguf knows.

The tokenizer: byte-level BPE. llama.cpp knows certain ways to cut a text into words, by name; where ours is none of
them the nearest is named, and that some texts are cut otherwise is told: `cut_alike` false.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from torch import Tensor

from oliveira.artifact import TEMPLATE, TOKENIZER, Artifact
from oliveira.convert.gguf import read_gguf
from oliveira.convert.gguf_tokenizer import CONTROL, LLAMA3, QWEN2, USER
from oliveira.errors import UserError
from oliveira.export.again import check_same
from oliveira.export.theirs import Theirs, under_their_names
from oliveira.export.words import Words, words
from oliveira.files import explain_disk, fsync_path, scratch_folder
from oliveira.models.gpt import GPTConfig
from oliveira.registry import decoding

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "GPT2LMHeadModel": "gpt2",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
READABLE = ("llama", "qwen2", "qwen3")  # here as well: what is written of these is read back before it is kept
_NORMAL = 1  # type of a token


def write_gguf(artifact: Artifact, file: Path) -> dict[str, Any]:
    """Writes `file`, whole or not at all. Returns what was written. Raises `UserError`."""
    if file.exists():
        raise UserError(f"{file} exists already. Give another --output: an export replaces nothing.")
    if TOKENIZER not in artifact.files:
        raise UserError(f"artifact {artifact.digest[:12]} holds no model of text. --to hf and gguf are for those.")
    model = decoding(artifact.load_model(), f"artifact {artifact.digest[:12]}: ")
    theirs = under_their_names(model)
    _check(theirs, model.config)
    told = words(artifact.path / TOKENIZER)
    template = (artifact.path / TEMPLATE).read_text(encoding="utf-8") if TEMPLATE in artifact.files else None
    with explain_disk(file), scratch_folder(file) as scratch:
        made = scratch / "model.gguf"
        writer = GGUFWriter(made, ARCHITECTURES[theirs.kind])
        _sizes(writer, model.config, artifact)
        pre = _tokenizer(writer, told)
        if template is not None:
            writer.add_chat_template(template)
        for name, tensor in _tensors(theirs, model.config):
            writer.add_tensor(name, tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if ARCHITECTURES[theirs.kind] in READABLE:
            check_same(model, read_gguf(made).model, f"{file}")
        fsync_path(made)
        made.replace(file)
        fsync_path(file.parent)
    about = {"file": str(file), "architecture": ARCHITECTURES[theirs.kind], "bytes": file.stat().st_size}
    return {**about, "from": artifact.weights, "cuts_words_as": pre, "cut_alike": _way(told) == pre}


def _check(theirs: Theirs, config: GPTConfig) -> None:
    """What of a form cannot be said in a GGUF file that is written here."""
    if theirs.kind not in ARCHITECTURES:
        raise UserError(
            f"a {theirs.kind} is not written as GGUF ({', '.join(ARCHITECTURES)} are). Export with --to hf."
        )
    if theirs.kind == "GPT2LMHeadModel" and config.feed_forward != "gelu":
        raise UserError(f"llama.cpp computes every gpt2 with gelu, not {config.feed_forward}. Export with --to hf.")
    if config.bias and theirs.kind == "Qwen3ForCausalLM":
        raise UserError("llama.cpp has no biases in its architecture qwen3. Export with --to hf.")
    if config.rope_scaling is not None:
        raise UserError("rope_scaling is not written as GGUF here. Export with --to hf.")


def _sizes(writer: GGUFWriter, config: GPTConfig, artifact: Artifact) -> None:
    writer.add_name(f"{artifact.name} {artifact.digest[:12]}")
    writer.add_context_length(config.max_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)  # all float32
    if config.norm == "layernorm":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_freq_base(config.rope_base)
        writer.add_rope_dimension_count(config.head_width)
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)


def _tensors(theirs: Theirs, config: GPTConfig) -> list[tuple[str, Tensor]]:
    architecture = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == ARCHITECTURES[theirs.kind])
    names = get_tensor_name_map(architecture, config.n_layers)
    found = []
    for name, tensor in theirs.tensors.items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UserError(f"llama.cpp has no place for {name} in its architecture {ARCHITECTURES[theirs.kind]}.")
        if theirs.kind == "GPT2LMHeadModel" and tensor.ndim == 2 and name.startswith("transformer.h."):
            tensor = tensor.T  # from (in, out)
        if (
            ARCHITECTURES[theirs.kind] == "llama"
            and ".self_attn." in name
            and name.split(".")[-2] in ("q_proj", "k_proj")
        ):
            heads = config.n_heads if "q_proj" in name else config.n_kv_heads
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)  # halves to neighbours
        found.append((place, tensor))
    return found


# Ways to cut a text into words, by the name that llama.cpp has for them.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_UNCUT = {**_BYTES, "use_regex": False}
_WAYS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    **{
        name: [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _UNCUT]
        for name, pattern in (("llama-bpe", LLAMA3), ("qwen2", QWEN2))
    },
}


def _way(told: Words) -> str | None:
    """By which name llama.cpp cuts as this tokenizer does."""
    pre = told.values.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    return next((name for name, way in _WAYS.items() if way == steps), None)


def _tokenizer(writer: GGUFWriter, told: Words) -> str:
    """Raises `UserError` for a tokenizer that is no byte-level BPE. Returns the name of the way to cut."""
    model = told.values["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError("a tokenizer that is no byte-level BPE is not written as GGUF. Export with --to hf.")
    added = {token["id"]: token for token in told.values["added_tokens"]}
    vocabulary = {index: token for token, index in model["vocab"].items()}
    vocabulary |= {index: token["content"] for index, token in added.items()}
    if missing := [index for index in range(told.vocab_size) if index not in vocabulary]:
        raise UserError(f"token {missing[0]} of this tokenizer has no text. GGUF needs one for every token.")
    pre = _way(told) or "gpt-2"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([vocabulary[index] for index in range(told.vocab_size)])
    kinds = {index: CONTROL if token["special"] else USER for index, token in added.items()}
    writer.add_token_types([kinds.get(index, _NORMAL) for index in range(told.vocab_size)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_eos_token_id(told.eos)
    if len(told.stops) > 1:
        writer.add_eot_token_id(told.stops[1])
    writer.add_bos_token_id(told.begin[0] if told.begin else told.eos)
    writer.add_add_bos_token(bool(told.begin))
    writer.add_add_eos_token(False)
    return pre
