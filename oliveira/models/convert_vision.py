"""Weights of other libraries' perceptrons and image classifiers under the names of this house.

As in `oliveira.models.convert`: refused in one sentence is what our class does not compute, and any weight left over.

Covered: sklearn MLPClassifier and nn.Sequential (`MLP`), transformers ResNetForImageClassification with basic blocks
(`CNN`), transformers ViTForImageClassification (`ViT`). Dropout becomes 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.models.convert import Converted, need


def to_mlp(module: Any) -> Converted:
    """Raises `UserError` when `module` is of another kind or shape than `MLP`."""
    kind = type(module).__name__
    if kind == "MLPClassifier":
        layers = _sklearn_layers(module)
    elif isinstance(module, nn.Sequential):
        layers = _sequential_layers(module)
    else:
        raise UserError(f"a {kind} cannot become an MLP. Give an MLPClassifier or an nn.Sequential.")
    *hidden, (weight, bias) = layers
    if len(widths := {len(hidden_bias) for _, hidden_bias in hidden}) > 1:
        raise UserError(f"hidden layers of {sorted(widths)} units are not covered. Only one width for all of them is.")
    config = {"d_in": layers[0][0].shape[1], "max_len": 1, "d_out": len(bias), "n_layers": len(hidden)}
    state = {"output.weight": weight, "output.bias": bias}
    for i, (hidden_weight, hidden_bias) in enumerate(hidden):
        state |= {f"hidden.{i}.weight": hidden_weight, f"hidden.{i}.bias": hidden_bias}
    return Converted(config | ({"d_model": widths.pop()} if widths else {}), state)


def _sklearn_layers(module: Any) -> list[tuple[Tensor, Tensor]]:
    if not hasattr(module, "coefs_"):
        raise UserError("the MLPClassifier has no weights yet. Call its fit first.")
    need(module, "activation", "relu")
    need(module, "out_activation_", "softmax")
    return [
        (torch.tensor(weight.T, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))
        for weight, bias in zip(module.coefs_, module.intercepts_, strict=True)
    ]


def _sequential_layers(module: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    steps = [part for part in module if not isinstance(part, (nn.Flatten, nn.Dropout))]
    for place, part in enumerate(steps):
        wanted = nn.ReLU if place % 2 else nn.Linear
        if type(part) is not wanted or (isinstance(part, nn.Linear) and part.bias is None):
            raise UserError(
                f"{part} as part {place} of the nn.Sequential is not covered. "
                "Only Linear layers with a bias and one ReLU between two of them can be converted."
            )
    if not len(steps) % 2:
        raise UserError("the nn.Sequential has no Linear layer at its end. Only such can be converted.")
    return [(part.weight, part.bias) for part in steps if isinstance(part, nn.Linear)]


_STEMS = {(nn.MaxPool2d, 7, 7): "large", (nn.Identity, 3, 3): "small"}


def to_cnn(module: Any) -> Converted:
    """Raises `UserError` when `module` is no residual network of basic blocks, or one that `CNN` does not compute."""
    kind = type(module).__name__
    if kind != "ResNetForImageClassification":
        raise UserError(f"a {kind} cannot become a CNN. Give a ResNetForImageClassification.")
    config, theirs = module.config, dict(module.state_dict())
    need(config, "layer_type", "basic")
    need(config, "hidden_act", "relu")
    need(config, "downsample_in_first_stage", False)
    first, stages = config.hidden_sizes[0], len(config.hidden_sizes)
    need(config, "embedding_size", first)
    need(config, "hidden_sizes", [first * 2**i for i in range(stages)])
    need(config, "depths", [config.depths[0]] * stages)
    embedder = module.resnet.embedder
    seen = (type(embedder.pooler), *embedder.embedder.convolution.kernel_size)
    if seen not in _STEMS:
        raise UserError(f"a stem of {embedder} is not covered. Only 7 × 7 with a max pool, or 3 × 3 without one, is.")
    names = {"resnet.embedder.embedder": "stem", "classifier.1": "output"}
    for stage in range(stages):
        for layer in range(config.depths[0]):
            source, block = (
                f"resnet.encoder.stages.{stage}.layers.{layer}",
                f"blocks.{stage * config.depths[0] + layer}",
            )
            names |= {f"{source}.layer.0": f"{block}.first", f"{source}.layer.1": f"{block}.second"}
            names[f"{source}.shortcut"] = f"{block}.shortcut"
    return Converted(
        {
            "channels": config.num_channels,
            "d_out": config.num_labels,
            "d_model": first,
            "n_stages": stages,
            "n_layers": config.depths[0],
            "stem": _STEMS[seen],
        },
        _renamed(theirs, names, kind, "CNN"),
    )


def to_vit(module: Any) -> Converted:
    """Raises `UserError` when `module` is no vision transformer, or one that `ViT` does not compute."""
    kind = type(module).__name__
    if kind != "ViTForImageClassification":
        raise UserError(f"a {kind} cannot become a ViT. Give a ViTForImageClassification.")
    config, theirs = module.config, dict(module.state_dict())
    need(config, "hidden_act", "gelu")
    need(config, "qkv_bias", True)
    side = config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    names = {
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.position_embeddings": "positions",
        "vit.embeddings.patch_embeddings.projection": "patches",
        "vit.layernorm": "norm",
        "classifier": "output",
    }
    for i in range(config.num_hidden_layers):
        source, block = f"vit.layers.{i}", f"blocks.{i}"
        names |= {
            f"{source}.attention.q_proj": f"{block}.attention.query",
            f"{source}.attention.k_proj": f"{block}.attention.key",
            f"{source}.attention.v_proj": f"{block}.attention.value",
            f"{source}.attention.o_proj": f"{block}.attention.output",
            f"{source}.layernorm_before": f"{block}.attention_norm",
            f"{source}.layernorm_after": f"{block}.feed_forward_norm",
            f"{source}.mlp.fc1": f"{block}.feed_forward.up",
            f"{source}.mlp.fc2": f"{block}.feed_forward.down",
        }
    return Converted(
        {
            "channels": config.num_channels,
            "height": height,
            "width": width,
            "d_out": config.num_labels,
            "patch_size": config.patch_size,
            "d_model": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "d_ff": config.intermediate_size,
            "norm_eps": config.layer_norm_eps,
        },
        _renamed(theirs, names, kind, "ViT"),
    )


def _renamed(theirs: dict[str, Tensor], names: dict[str, str], kind: str, ours: str) -> dict[str, Tensor]:
    """Every weight under our name for the longest part of its own that `names` knows."""
    state = {}
    for name, weight in theirs.items():
        known = max((source for source in names if f"{name}.".startswith(f"{source}.")), key=len, default=None)
        if known is None:
            raise UserError(f"{kind} has a weight that {ours} does not know: {name}.")
        state[f"{names[known]}{name.removeprefix(known)}"] = weight
    return state
