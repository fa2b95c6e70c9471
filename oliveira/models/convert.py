"""Weights of other libraries' models under the names of this house.

A converter reads a reference module and gives the config and the state of a `GPT`. It refuses, in one
sentence, what `GPT` does not compute, and when a weight is left over: nothing is dropped in silence.

Covered: transformers GPT2LMHeadModel and LlamaForCausalLM, by way of `GPT.from_reference`.
Dropout is a choice of training, not of the weights: it becomes 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from oliveira.errors import UserError


class Converted(NamedTuple):
    config: dict[str, Any]  # keyword arguments of GPTConfig
    state: dict[str, Tensor]  # state_dict of GPT


def to_gpt(module: nn.Module) -> Converted:
    """Raises `UserError` when `module` is of another kind or uses what `GPT` does not have."""
    readers = {"GPT2LMHeadModel": _gpt2, "LlamaForCausalLM": _llama}
    kind = type(module).__name__
    if kind not in readers:
        raise UserError(f"a {kind} cannot become a GPT. Give one of {', '.join(readers)}.")
    theirs = dict(module.state_dict())
    converted = readers[kind](module.config, theirs)
    if theirs:
        raise UserError(f"{kind} has weights that GPT does not know: {', '.join(sorted(theirs)[:3])}.")
    return converted


def need(config: Any, name: str, *allowed: Any) -> Any:
    value = getattr(config, name)
    if value not in allowed:
        raise UserError(
            f"{type(config).__name__}.{name} = {value!r} is not covered. "
            f"Only {' or '.join(repr(a) for a in allowed)} can be converted."
        )
    return value


def _gpt2(config: Any, theirs: dict[str, Tensor]) -> Converted:
    need(config, "scale_attn_weights", True)
    need(config, "scale_attn_by_inverse_layer_idx", False)
    need(config, "add_cross_attention", False)
    activation = need(config, "activation_function", "gelu_new", "gelu_pytorch_tanh", "relu")
    state = _outside(theirs, "transformer.wte", "transformer.ln_f", bias=True)
    state["positions.table.weight"] = theirs.pop("transformer.wpe.weight")
    for i in range(config.n_layer):
        source, block = f"transformer.h.{i}.", f"blocks.{i}."
        for part in ("weight", "bias"):
            state[f"{block}attention_norm.{part}"] = theirs.pop(f"{source}ln_1.{part}")
            state[f"{block}feed_forward_norm.{part}"] = theirs.pop(f"{source}ln_2.{part}")
            # Conv1D keeps (in, out) where a linear layer keeps (out, in).
            query, key, value = _transposed(theirs.pop(f"{source}attn.c_attn.{part}")).chunk(3)
            state[f"{block}attention.query.{part}"] = query
            state[f"{block}attention.key.{part}"] = key
            state[f"{block}attention.value.{part}"] = value
            for name, ours in (
                ("attn.c_proj", "attention.output"),
                ("mlp.c_fc", "feed_forward.up"),
                ("mlp.c_proj", "feed_forward.down"),
            ):
                state[f"{block}{ours}.{part}"] = _transposed(theirs.pop(f"{source}{name}.{part}"))
    return Converted(
        {
            "vocab_size": config.vocab_size,
            "d_model": config.n_embd,
            "n_layers": config.n_layer,
            "n_heads": config.n_head,
            "n_kv_heads": config.n_head,
            "d_ff": config.n_inner or 4 * config.n_embd,
            "max_len": config.n_positions,
            "norm": "layernorm",
            "feed_forward": "relu" if activation == "relu" else "gelu",
            "positions": "learned",
            "bias": True,
            "tied": config.tie_word_embeddings,
            "norm_eps": config.layer_norm_epsilon,
        },
        state,
    )


def _llama(config: Any, theirs: dict[str, Tensor]) -> Converted:
    need(config, "hidden_act", "silu")
    need(config, "mlp_bias", False)
    need(config, "head_dim", config.hidden_size // config.num_attention_heads)
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise UserError(f"rope_type = {rope['rope_type']!r} is not covered. Only 'default' can be converted.")
    state = _outside(theirs, "model.embed_tokens", "model.norm", bias=False)
    names = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up",
        "mlp.down_proj": "feed_forward.down",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
    }
    for i in range(config.num_hidden_layers):
        for name, ours in names.items():
            source, target = f"model.layers.{i}.{name}", f"blocks.{i}.{ours}"
            state[f"{target}.weight"] = theirs.pop(f"{source}.weight")
            if config.attention_bias and name.startswith("self_attn"):
                state[f"{target}.bias"] = theirs.pop(f"{source}.bias")
    return Converted(
        {
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "d_ff": config.intermediate_size,
            "max_len": config.max_position_embeddings,
            "norm": "rmsnorm",
            "feed_forward": "swiglu",
            "positions": "rope",
            "bias": config.attention_bias,
            "tied": config.tie_word_embeddings,
            "norm_eps": config.rms_norm_eps,
            "rope_base": rope["rope_theta"],
        },
        state,
    )


def _outside(theirs: dict[str, Tensor], embedding: str, norm: str, *, bias: bool) -> dict[str, Tensor]:
    """What stands before and after the blocks."""
    state = {
        "embedding.weight": theirs.pop(f"{embedding}.weight"),
        "head.weight": theirs.pop("lm_head.weight"),
        "norm.weight": theirs.pop(f"{norm}.weight"),
    }
    if bias:
        state["norm.bias"] = theirs.pop(f"{norm}.bias")
    return state


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 else tensor
