"""Weights of transformers' decoders under the names of `GPT`: which there are, and GPT-2."""

from __future__ import annotations

from torch import Tensor, nn

from oliveira.convert.base import Converted, Reader, Reference, need, read
from oliveira.convert.decoders import causal_trial, head
from oliveira.convert.gemma import gemma2, gemma3
from oliveira.convert.llama import llama, mistral, phi3, qwen2, qwen3, smollm3
from oliveira.convert.neox import ACTIVATIONS, gpt_neox
from oliveira.models.gpt import GPT, GPTConfig


def to_gpt(module: nn.Module) -> GPT:
    """A copy of a transformers decoder that is one of `READERS`, in `eval` mode.

    Raises `UserError` when `module` is of another kind or uses what `GPT` does not have.
    """
    return read(module, "GPT", READERS).build(GPT, GPTConfig)


def _gpt2(theirs: Reference) -> Converted:
    config = theirs.config
    for name, only in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if config.get(name, only) != only:
            need(config, name, only)
    if config.get("add_cross_attention", False):
        need(config, "add_cross_attention", False)
    config.ignore("reorder_and_upcast_attn")  # the same sums in another order
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        need(config, "activation_function", *ACTIVATIONS)
    config.ignore("n_ctx")  # the older name of n_positions
    room = "transformer." if "transformer.wte.weight" in theirs.weights else ""  # not in some files
    state: dict[str, Tensor] = {}
    ends = {"wte": "embedding", "wpe": "positions.table", "ln_f": "norm"}
    theirs.move(ends, state, room)
    for i in range(config.n_layer):
        source, block = f"{room}h.{i}.", f"blocks.{i}."
        theirs.drop(f"{source}attn.bias", f"{source}attn.masked_bias")  # of the mask, in files
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
        "d_ff": config.get("n_inner", 0) or 4 * config.n_embd,
        "max_len": config.n_positions,
        "norm": "layernorm",
        "feed_forward": ACTIVATIONS[activation],
        "positions": "learned",
        "bias": True,
        "tied": head(theirs, state, tied=True),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
    }
    return Converted(config=sizes, state=state, trial=causal_trial)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 else tensor


READERS: dict[str, Reader] = {  # by the class of the reference
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "SmolLM3ForCausalLM": smollm3,
    "Phi3ForCausalLM": phi3,
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "GPTNeoXForCausalLM": gpt_neox,
}
MODEL_TYPES = {  # what a config.json calls itself → the class
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
