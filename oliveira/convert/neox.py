"""Weights of transformers' GPT-NeoX (Pythia) under the names of `GPT`.

Its queries, keys and values stand in one matrix, head by head; a quarter of each head turns; attention and feed-forward
net read the same x, or do not (`use_parallel_residual`).
"""

from __future__ import annotations

from torch import Tensor

from oliveira.convert.base import ROUNDED, Converted, Reference
from oliveira.convert.decoders import causal_trial, head, rope_fields
from oliveira.errors import UserError

ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
_LAYER = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "attention.dense": "attention.output",
    "mlp.dense_h_to_4h": "feed_forward.up",
    "mlp.dense_4h_to_h": "feed_forward.down",
}


def gpt_neox(theirs: Reference) -> Converted:
    config = theirs.config
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"hidden_act = {activation!r} is not covered. Only {', '.join(ACTIVATIONS)} can be converted.")
    if not config.get("attention_bias", True):
        raise UserError("attention_bias = False is not covered beside biases of the mlp. Only True can be converted.")
    state: dict[str, Tensor] = {}
    theirs.move({"embed_in": "embedding", "final_layer_norm": "norm"}, state, "gpt_neox.")
    n_heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    for i in range(config.num_hidden_layers):
        source, block = f"gpt_neox.layers.{i}.", f"blocks.{i}."
        theirs.move(_LAYER, state, source, block)
        theirs.drop(*(f"{source}attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")))
        for part in ("weight", "bias"):
            together = theirs.take(f"{source}attention.query_key_value.{part}").unflatten(0, (n_heads, 3, width))
            for name, tensor in zip(("query", "key", "value"), together.unbind(1), strict=True):
                state[f"{block}attention.{name}.{part}"] = tensor.flatten(0, 1)
    name = "embed_out" if "embed_out.weight" in theirs.weights else "lm_head"  # the former in files
    share = config.get("rotary_pct", 0.25)
    sizes = {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_ff": config.intermediate_size,
        "max_len": config.max_position_embeddings,
        "norm": "layernorm",
        "feed_forward": ACTIVATIONS[activation],
        "positions": "rope",
        "bias": True,
        "tied": head(theirs, state, name),
        "norm_eps": config.get("layer_norm_eps", 1e-5),
        "parallel": config.get("use_parallel_residual", True),
        **rope_fields(config, base=config.get("rotary_emb_base", 10_000.0), share=share),
    }
    return Converted(config=sizes, state=state, trial=causal_trial, tolerance=ROUNDED)
