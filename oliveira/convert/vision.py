"""Weights of other libraries' perceptrons and image classifiers under the names of this house.

Covered: sklearn MLPClassifier and nn.Sequential (`MLP`), transformers ResNetForImageClassification with basic blocks
(`CNN`), transformers ViTForImageClassification (`ViT`). Dropout becomes 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.convert.base import Converted, Pair, Reference, need, read
from oliveira.errors import UserError
from oliveira.models.cnn import CNN, CNNConfig
from oliveira.models.mlp import MLP, MLPConfig
from oliveira.models.vit import ViT, ViTConfig


def to_mlp(module: Any) -> MLP:
    """A copy, in `eval` mode, of a fitted `sklearn.neural_network.MLPClassifier` (its outputs before the softmax)
    or of an `nn.Sequential` of Linear, ReLU, Flatten and Dropout; inputs (B, 1, features).

    Raises `UserError` when `module` is of another kind or shape than `MLP`.
    """
    return read(module, "MLP", {"MLPClassifier": _sklearn, "Sequential": _sequential}).build(MLP, MLPConfig)


def to_cnn(module: Any, *, height: int = 224, width: int = 224) -> CNN:
    """A copy of a transformers `ResNetForImageClassification` with basic blocks, in `eval` mode.

    `height` and `width` are noted in the config: the weights fit any size. Raises `UserError` when `module` is no
    residual network of basic blocks, or one that `CNN` does not compute.
    """
    converted = read(module, "CNN", {"ResNetForImageClassification": _resnet})
    return converted.build(CNN, CNNConfig, height=height, width=width)


def to_vit(module: Any) -> ViT:
    """A copy of a transformers `ViTForImageClassification`, in `eval` mode.

    Raises `UserError` when `module` is no vision transformer, or one that `ViT` does not compute.
    """
    return read(module, "ViT", {"ViTForImageClassification": _vit}).build(ViT, ViTConfig)


# Perceptrons --------------------------------------------------------------------------------------


def _perceptron(layers: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    *hidden, (weight, bias) = layers
    if len(widths := {len(hidden_bias) for _, hidden_bias in hidden}) > 1:
        raise UserError(f"hidden layers of {sorted(widths)} units are not covered. Only one width for all of them is.")
    config = {"d_in": layers[0][0].shape[1], "max_len": 1, "d_out": len(bias), "n_layers": len(hidden)}
    state = {"output.weight": weight, "output.bias": bias}
    for i, (hidden_weight, hidden_bias) in enumerate(hidden):
        state |= {f"hidden.{i}.weight": hidden_weight, f"hidden.{i}.bias": hidden_bias}
    return config | ({"d_model": widths.pop()} if widths else {}), state


def _rows(ours: Any, random: torch.Generator) -> Tensor:
    return torch.randn(5, 1, ours.config.d_in, generator=random, dtype=next(ours.parameters()).dtype)


def _sklearn(theirs: Reference) -> Converted:
    module = theirs.module
    if not hasattr(module, "coefs_"):
        raise UserError("the MLPClassifier has no weights yet. Call its fit first.")
    need(module, "activation", "relu")
    need(module, "out_activation_", "softmax")
    config, state = _perceptron(
        [
            (torch.tensor(weight.T, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))
            for weight, bias in zip(module.coefs_, module.intercepts_, strict=True)
        ]
    )

    def trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
        x = _rows(ours, random)
        found = torch.from_numpy(theirs.predict_proba(x[:, 0].numpy()))
        yield Pair("probabilities", torch.softmax(ours(x), dim=-1), found.to(x))

    return Converted(config=config, state=state, trial=trial)


def _sequential(theirs: Reference) -> Converted:
    layers, place = [], 0
    for name, part in theirs.module.named_children():
        if type(part) is nn.Dropout or (type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)):
            continue
        wanted = nn.ReLU if place % 2 else nn.Linear
        if type(part) is not wanted or (isinstance(part, nn.Linear) and part.bias is None):
            raise UserError(
                f"{part} as part {place} of the nn.Sequential is not covered. "
                "Only Linear layers with a bias and one ReLU between two of them can be converted."
            )
        if isinstance(part, nn.Linear):
            layers.append((theirs.take(f"{name}.weight"), theirs.take(f"{name}.bias")))
        place += 1
    if not place % 2:
        raise UserError("the nn.Sequential has no Linear layer at its end. Only such can be converted.")

    def trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
        x = _rows(ours, random)
        yield Pair("logits", ours(x), theirs(x[:, 0]))

    config, state = _perceptron(layers)
    return Converted(config=config, state=state, trial=trial)


# Images -------------------------------------------------------------------------------------------

_STEMS = {(nn.MaxPool2d, 7, 7): "large", (nn.Identity, 3, 3): "small"}


def _images(sides: tuple[int, int], ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    x = torch.randn(2, ours.config.channels, *sides, generator=random, dtype=next(ours.parameters()).dtype)
    yield Pair("logits", ours(x), theirs(x)[0])


def _resnet(theirs: Reference) -> Converted:
    config, embedder = theirs.config, theirs.module.resnet.embedder
    need(config, "layer_type", "basic")
    need(config, "hidden_act", "relu")
    need(config, "downsample_in_first_stage", False)
    config.ignore("downsample_in_bottleneck")  # basic blocks have none
    config.ignore("out_features", "out_indices", "stage_names")  # of a backbone
    first, stages = config.hidden_sizes[0], len(config.hidden_sizes)
    need(config, "embedding_size", first)
    need(config, "hidden_sizes", [first * 2**i for i in range(stages)])
    need(config, "depths", [config.depths[0]] * stages)
    seen = (type(embedder.pooler), *embedder.embedder.convolution.kernel_size)
    if seen not in _STEMS:
        raise UserError(f"a stem of {embedder} is not covered. Only 7 × 7 with a max pool, or 3 × 3 without one, is.")
    as_made = theirs.twin
    assert as_made is not None

    def twin() -> nn.Module:  # the small stem is put in by hand: their config has no option for it
        made: Any = as_made()
        if _STEMS[seen] == "small":
            made.resnet.embedder.pooler = nn.Identity()
            made.resnet.embedder.embedder.convolution = nn.Conv2d(config.num_channels, first, 3, padding=1, bias=False)
        return made

    theirs.twin = twin
    names = {"resnet.embedder.embedder": "stem", "classifier.1": "output"}
    for stage in range(stages):
        for layer in range(config.depths[0]):
            source, block = (
                f"resnet.encoder.stages.{stage}.layers.{layer}",
                f"blocks.{stage * config.depths[0] + layer}",
            )
            names |= {f"{source}.layer.0": f"{block}.first", f"{source}.layer.1": f"{block}.second"}
            names[f"{source}.shortcut"] = f"{block}.shortcut"
    sizes = {
        "channels": config.num_channels,
        "d_out": config.num_labels,
        "d_model": first,
        "n_stages": stages,
        "n_layers": config.depths[0],
        "stem": _STEMS[seen],
    }
    state = _renamed(theirs, names)
    return Converted(config=sizes, state=state, trial=lambda *both: _images((17, 23), *both))


def _vit(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "hidden_act", "gelu")
    need(config, "qkv_bias", True)
    config.ignore("encoder_stride", "pooler_output_size", "pooler_act")  # the classifier reads the class token itself
    (height, width), (patch, other) = (_pair(sides) for sides in (config.image_size, config.patch_size))
    if patch != other:
        raise UserError(f"patch_size = {config.patch_size} is not covered. Only square patches can be converted.")
    if height % patch or width % patch:
        raise UserError(
            f"image_size = {config.image_size} with patch_size = {patch} leaves pixels over that this ViT never sees. "
            "Only sides that are whole patches can be converted."
        )
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
    sizes = {
        "channels": config.num_channels,
        "height": height,
        "width": width,
        "d_out": config.num_labels,
        "patch_size": patch,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_ff": config.intermediate_size,
        "norm_eps": config.layer_norm_eps,
    }
    state = _renamed(theirs, names)
    return Converted(config=sizes, state=state, trial=lambda *both: _images((height, width), *both))


def _pair(sides: Any) -> tuple[int, int]:
    """One number, or a height and a width."""
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def _renamed(theirs: Reference, names: dict[str, str]) -> dict[str, Tensor]:
    """Every weight under our name for the longest part of its own that `names` knows."""
    state = {}
    for name in list(theirs.weights):
        known = max((source for source in names if f"{name}.".startswith(f"{source}.")), key=len, default=None)
        if known is not None:
            state[f"{names[known]}{name.removeprefix(known)}"] = theirs.take(name)
    return state
