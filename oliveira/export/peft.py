"""An adapter as a folder of peft: `adapter_config.json`, `adapter_model.safetensors`; and back from there.

    base_model.model.NAME.lora_A.weight   (r, d_in)      ours: layer.lora_a
    base_model.model.NAME.lora_B.weight   (d_out, r)     ours: layer.lora_b; both count alpha / r

NAME is the layer's in transformers' model of the same weights (`oliveira.export.theirs`). GPT-2 keeps queries, keys and
values in one layer: an adapter of one of the three cannot be said there, and is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from oliveira.adaptation.lora import StoredAdapter
from oliveira.errors import CorruptError, UserError
from oliveira.export.theirs import Theirs
from oliveira.files import atomic_directory, readable_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_STEM = "base_model.model."
_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
# Options of peft that change what is computed, and the only value that is the same here.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, True, None),  # how the base is kept, not the adapter
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "lora_bias": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
}


def write_peft(adapter: StoredAdapter, theirs: Theirs, folder: Path) -> dict[str, Any]:
    """Writes `folder`, whole or not at all. It names no base: peft would ask the network for it."""
    if folder.exists():
        raise UserError(f"{folder} exists already. Give another --output: an export replaces nothing.")
    tensors = {}
    for name, tensor in adapter.tensors.items():
        layer, _, part = name.rpartition(".")
        if layer not in theirs.layers:
            raise UserError(
                f"{layer} is no layer of its own in a {theirs.kind}: peft cannot say this adapter. "
                f"Train one with adapt.targets = {', '.join(sorted({n.rpartition('.')[2] for n in theirs.layers}))}."
            )
        tensors[f"{_STEM}{theirs.layers[layer]}.{_PARTS[part]}"] = tensor.contiguous()
    # attn.c_proj and mlp.c_proj are two: the last two names say which
    targets = sorted({".".join(name.split(".lora_")[0].split(".")[-2:]) for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": theirs.kind == "GPT2LMHeadModel",
        "inference_mode": True,
    }
    with atomic_directory(folder) as made:
        (made / CONFIG).write_bytes(readable_json(config))
        (made / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    return {"folder": str(folder), "rank": adapter.rank, "target_modules": targets}


def read_peft(folder: Path, theirs: Theirs) -> StoredAdapter:
    """The adapter of a folder of peft, under our names. `theirs`: the model that it is for. Raises `UserError` for what
    LoRA here does not compute and for other layers, `CorruptError` for a file that cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        tensors = load((folder / WEIGHTS).read_bytes())
        rank, alpha = config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CorruptError(f"{folder.name} is no folder of peft that can be read ({type(error).__name__}).") from None
    for name, allowed in _PLAIN.items():
        if config.get(name) not in allowed:
            raise UserError(f"{name} = {config[name]!r} of this adapter is not covered. Only plain LoRA can be read.")
    if not (type(rank) is int and rank > 0 and isinstance(alpha, (int, float)) and 0 < alpha < 1e6):
        raise UserError(f"r = {rank!r} and lora_alpha = {alpha!r} of this adapter are no numbers above 0.")
    ours = {
        f"{_STEM}{there}.{suffix}": f"{here}.{part}"
        for here, there in theirs.layers.items()
        for part, suffix in _PARTS.items()
    }
    if unknown := [name for name in tensors if name not in ours]:
        raise UserError(
            f"{unknown[0]} of this adapter names no layer of the {theirs.kind} that is served. Give one made for it."
        )
    renamed = {ours[name]: tensor.float() for name, tensor in tensors.items()}
    _check(renamed, theirs, rank)
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in renamed})
    return StoredAdapter("", rank, float(alpha), targets, renamed)


def _check(tensors: dict[str, Any], theirs: Theirs, rank: int) -> None:
    for layer in {name.rpartition(".")[0] for name in tensors}:
        a, b = (tensors.get(f"{layer}.{part}") for part in ("lora_a", "lora_b"))
        if a is None or b is None:
            raise UserError(f"{layer} has one of its two thin matrices only. Give the whole adapter.")
        weight = theirs.tensors[f"{theirs.layers[layer]}.weight"]
        d_out, d_in = weight.T.shape if theirs.kind == "GPT2LMHeadModel" else weight.shape
        if a.shape != (rank, d_in) or b.shape != (d_out, rank):
            raise UserError(
                f"{layer} of this adapter has the shapes {tuple(a.shape)} and {tuple(b.shape)}, "
                f"the model and r = {rank} say {(rank, d_in)} and {(d_out, rank)}."
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise UserError(f"{layer} of this adapter holds numbers that are not finite.")
