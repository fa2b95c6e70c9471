"""LoRA: a frozen matrix learns through a product of two thin ones.

Paper: Hu et al. 2021, arXiv:2106.09685, §4.1.

    W' = W + α/r · B A,   B ∈ R^{d_out × r} starts at zero, A ∈ R^{r × d_in} like a linear layer

Seed 000 writes B ∈ R^{r×d}, A ∈ R^{d×r}: then B A is r × r and cannot be added to W. The paper's shapes
are used.

Shapes: x (…, d_in) → (…, d_out). Complexity: r·(d_in + d_out) trained numbers a layer; free once merged.
Checked against: peft.LoraConfig, outputs and gradients to 1e-5; merged = unmerged to 1e-6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.files import sha256_bytes, sha256_json, write_atomic, write_json_atomic

WEIGHTS, DESCRIPTION = "lora.safetensors", "adapter.json"


class LoRALinear(nn.Module):
    """`linear`, frozen, plus the low-rank term."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return self.linear(x) + self.alpha / self.rank * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer with W' as its weight."""
        self.linear.weight += self.alpha / self.rank * (self.lora_b @ self.lora_a)
        return self.linear


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> nn.Module:
    """Freezes `model` and wraps, in place, every `nn.Linear` whose attribute name is in `targets`.

    A comes from torch's global random generator. Only `lora_a` and `lora_b` require gradients afterwards.
    Returns the model. Raises `UserError` when the rank is below 1, a target names no linear layer, its weight
    is shared with another layer, or the model carries LoRA already.
    """
    if rank < 1:
        raise UserError(f"adapt.rank = {rank} is below 1. Use 4, 8 or 16.")
    if layers(model):
        raise UserError("the model carries LoRA already. Merge it first.")
    linears = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    known = sorted({name for _, name, _ in linears})
    if unknown := [target for target in targets if target not in known]:
        raise UserError(
            f"adapt.targets: {unknown[0]!r} names no linear layer of {type(model).__name__}. "
            f"Use some of {', '.join(known)}."
        )
    chosen = [(parent, name, child) for parent, name, child in linears if name in targets]
    owners = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    for _, name, child in chosen:
        if sum(parameter is child.weight for parameter in owners) > 1:
            raise UserError(f"adapt.targets: {name!r} shares its weight with another layer. Leave it out.")
    model.requires_grad_(False)
    for parent, name, child in chosen:
        setattr(parent, name, LoRALinear(child, rank, alpha).train(child.training))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Puts W' into plain `nn.Linear` layers, in place. Returns the model; all its parameters train again."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, name, child.merged())
    return model.requires_grad_(True)


def layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The wrapped layers by their name in the model."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def save_adapter(folder: Path, model: nn.Module, *, base: str) -> None:
    """Writes `lora.safetensors` and `adapter.json` into `folder`. `base`: digest of the weights it adapts."""
    wrapped = layers(model)
    if not wrapped:
        raise OliveiraError("the model carries no LoRA layer: nothing to save")
    weights = save({name: parameter.detach().contiguous() for name, parameter in _parameters(model).items()})
    first = next(iter(wrapped.values()))
    told = {
        "base": base,
        "rank": first.rank,
        "alpha": first.alpha,
        "targets": sorted({name.rpartition(".")[2] for name in wrapped}),
        "weights": sha256_bytes(weights),
    }
    write_atomic(folder / WEIGHTS, weights)
    write_json_atomic(folder / DESCRIPTION, {**told, "digest": sha256_json(told)})


def load_adapter(folder: Path, model: nn.Module, *, base: str) -> nn.Module:
    """Adds the adapter of `folder` to the plain `model`, whose weights have the digest `base`. Returns it.

    Raises `UserError` when the adapter was trained on other weights, `CorruptError` when its bytes changed.
    Either way the model is left as it was.
    """
    try:
        told = json.loads((folder / DESCRIPTION).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
        intact = told.pop("digest") == sha256_json(told) and told["weights"] == sha256_bytes(weights)
        tensors = load(weights) if intact else {}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise CorruptError(f"adapter {folder.name} cannot be read ({type(error).__name__})") from None
    if not intact:
        raise CorruptError(f"adapter {folder.name} is not the one that was written")
    if told["base"] != base:
        raise UserError(
            f"adapter {folder.name} was trained on weights {told['base'][:12]}, not on {base[:12]}. "
            "Load that model or train an adapter for this one."
        )
    add_lora(model, told["rank"], told["alpha"], told["targets"])
    parameters = _parameters(model)
    if {name: p.shape for name, p in parameters.items()} != {name: t.shape for name, t in tensors.items()}:
        merge(model)  # B is zero: the weights are what they were
        raise CorruptError(f"adapter {folder.name} has other layers or shapes than {type(model).__name__}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return model


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{part}": getattr(layer, part) for name, layer in layers(model).items() for part in ("lora_a", "lora_b")
    }
