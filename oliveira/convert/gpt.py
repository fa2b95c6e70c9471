"""Weights of transformers' GPT-2 and Llama under the names of `GPT`.

Covered: GPT2LMHeadModel and LlamaForCausalLM, by way of `GPT.from_reference`; RoPE without scaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.convert.base import ROUNDED, Converted, Pair, Reference, first_steps, need, read, tokens
from oliveira.errors import UserError
from oliveira.models.gpt import GPT, GPTConfig


def to_gpt(module: nn.Module) -> GPT:
    """A copy of a transformers `GPT2LMHeadModel` or `LlamaForCausalLM`, in `eval` mode.

    Raises `UserError` when `module` is of another kind or uses what `GPT` does not have.
    """
    return read(module, "GPT", {"GPT2LMHeadModel": _gpt2, "LlamaForCausalLM": _llama}).build(GPT, GPTConfig)


def plain_rope(config: Any) -> float:
    """The base of a RoPE that turns the whole head and scales nothing."""
    rope = dict(config.rope_parameters)
    kind, base = rope.pop("rope_type", "default"), rope.pop("rope_theta")
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    if kind != "default" or rope:
        more = "".join(f", {name} = {value!r}" for name, value in rope.items())
        raise UserError(f"rope_type = {kind!r}{more} is not covered. Only plain 'default' can be converted.")
    return base


def causal_trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Logits of two texts, and of the same when the shorter is padded on the left."""
    length = min(ours.config.max_len, 7)
    batch = tokens(2, ours.config.vocab_size, length, random)
    yield Pair("logits", ours(batch), theirs(input_ids=batch)[0])
    real = first_steps(length, (length + 1) // 2).flip(1)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    mask = torch.ones(length, length).tril().bool() & real[:, None, None, :] | torch.eye(length).bool()
    expected = theirs(input_ids=batch, attention_mask=real.long(), position_ids=positions)[0]
    yield Pair("logits of padded texts", ours(batch, positions=positions, mask=mask)[real], expected[real])


def _gpt2(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "scale_attn_weights", True)
    need(config, "scale_attn_by_inverse_layer_idx", False)
    need(config, "add_cross_attention", False)
    config.ignore("reorder_and_upcast_attn")  # the same sums in another order
    activation = need(config, "activation_function", "gelu_new", "gelu_pytorch_tanh", "relu")
    state: dict[str, Tensor] = {}
    ends = {"wte": "embedding", "wpe": "positions.table", "ln_f": "norm"}
    theirs.move(ends, state, "transformer.")
    for i in range(config.n_layer):
        source, block = f"transformer.h.{i}.", f"blocks.{i}."
        theirs.move({"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}, state, source, block)
        for part in ("weight", "bias"):
            # Conv1D keeps (in, out) where a linear layer keeps (out, in).
            stacked = _transposed(theirs.take(f"{source}attn.c_attn.{part}")).chunk(3)
            for name, tensor in zip(("query", "key", "value"), stacked, strict=True):
                state[f"{block}attention.{name}.{part}"] = tensor
            for name, ours in (
                ("attn.c_proj", "attention.output"),
                ("mlp.c_fc", "feed_forward.up"),
                ("mlp.c_proj", "feed_forward.down"),
            ):
                state[f"{block}{ours}.{part}"] = _transposed(theirs.take(f"{source}{name}.{part}"))
    sizes = {
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
        "tied": _head(theirs, state),
        "norm_eps": config.layer_norm_epsilon,
    }
    return Converted(config=sizes, state=state, trial=causal_trial)


def _llama(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "hidden_act", "silu")
    need(config, "mlp_bias", False)
    need(config, "head_dim", None, config.hidden_size // config.num_attention_heads)
    config.ignore("pretraining_tp")  # how the products were split over machines
    state: dict[str, Tensor] = {}
    theirs.move({"embed_tokens": "embedding", "norm": "norm"}, state, "model.")
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
        theirs.move(names, state, f"model.layers.{i}.", f"blocks.{i}.")
    sizes = {
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
        "tied": _head(theirs, state),
        "norm_eps": config.rms_norm_eps,
        "rope_base": plain_rope(config),
    }
    return Converted(config=sizes, state=state, trial=causal_trial, tolerance=ROUNDED)


def _head(theirs: Reference, state: dict[str, Tensor]) -> bool:
    """Takes the head; whether it is the embedding itself, whatever the config says."""
    theirs.config.ignore("tie_word_embeddings")
    state["head.weight"] = theirs.take("lm_head.weight")
    return state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 else tensor
