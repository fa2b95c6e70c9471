"""Weights of other libraries' encoder–decoders under the names of `oliveira.models.transformer`.

Covered: torch.nn.Transformer (both stacks; it has no ends) and transformers MarianMTModel. A converter refuses, in one
sentence, what `Transformer` does not compute, and when a weight is left over: nothing is dropped in silence.

Marian keeps all sines in the first half of a position and all cosines in the second, we take turns as the paper does.
The order of a model's D axes means nothing to its layers, so its weights are read with their axes in our order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.convert.base import Converted, Pair, Reference, first_steps, need, read, tokens
from oliveira.errors import UserError
from oliveira.models.transformer import Transformer, TransformerConfig
from oliveira.nn.positional import Sinusoidal

EPS = 1e-5  # of every norm here and there


def to_transformer(
    module: nn.Module, *, vocab_size: int = 0, target_vocab_size: int = 0, max_len: int = 256
) -> Transformer:
    """A copy of a transformers `MarianMTModel`, or of the two stacks of a `torch.nn.Transformer`, in `eval` mode.

    The latter has neither embeddings nor an output: they start fresh, in the sizes given. Raises `UserError` when
    `module` is of another kind or uses what `Transformer` does not have.
    """
    ends = {"vocab_size": vocab_size, "target_vocab_size": target_vocab_size, "max_len": max_len}
    converted = read(module, "Transformer", {"Transformer": partial(_torch, ends=ends), "MarianMTModel": _marian})
    return converted.build(Transformer, TransformerConfig)


# torch.nn.Transformer -----------------------------------------------------------------------------


def _torch(theirs: Reference, *, ends: dict[str, int]) -> Converted:
    module = theirs.module
    if not (ends["vocab_size"] and ends["target_vocab_size"]):
        raise UserError("a torch.nn.Transformer has no embeddings. Give vocab_size and target_vocab_size, as in 4096.")
    if not (type(module.encoder) is nn.TransformerEncoder and type(module.decoder) is nn.TransformerDecoder):
        raise UserError("a torch.nn.Transformer with a custom encoder or decoder is not covered. Only its own can be.")
    if not (len(module.encoder.layers) and len(module.decoder.layers)):
        raise UserError("a torch.nn.Transformer without layers in one stack is not covered. Give one or more to each.")
    layer = module.encoder.layers[0]
    activations = {F.relu: "relu", F.gelu: "gelu"}
    if layer.activation not in activations:
        raise UserError(f"activation = {layer.activation} is not covered. Only relu and gelu can be converted.")
    if layer.linear1.bias is None:
        raise UserError("a torch.nn.Transformer with bias = False is not covered. Only bias = True can be converted.")
    if layer.norm1.eps != EPS:
        raise UserError(f"layer_norm_eps = {layer.norm1.eps} is not covered. Only {EPS} can be converted.")
    # All layers are as the first of the encoder, or the twin shows it.
    theirs.twin = lambda: nn.Transformer(
        module.d_model, module.nhead, len(module.encoder.layers), len(module.decoder.layers),
        layer.linear1.out_features, activation=layer.activation, batch_first=module.batch_first,
        norm_first=layer.norm_first,
    )  # fmt: skip
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
                    stacked = theirs.take(f"{source}{name}.in_proj_{part}").chunk(3)
                    for projection, tensor in zip(("query", "key", "value"), stacked, strict=True):
                        state[f"{block}{ours}.{projection}.{part}"] = tensor
            theirs.move(names, state, source, block)
        theirs.move({"norm": "norm"}, state, f"{stack}.", f"{stack}_")
    sizes = {
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
    fresh = ("source.", "target.", "head.")
    return Converted(config={**sizes, **ends}, state=state, fresh=fresh, trial=_stacks)


def _stacks(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Both stacks on numbers: a padded source, a causal target."""
    width = ours.config.d_model
    dtype = next(ours.parameters()).dtype
    source, target = (torch.randn(2, steps, width, generator=random, dtype=dtype) for steps in (7, 5))
    real, future = first_steps(7, 4), torch.ones(5, 5).triu(1).bool()
    x, y = (source, target) if theirs.batch_first else (source.transpose(0, 1), target.transpose(0, 1))
    found = theirs(x, y, tgt_mask=future, src_key_padding_mask=~real, memory_key_padding_mask=~real)
    allowed = real[:, None, None, :]
    mine = ours.decode(target, ours.encode(source, allowed), allowed)
    yield Pair("the decoder's states", mine, found if theirs.batch_first else found.transpose(0, 1))


# Marian -------------------------------------------------------------------------------------------


def _marian(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "scale_embedding", True)
    activation = need(config, "activation_function", "relu", "gelu")
    need(config, "decoder_attention_heads", config.encoder_attention_heads)
    need(config, "decoder_ffn_dim", config.encoder_ffn_dim)
    need(config, "is_decoder", False)
    # Seen in the weights themselves.
    config.ignore("vocab_size", "decoder_vocab_size", "share_encoder_decoder_embeddings", "tie_word_embeddings")
    state: dict[str, Tensor] = {}
    parts = {"encoder": {"self_attn": "attention"}, "decoder": {"self_attn": "attention"}}
    parts["decoder"]["encoder_attn"] = "cross_attention"
    layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for stack, attentions in parts.items():
        for i in range(layers[stack]):
            names = {
                "fc1": "feed_forward.up",
                "fc2": "feed_forward.down",
                "final_layer_norm": "feed_forward_norm",
            }
            for name, ours in attentions.items():
                names[f"{name}_layer_norm"] = f"{ours}_norm"
                for letter, projection in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "output")):
                    names[f"{name}.{letter}_proj"] = f"{ours}.{projection}"
            theirs.move(names, state, f"model.{stack}.layers.{i}.", f"{stack}.{i}.")
        _check_positions(theirs.take(f"model.{stack}.embed_positions.weight"))
    ends = {"model.encoder.embed_tokens": "source.embedding", "model.decoder.embed_tokens": "target", "lm_head": "head"}
    theirs.move(ends, state)
    state["head.bias"] = theirs.take("final_logits_bias")[0]
    theirs.drop("model.shared.weight")  # what both embeddings were made of
    read, written, head = (state[f"{name}.weight"] for name in ("source.embedding", "target", "head"))
    one_matrix = torch.equal(written, head) and (read.shape != written.shape or torch.equal(read, written))
    turned = {name: _interleaved(name, tensor) for name, tensor in state.items()}
    sizes = {
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
    }
    return Converted(config=sizes, state=turned, trial=_translation)


def _translation(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Logits of two targets, the source of one of them padded."""
    sizes, length = ours.config, min(ours.config.max_len, 7)
    source, target = tokens(2, sizes.vocab_size, length, random), tokens(2, sizes.target_vocab_size, length, random)
    real = first_steps(length, (length + 1) // 2)
    found = theirs(input_ids=source, attention_mask=real.long(), decoder_input_ids=target)[0]
    yield Pair("logits", ours(source, target, real), found)


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
