"""Weights of transformers' decoders of Llama's kin under the names of `GPT`.

Llama     RoPE plain or scaled (linear, llama3, yarn), heads of any width, attention_bias
Mistral   a window in all layers                  Qwen 2     biases of queries, keys and values
Qwen 3    normalised queries and keys             SmolLM 3   every n-th layer without RoPE
Phi-3     fused matrices, which are split here; part of a head turns; a window. Not its longrope
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from oliveira.convert.base import ROUNDED, Converted, Reference
from oliveira.convert.decoders import ATTENTION, GATED, causal_trial, every, head, rope_fields, window_fields
from oliveira.convert.reference import Options
from oliveira.errors import UserError

_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read(
    theirs: Reference,
    names: dict[str, str],
    *,
    base: float = 10_000.0,
    share: float | None = None,
    tied: bool = False,
    eps: float = 1e-6,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What all of them have: the fields of our config, and the weights."""
    config = theirs.config
    given = config.get("hidden_act", "silu")
    if given not in ("silu", "swish"):
        raise UserError(f"hidden_act = {given!r} is not covered. Only 'silu' can be converted.")
    state: dict[str, Tensor] = {}
    theirs.move({"embed_tokens": "embedding", "norm": "norm"}, state, "model.")
    for i in range(config.num_hidden_layers):
        theirs.drop(f"model.layers.{i}.self_attn.rotary_emb.inv_freq")  # in old files
        theirs.move({**names, **_NORMS}, state, f"model.layers.{i}.", f"blocks.{i}.")
    n_heads = config.num_attention_heads
    width = config.get("head_dim", config.hidden_size // n_heads)
    sizes = {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": n_heads,
        "n_kv_heads": config.get("num_key_value_heads", n_heads),
        "d_ff": config.intermediate_size,
        "max_len": config.max_position_embeddings,
        "norm": "rmsnorm",
        "feed_forward": "swiglu",
        "positions": "rope",
        "tied": head(theirs, state, tied=tied),
        "norm_eps": config.get("rms_norm_eps", eps),
        **rope_fields(config, base=base, share=share),
    }
    if width * n_heads != config.hidden_size:
        sizes["d_head"] = width
    return sizes, state


def _converted(sizes: dict[str, Any], state: dict[str, Tensor], **more: Any) -> Converted:
    return Converted(config={**sizes, **more}, state=state, trial=causal_trial, tolerance=ROUNDED)


def llama(theirs: Reference) -> Converted:
    config = theirs.config
    _no_mlp_bias(config)
    config.ignore("pretraining_tp", "is_llama_config")  # how products were split over machines; of another reader
    bias = config.get("attention_bias", False)
    return _converted(*_read(theirs, {**ATTENTION, **GATED}), bias=bias)


def mistral(theirs: Reference) -> Converted:
    window = theirs.config.given("sliding_window", 4096)
    kind = _SLIDING if window else _FULL
    sizes, state = _read(theirs, {**ATTENTION, **GATED})
    return _converted(sizes, state, **window_fields(theirs.config, window, [kind] * sizes["n_layers"]))


def qwen2(theirs: Reference) -> Converted:
    sizes, state = _read(theirs, {**ATTENTION, **GATED})
    return _converted(sizes, state, qkv_bias=True, **_late_windows(theirs.config))


def qwen3(theirs: Reference) -> Converted:
    norms = {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}
    sizes, state = _read(theirs, {**ATTENTION, **GATED, **norms})
    bias = theirs.config.get("attention_bias", False)
    return _converted(sizes, state, bias=bias, qk_norm=True, **_late_windows(theirs.config))


def smollm3(theirs: Reference) -> Converted:
    config = theirs.config
    _no_mlp_bias(config)
    config.ignore("pretraining_tp", "max_window_layers")  # the latter is of Qwen: layer_types decides
    sizes, state = _read(theirs, {**ATTENTION, **GATED}, base=2_000_000.0, tied=True)
    layers, interval = range(sizes["n_layers"]), config.get("no_rope_layer_interval", 4)
    turned = list(config.get("no_rope_layers", [(i + 1) % interval != 0 for i in layers]))[: len(layers)]
    still = every([not turns for turns in turned])
    if still is None:
        raise UserError("no_rope_layers is not covered. Only no RoPE in every n-th layer can be converted.")
    window = config.given("sliding_window", None) if config.get("use_sliding_window", False) else None
    kinds = [_SLIDING if window and not turns else _FULL for turns in turned]
    bias = config.get("attention_bias", False)
    return _converted(sizes, state, bias=bias, no_rope_every=still, **window_fields(config, window, kinds))


def phi3(theirs: Reference) -> Converted:
    config = theirs.config
    config.ignore("original_max_position_embeddings")  # of longrope
    n_heads = config.num_attention_heads
    n_kv_heads = config.get("num_key_value_heads", n_heads)
    width = config.get("head_dim", config.hidden_size // n_heads)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        parts = theirs.take(f"{layer}self_attn.qkv_proj.weight").split(
            [n_heads * width, n_kv_heads * width, n_kv_heads * width]
        )
        parts += theirs.take(f"{layer}mlp.gate_up_proj.weight").chunk(2)
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
        for name, part in zip(names, parts, strict=True):
            theirs.weights[f"{layer}{name}.weight"] = part
    sizes, state = _read(theirs, {**ATTENTION, **GATED}, share=1.0, eps=1e-5)
    window = config.given("sliding_window", None)
    kind = _SLIDING if window else _FULL
    return _converted(sizes, state, **window_fields(config, window, [kind] * sizes["n_layers"]))


def _late_windows(config: Options) -> dict[str, Any]:
    """Qwen: the first `max_window_layers` attend to all."""
    uses, first = config.get("use_sliding_window", False), config.get("max_window_layers", 28)
    window = config.given("sliding_window", 4096) if uses else None
    config.ignore("sliding_window")
    kinds = [_SLIDING if window and i >= first else _FULL for i in range(config.num_hidden_layers)]
    return window_fields(config, window, kinds)


def _no_mlp_bias(config: Options) -> None:
    if config.get("mlp_bias", False):
        raise UserError("mlp_bias = True is not covered. Only False can be converted.")
