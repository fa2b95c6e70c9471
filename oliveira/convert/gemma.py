"""Weights of transformers' Gemma 2 and Gemma 3 (text) under the names of `GPT`.

Gemma's norms multiply by 1 + w: the 1 is added to the weights here. Its embedding is scaled by √d_model in float32.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from oliveira.convert.base import ROUNDED, Converted, Reference
from oliveira.convert.decoders import ATTENTION, GATED, causal_trial, head, rope_fields, whole_trial, window_fields
from oliveira.errors import UserError

_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "feed_forward_norm",
    "post_feedforward_layernorm": "feed_forward_post_norm",
}
_HEADS = {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}


def _read(
    theirs: Reference, norms: dict[str, str], pattern: int, cap: float | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What both have: the fields of our config but for RoPE, and the weights."""
    config = theirs.config
    activation = config.get("hidden_activation", "gelu_pytorch_tanh")
    if activation not in ("gelu_pytorch_tanh", "gelu_new"):
        raise UserError(f"hidden_activation = {activation!r} is not covered. Only 'gelu_pytorch_tanh' can be.")
    if config.get("use_bidirectional_attention", False):
        raise UserError("use_bidirectional_attention = True is not covered. Only False can be converted.")
    config.ignore("hidden_act", "cache_implementation")  # not read where hidden_activation is; how a cache is kept
    config.ignore("sliding_window_pattern", "_sliding_window_pattern")  # layer_types is made of it
    state: dict[str, Tensor] = {}
    theirs.move({"embed_tokens": "embedding", "norm": "norm"}, state, "model.")
    for i in range(config.num_hidden_layers):
        theirs.move({**ATTENTION, **GATED, **norms}, state, f"model.layers.{i}.", f"blocks.{i}.")
    for name in [name for name in state if name.endswith("norm.weight")]:
        state[name] = 1 + state[name]
    kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(config.num_hidden_layers)]
    sizes = {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "d_head": config.head_dim,
        "d_ff": config.intermediate_size,
        "max_len": config.max_position_embeddings,
        "norm": "rmsnorm",
        "feed_forward": "geglu",
        "positions": "rope",
        "bias": config.get("attention_bias", False),
        "tied": head(theirs, state, tied=True),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "post_norms": True,
        "embedding_scale": config.hidden_size**0.5,
        "attention_scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
        "logit_cap": config.given("final_logit_softcapping", cap) or 0.0,
        **window_fields(config, config.given("sliding_window", 4096), kinds),
    }
    return sizes, state


def gemma2(theirs: Reference) -> Converted:
    sizes, state = _read(theirs, _NORMS, 2, cap=30.0)
    sizes |= {"attention_cap": theirs.config.given("attn_logit_softcapping", 50.0) or 0.0}
    sizes |= rope_fields(theirs.config)
    # Its attention has no float64: rows of padding would be NaN there.
    return Converted(config=sizes, state=state, trial=whole_trial, tolerance=ROUNDED)


def gemma3(theirs: Reference) -> Converted:
    config = theirs.config
    if config.get("attn_logit_softcapping", None) is not None:
        raise UserError("attn_logit_softcapping is not covered for Gemma 3: transformers does not compute it there.")
    sizes, state = _read(theirs, {**_NORMS, **_HEADS}, config.get("sliding_window_pattern", 6))
    given = config.get("rope_parameters", {})
    if given.keys() - {"full_attention", "sliding_attention"}:
        raise UserError("rope_parameters without those of full_attention and sliding_attention are not covered.")
    full, local = (given.get(kind) for kind in ("full_attention", "sliding_attention"))
    full = full or config.get("rope_scaling", {})
    local = rope_fields(config, {**(local or {}), "rope_theta": (local or {}).get("rope_theta") or _local(theirs)})
    if "rope_scaling" in local:
        raise UserError("RoPE of layers with a window is scaled. Only that of the others can be converted.")
    sizes |= {"qk_norm": True, **rope_fields(config, full, base=1_000_000.0)}
    if sizes.get("window"):
        sizes["rope_base_local"] = local["rope_base"]
    return Converted(config=sizes, state=state, trial=causal_trial, tolerance=ROUNDED)


def _local(theirs: Reference) -> float:
    return float(theirs.config.get("rope_local_base_freq", 10_000.0))
