"""Weights of transformers' Mixtral under the names of `MoE`.

Covered: `MixtralForCausalLM` with SiLU experts, whole heads, plain RoPE and no sliding window. transformers keeps an
expert's gate and up matrices as one; here they are two. Dropout and jitter are choices of training: they become 0.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from oliveira.errors import UserError
from oliveira.models.convert import Converted, need

_NAMES = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate": "mixture.router.score",
}


def to_moe(module: nn.Module) -> Converted:
    """Raises `UserError` when `module` is of another kind or uses what `MoE` does not have."""
    kind = type(module).__name__
    if kind != "MixtralForCausalLM":
        raise UserError(f"a {kind} cannot become a MoE. Give a MixtralForCausalLM.")
    theirs, config = dict(module.state_dict()), cast(Any, module.config)
    need(config, "hidden_act", "silu")
    need(config, "head_dim", None, config.hidden_size // config.num_attention_heads)
    need(config, "sliding_window", None)
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise UserError(f"rope_type = {rope['rope_type']!r} is not covered. Only 'default' can be converted.")
    state = {
        "input.embedding.weight": theirs.pop("model.embed_tokens.weight"),
        "norm.weight": theirs.pop("model.norm.weight"),
        "output.project.weight": theirs.pop("lm_head.weight"),
        "output.project.bias": torch.zeros(config.vocab_size),
    }
    for i in range(config.num_hidden_layers):
        source, block = f"model.layers.{i}.", f"blocks.{i}."
        for name, ours in _NAMES.items():
            state[f"{block}{ours}.weight"] = theirs.pop(f"{source}{name}.weight")
        both = theirs.pop(f"{source}mlp.experts.gate_up_proj")  # (E, 2·d_ff, d_model)
        down = theirs.pop(f"{source}mlp.experts.down_proj")  # (E, d_model, d_ff)
        for e in range(config.num_local_experts):
            gate, up = both[e].chunk(2)
            for part, weight in (("gate", gate), ("up", up), ("down", down[e])):
                state[f"{block}mixture.experts.{e}.{part}.weight"] = weight
    if theirs:
        raise UserError(f"{kind} has weights that MoE does not know: {', '.join(sorted(theirs)[:3])}.")
    return Converted(
        {
            "vocab_size": config.vocab_size,
            "d_out": config.vocab_size,
            "max_len": config.max_position_embeddings,
            "d_model": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "d_ff": config.intermediate_size,
            "n_experts": config.num_local_experts,
            "top_k": config.num_experts_per_tok,
            "balance_weight": config.router_aux_loss_coef * config.num_experts_per_tok,
            "balance": "pooled",
            "z_weight": 0.0,
            "norm_eps": config.rms_norm_eps,
            "rope_base": rope["rope_theta"],
        },
        state,
    )
