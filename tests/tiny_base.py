"""A base of a few kilobytes: random weights of a Llama with its tokenizer and chat template, as a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

from oliveira.data.tokenizer import END_OF_TEXT, Tokenizer

D, FF, LAYERS, HEADS, CONTEXT = 64, 128, 2, 2, 256
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>")


def write_base(path: Path, text: str, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """`text` is what its tokenizer is learnt from."""
    model = json.loads(Tokenizer.train([text], 300)._backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__) + list(MARKS)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.license", "cc0-1.0")
    for name, number in (
        ("block_count", LAYERS), ("context_length", CONTEXT), ("embedding_length", D), ("feed_forward_length", FF),
        ("attention.head_count", HEADS), ("attention.head_count_kv", HEADS),
    ):  # fmt: skip
        writer.add_uint32(f"llama.{name}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "gpt-2")
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3 if token in (END_OF_TEXT, *MARKS) else 1 for token in tokens])
    writer.add_array("tokenizer.ggml.merges", [" ".join(pair) for pair in model["merges"]])
    writer.add_uint32("tokenizer.ggml.eos_token_id", tokens.index("<|im_end|>"))
    if template is not None:
        writer.add_string("tokenizer.chat_template", template)
    random = np.random.default_rng(seed)

    def put(name: str, *shape: int) -> None:
        scale = 1 / np.sqrt(shape[-1])
        writer.add_tensor(f"{name}.weight", (scale * random.standard_normal(shape)).astype(np.float32))

    put("token_embd", len(tokens), D)
    writer.add_tensor("output_norm.weight", np.ones(D, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(D, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            put(f"blk.{layer}.{name}", D, D)
        put(f"blk.{layer}.ffn_gate", FF, D)
        put(f"blk.{layer}.ffn_up", FF, D)
        put(f"blk.{layer}.ffn_down", D, FF)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
