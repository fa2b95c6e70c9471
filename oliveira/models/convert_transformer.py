"""Weights of other libraries' encoder–decoders under the names of `oliveira.models.transformer`.

Covered: torch.nn.Transformer (both stacks; it has no ends) and transformers MarianMTModel. A converter refuses, in one
sentence, what `Transformer` does not compute, and when a weight is left over: nothing is dropped in silence.

Marian keeps all sines in the first half of a position and all cosines in the second, we take turns as the paper does.
The order of a model's D axes means nothing to its layers, so its weights are read with their axes in our order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.models.convert import Converted, need
from oliveira.nn.positional import Sinusoidal

EPS = 1e-5  # of every norm here and there


def to_transformer(module: nn.Module, ends: dict[str, int]) -> Converted:
    """Raises `UserError` when `module` is of another kind or uses what `Transformer` does not have.

    `ends`: vocab_size, target_vocab_size and max_len for a module without ends.
    """
    kind, theirs = type(module).__name__, dict(module.state_dict())
    if kind == "Transformer":
        converted = _torch(module, theirs, ends)
    elif kind == "MarianMTModel":
        converted = _marian(module.config, theirs)
    else:
        raise UserError(f"a {kind} cannot become a Transformer. Give a torch.nn.Transformer or a MarianMTModel.")
    if theirs:
        raise UserError(f"{kind} has weights that Transformer does not know: {', '.join(sorted(theirs)[:3])}.")
    return converted


# torch.nn.Transformer -----------------------------------------------------------------------------


def _torch(module: Any, theirs: dict[str, Tensor], ends: dict[str, int]) -> Converted:
    if not (ends["vocab_size"] and ends["target_vocab_size"]):
        raise UserError("a torch.nn.Transformer has no embeddings. Give vocab_size and target_vocab_size, as in 4096.")
    if not (type(module.encoder) is nn.TransformerEncoder and type(module.decoder) is nn.TransformerDecoder):
        raise UserError("a torch.nn.Transformer with a custom encoder or decoder is not covered. Only its own can be.")
    layer = module.encoder.layers[0]
    activations = {F.relu: "relu", F.gelu: "gelu"}
    if layer.activation not in activations:
        raise UserError(f"activation = {layer.activation} is not covered. Only relu and gelu can be converted.")
    if layer.linear1.bias is None:
        raise UserError("a torch.nn.Transformer with bias = False is not covered. Only bias = True can be converted.")
    if layer.norm1.eps != EPS:
        raise UserError(f"layer_norm_eps = {layer.norm1.eps} is not covered. Only {EPS} can be converted.")
    state: dict[str, Tensor] = {}
    parts = {
        "encoder": {"self_attn": "attention"},
        "decoder": {"self_attn": "attention", "multihead_attn": "cross_attention"},
    }
    for stack, attentions in parts.items():
        for i in range(len(getattr(module, stack).layers)):
            block, source = f"{stack}.{i}.", f"{stack}.layers.{i}."
            names = {"linear1": "feed_forward.up", "linear2": "feed_forward.down"}
            for number, name in enumerate([*attentions.values(), "feed_forward"], 1):
                names[f"norm{number}"] = f"{name}_norm"
            for name, ours in attentions.items():
                names[f"{name}.out_proj"] = f"{ours}.output"
                for part in ("weight", "bias"):
                    stacked = theirs.pop(f"{source}{name}.in_proj_{part}").chunk(3)
                    for projection, tensor in zip(("query", "key", "value"), stacked, strict=True):
                        state[f"{block}{ours}.{projection}.{part}"] = tensor
            _move(theirs, state, {f"{source}{name}": f"{block}{ours}" for name, ours in names.items()})
        _move(theirs, state, {f"{stack}.norm": f"{stack}_norm"})
    config = {
        "d_model": module.d_model,
        "n_layers": len(module.encoder.layers),
        "n_decoder_layers": len(module.decoder.layers),
        "n_heads": module.nhead,
        "d_ff": layer.linear1.out_features,
        "dropout": 0.0,
        "pre_norm": layer.norm_first,
        "final_norm": True,
        "activation": activations[layer.activation],
    }
    return Converted({**config, **ends}, state)


# Marian -------------------------------------------------------------------------------------------


def _marian(config: Any, theirs: dict[str, Tensor]) -> Converted:
    need(config, "scale_embedding", True)
    activation = need(config, "activation_function", "relu", "gelu")
    need(config, "decoder_attention_heads", config.encoder_attention_heads)
    need(config, "decoder_ffn_dim", config.encoder_ffn_dim)
    state: dict[str, Tensor] = {}
    parts = {"encoder": {"self_attn": "attention"}, "decoder": {"self_attn": "attention"}}
    parts["decoder"]["encoder_attn"] = "cross_attention"
    layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for stack, attentions in parts.items():
        for i in range(layers[stack]):
            block, source = f"{stack}.{i}.", f"model.{stack}.layers.{i}."
            names = {
                "fc1": "feed_forward.up",
                "fc2": "feed_forward.down",
                "final_layer_norm": "feed_forward_norm",
            }
            for name, ours in attentions.items():
                names[f"{name}_layer_norm"] = f"{ours}_norm"
                for letter, projection in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "output")):
                    names[f"{name}.{letter}_proj"] = f"{ours}.{projection}"
            _move(theirs, state, {f"{source}{name}": f"{block}{ours}" for name, ours in names.items()})
        _check_positions(theirs.pop(f"model.{stack}.embed_positions.weight"))
    state["source.embedding.weight"] = theirs.pop("model.encoder.embed_tokens.weight")
    state["target.weight"] = theirs.pop("model.decoder.embed_tokens.weight")
    state["head.weight"] = theirs.pop("lm_head.weight")
    state["head.bias"] = theirs.pop("final_logits_bias")[0]
    theirs.pop("model.shared.weight", None)  # what both embeddings were made of
    read, written, head = (state[f"{name}.weight"] for name in ("source.embedding", "target", "head"))
    one_matrix = torch.equal(written, head) and (read.shape != written.shape or torch.equal(read, written))
    turned = {name: _interleaved(name, tensor) for name, tensor in state.items()}
    return Converted(
        {
            "vocab_size": read.shape[0],
            "target_vocab_size": written.shape[0],
            "max_len": config.max_position_embeddings,
            "d_model": config.d_model,
            "n_layers": config.encoder_layers,
            "n_decoder_layers": config.decoder_layers,
            "n_heads": config.encoder_attention_heads,
            "d_ff": config.encoder_ffn_dim,
            "dropout": 0.0,
            "activation": activation,
            "tied": one_matrix,
        },
        turned,
    )


def _check_positions(theirs: Tensor) -> None:
    """Ours are computed, so theirs must be the sinusoids that they began as."""
    if not torch.allclose(_turned(theirs, 1), Sinusoidal(*theirs.shape).table, atol=1e-4):
        raise UserError(
            "embed_positions of this MarianMTModel were trained. Only the fixed sinusoids can be converted."
        )


_WRITES = (".output.weight", ".output.bias", ".down.weight", ".down.bias", "_norm.weight", "_norm.bias")
_READS = (
    ".query.weight",
    ".key.weight",
    ".value.weight",
    ".up.weight",
    "embedding.weight",
    "target.weight",
    "head.weight",
)


def _interleaved(name: str, tensor: Tensor) -> Tensor:
    """`tensor` with its D axes in our order, where it writes to the stream or reads from it."""
    axis = 0 if name.endswith(_WRITES) else 1 if name.endswith(_READS) else None
    return tensor if axis is None else _turned(tensor, axis)


def _turned(tensor: Tensor, axis: int) -> Tensor:
    """sin sin … cos cos … → sin cos sin cos …; an odd D has one sine more."""
    axes = torch.arange(tensor.shape[axis], device=tensor.device)
    return tensor.index_select(axis, axes // 2 + axes % 2 * ((len(axes) + 1) // 2))


def _move(theirs: dict[str, Tensor], state: dict[str, Tensor], names: dict[str, str]) -> None:
    """Weight and bias of each module, from their name to ours."""
    for name, ours in names.items():
        for part in ("weight", "bias"):
            state[f"{ours}.{part}"] = theirs.pop(f"{name}.{part}")
