"""What a GGUF file says of its model, as the config of a `GPT`: one line for each architecture of llama.cpp.

What llama.cpp itself takes for granted (Gemma's window in all layers but every n-th, the base of its local RoPE, its
soft caps) is written down here, with the keys that say otherwise where newer files have them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oliveira.errors import UserError

_LONGEST = 2**20  # tokens of context: a larger number is no size but a broken file


class Form(NamedTuple):
    neighbours: bool = False  # RoPE turns (x₀, x₁) in the file
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    gemma: int = 0  # every n-th layer has no window


FORMS = {
    "llama": Form(neighbours=True),
    "qwen2": Form(qkv_bias=True),
    "qwen3": Form(qk_norm=True),
    "gemma2": Form(post_norms=True, gemma=2),
    "gemma3": Form(qk_norm=True, post_norms=True, gemma=6),
}
_LARGEST_GEMMAS = {"gemma2": 46, "gemma3": 62}  # layers of those that scale their scores by another width


class Fields:
    """The settings of a file. What is asked for is noted; `close` refuses what nobody asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.read = values, set[str]()

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        self.read.add(name)
        value = self.values.get(name, default)
        if value is None:
            raise UserError(f"this GGUF file has no {name}. Give a whole one, with its tokenizer.")
        if (
            isinstance(value, bool)
            or not isinstance(value, kind)
            or (isinstance(value, (int, float)) and not 0 < value < 2**48)
        ):
            raise UserError(f"{name} = {str(value)[:40]!r} of this GGUF file is not covered.")
        return value

    def need(self, name: str, *allowed: Any) -> None:
        self.read.add(name)
        value = self.values.get(name)
        if value not in allowed:
            covered = " or ".join(repr(a) for a in allowed if a is not None)
            raise UserError(
                f"{name} = {str(value)[:40]!r} of this GGUF file is not covered. Only {covered} can be read."
            )

    def close(self, prefix: str) -> None:
        if left := [name for name in self.values if name.startswith(prefix) and name not in self.read]:
            raise UserError(
                f"{left[0]} = {str(self.values[left[0]])[:40]} of this GGUF file is not read here, and might matter."
            )


def config_of(fields: Fields, *, tied: bool, factors: Tensor | None) -> dict[str, Any]:
    """Keyword arguments of `GPTConfig`. `factors`: by which the file divides RoPE's frequencies."""
    fields.need("general.architecture", *FORMS)
    name = fields.values["general.architecture"]
    form = FORMS[name]
    for option, only in (("expert_count", 0), ("expert_used_count", 0), ("attention.causal", True)):
        fields.need(f"{name}.{option}", only, None)
    fields.need(f"{name}.use_parallel_residual", False, None)
    sizes = {
        ours: fields.get(f"{name}.{theirs}", int)
        for ours, theirs in (
            ("d_model", "embedding_length"), ("n_layers", "block_count"), ("n_heads", "attention.head_count"),
            ("d_ff", "feed_forward_length"), ("max_len", "context_length"),
        )
    }  # fmt: skip
    d_model, n_heads = sizes["d_model"], sizes["n_heads"]
    if sizes["max_len"] > _LONGEST:
        raise UserError(
            f"{name}.context_length = {sizes['max_len']} of this GGUF file is no length. At most {_LONGEST} can be."
        )
    n_kv_heads = fields.get(f"{name}.attention.head_count_kv", int, n_heads)
    width = fields.get(f"{name}.attention.key_length", int, d_model // n_heads or 1)
    fields.need(f"{name}.attention.value_length", width, None)
    fields.need(f"{name}.rope.dimension_count", width, None)
    if width * n_heads != d_model:
        if f"{name}.attention.key_length" not in fields.values:
            raise UserError(f"{name}.attention.head_count = {n_heads} does not divide embedding_length = {d_model}.")
        sizes["d_head"] = width
    config = {
        **sizes,
        "vocab_size": fields.get(f"{name}.vocab_size", int, len(fields.get("tokenizer.ggml.tokens", list))),
        "n_kv_heads": n_kv_heads,
        "norm_eps": fields.get(f"{name}.attention.layer_norm_rms_epsilon", float),
        "rope_base": float(fields.get(f"{name}.rope.freq_base", (int, float), 1e6 if name == "gemma3" else 10_000.0)),
        "tied": tied,
        "qkv_bias": form.qkv_bias,
        "qk_norm": form.qk_norm,
        "post_norms": form.post_norms,
        **_scaling(fields, name, sizes["max_len"], factors, width),
        **(_gemma(fields, name, width, sizes) if form.gemma else {}),
    }
    fields.close(f"{name}.")
    return config


def _gemma(fields: Fields, name: str, width: int, sizes: dict[str, int]) -> dict[str, Any]:
    scale = sizes["d_model"] // sizes["n_heads"] if sizes["n_layers"] == _LARGEST_GEMMAS[name] else width
    fields.need(f"{name}.attention.sliding_window_pattern", FORMS[name].gemma, None)
    config: dict[str, Any] = {
        "feed_forward": "geglu",
        "window": fields.get(f"{name}.attention.sliding_window", int, 4096 if name == "gemma2" else None),
        "full_every": FORMS[name].gemma,
        "embedding_scale": math.sqrt(sizes["d_model"]),
        "attention_scale": 1 / math.sqrt(scale),
    }
    if name == "gemma2":
        config["attention_cap"] = fields.get(f"{name}.attn_logit_softcapping", float, 50.0)
        config["logit_cap"] = fields.get(f"{name}.final_logit_softcapping", float, 30.0)
        return config
    if f"{name}.final_logit_softcapping" in fields.values:
        config["logit_cap"] = fields.get(f"{name}.final_logit_softcapping", float)
    config["rope_base_local"] = float(fields.get(f"{name}.rope.freq_base_swa", (int, float), 10_000.0))
    return config


def _scaling(fields: Fields, name: str, max_len: int, factors: Tensor | None, width: int) -> dict[str, Any]:
    prefix = f"{name}.rope.scaling"
    fields.need(f"{prefix}.type", "none", "linear", "yarn", None)
    kind = fields.values.get(f"{prefix}.type")
    old = f"{name}.rope.scale_linear"
    if factors is not None:
        fields.need(f"{prefix}.type", "none", None)
        return {"rope_scaling": _llama3(fields, name, factors, width)}
    if kind in ("none", None):
        fields.need(f"{prefix}.factor", 1.0, 0.0, None)
        fields.need(old, 1.0, None)
        return {}
    factor = float(fields.get(f"{prefix}.factor", (int, float)))
    if kind == "linear":
        return {"rope_scaling": {"type": "linear", "factor": factor}}
    first = fields.get(f"{prefix}.original_context_length", int, max_len)
    fields.need(f"{prefix}.attn_factor", 1.0, None)
    fields.need(f"{prefix}.finetuned", True, False, None)
    return {"rope_scaling": {"type": "yarn", "factor": factor, "original_max_position_embeddings": first}}


def _llama3(fields: Fields, name: str, factors: Tensor, width: int) -> dict[str, Any]:
    """The rule of Llama 3 whose factors these are: the file keeps the factors alone."""
    base = float(fields.values.get(f"{name}.rope.freq_base", 10_000.0))
    rule = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    factor = float(factors.max())
    periods = base ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = rule["original_max_position_embeddings"] / (2 * math.pi * periods)
    kept = ((turns - rule["low_freq_factor"]) / (rule["high_freq_factor"] - rule["low_freq_factor"])).clamp(0, 1)
    expected = 1 / (kept + (1 - kept) / factor)
    if factors.shape != expected.shape or not torch.allclose(factors.double(), expected, rtol=1e-4):
        raise UserError("rope_freqs.weight of this GGUF file is not what Llama 3's rule gives. Only that is covered.")
    return {"type": "llama3", "factor": factor, **rule}
