"""Weights of transformers' Mixtral under the names of `MoE`.

Covered: `MixtralForCausalLM` with SiLU experts, whole heads, plain RoPE and no sliding window. transformers keeps an
expert's gate and up matrices as one; here they are two. Dropout and jitter are choices of training: they become 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.convert.base import ROUNDED, Converted, Pair, Reference, first_steps, need, read, tokens
from oliveira.convert.decoders import plain_rope
from oliveira.models.moe import MoE, MoEConfig

_NAMES = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate": "mixture.router.score",
}


def to_moe(module: nn.Module) -> MoE:
    """A copy of a transformers `MixtralForCausalLM`, in `eval` mode.

    Raises `UserError` when `module` is of another kind or uses what `MoE` does not have.
    """
    return read(module, "MoE", {"MixtralForCausalLM": _mixtral}).build(MoE, MoEConfig)


def _mixtral(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "hidden_act", "silu")
    need(config, "head_dim", None, config.hidden_size // config.num_attention_heads)
    need(config, "sliding_window", None)
    config.ignore("router_jitter_noise", "output_router_logits", "tie_word_embeddings")
    state: dict[str, Tensor] = {}
    ends = {"model.embed_tokens": "input.embedding", "model.norm": "norm", "lm_head": "output.project"}
    theirs.move(ends, state)
    state.setdefault("output.project.bias", torch.zeros(config.vocab_size))
    for i in range(config.num_hidden_layers):
        source, block = f"model.layers.{i}.", f"blocks.{i}."
        theirs.move(_NAMES, state, source, block)
        both = theirs.take(f"{source}mlp.experts.gate_up_proj")  # (E, 2·d_ff, d_model)
        down = theirs.take(f"{source}mlp.experts.down_proj")  # (E, d_model, d_ff)
        for e in range(config.num_local_experts):
            gate, up = both[e].chunk(2)
            for part, weight in (("gate", gate), ("up", up), ("down", down[e])):
                state[f"{block}mixture.experts.{e}.{part}.weight"] = weight
    sizes = {
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
        "rope_base": plain_rope(config),
    }
    return Converted(config=sizes, state=state, trial=_trial, tolerance=ROUNDED)


def _trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Logits of two texts, the shorter padded on the right."""
    theirs.config._experts_implementation = "eager"  # its fast kernel has no float64
    length = min(ours.config.max_len, 7)
    batch, real = tokens(2, ours.config.vocab_size, length, random), first_steps(length, (length + 1) // 2)
    yield Pair("logits", ours(batch, real)[real], theirs(input_ids=batch, attention_mask=real.long())[0][real])
