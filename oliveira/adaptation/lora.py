"""LoRA: a frozen matrix learns through a product of two thin ones. QLoRA: the frozen matrix has 4 bits.

Papers: Hu et al. 2021, arXiv:2106.09685, §4.1; Dettmers et al. 2023, arXiv:2305.14314, §3 (eq. 5).

    W' = W + α/r · B A,   B ∈ R^{d_out × r} starts at zero, A ∈ R^{r × d_in} like a linear layer

Seed document 000 writes B ∈ R^{r×d}, A ∈ R^{d×r}: then B A is r × r and cannot be added to W. The paper's shapes
are used.

Linear layers take it, and the kernels of recurrent layers: W and U of all gates stand in one matrix each, and get one
product together (`LoRAWeight`). Convolutions, embeddings, norms and the matrices of state spaces stay as they are.

A 4-bit W (`QuantisedLinear`) is rebuilt twice a step, for y and for ∂x, and never kept. `compute="bf16"` rounds what
enters a product with W, and what leaves it, to bfloat16 while the layer trains; A, B and their products stay float32.

Shapes: x (…, d_in) → (…, d_out). Complexity: r·(d_in + d_out) trained numbers a layer; free once merged.
Checked against: peft.LoraConfig, outputs and gradients to 1e-5; merged = unmerged to 1e-6.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oliveira.adaptation.settings import AdaptSection
from oliveira.compression.linear import QuantisedLinear
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.files import sha256_bytes, sha256_json, write_atomic, write_json_atomic
from oliveira.kernels.products import bf16_available, pays, product, weight_of
from oliveira.nn import recurrent

Compute = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WEIGHTS, DESCRIPTION = "lora.safetensors", "adapter.json"
LINEAR = (nn.Linear, QuantisedLinear)
KERNELS = ("weight_ih", "weight_hh")  # of a recurrent layer


def fastest_compute() -> Compute:
    """In what this processor computes the frozen products fastest."""
    return "bf16" if bf16_available() else "fp32"


class _Product(torch.autograd.Function):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ with W frozen. Kept for the way back: x and x Aᵀ, not W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_a: Tensor, lora_b: Tensor, layer: LoRALinear) -> Tensor:
        u = product(x, lora_a) * layer.scale
        ctx.layer = layer
        ctx.save_for_backward(x, u, lora_a, lora_b)
        return _plus(_frozen(x, layer, layer.linear.bias), u, lora_b.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, u, lora_a, lora_b = ctx.saved_tensors
        d_u = product(gradient, lora_b.t()) * ctx.layer.scale
        rows_x, rows_u, rows_d_u, rows_y = (t.flatten(0, -2) for t in (x, u, d_u, gradient))
        # The thin side is the one that is written again in another order.
        d_a, d_b = product(rows_d_u.t(), rows_x.t()), product(rows_u.t(), rows_y.t()).t()
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = _plus(_frozen(gradient, ctx.layer, None, transposed=True), d_u, lora_a)
        return d_x, d_a, d_b, None


def _frozen(x: Tensor, layer: LoRALinear, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    weight = weight_of(layer.linear, layer.dtype)
    bias = None if bias is None else bias.to(layer.dtype)
    return product(x.to(layer.dtype), weight.t() if transposed else weight, bias).float()


def _plus(y: Tensor, thin: Tensor, matrix: Tensor) -> Tensor:
    """y + thin matrix, in place: a new y would cost more than this product."""
    y.flatten(0, -2).addmm_(thin.flatten(0, -2), matrix)
    return y


class LoRALinear(nn.Module):
    """`linear`, frozen, plus the low-rank term."""

    def __init__(
        self, linear: nn.Linear | QuantisedLinear, rank: int, alpha: float, *, compute: Compute = "fp32"
    ) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.rank, self.alpha, self.scale, self.dtype = rank, alpha, alpha / rank, DTYPES[compute]
        like = linear.weight if isinstance(linear, nn.Linear) else torch.empty(0)
        self.lora_a, self.lora_b = _factors(like, linear.out_features, linear.in_features, rank)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.lora_a.dtype == torch.float32 and pays(x, self.linear.out_features):
            result: Tensor = _Product.apply(x, self.lora_a, self.lora_b, self)
            return result
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return self.linear(x) + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear | QuantisedLinear:
        """The layer with W' as its weight, stored as W was: 4-bit codes are found anew for W'."""
        update = self.scale * (self.lora_b @ self.lora_a)
        if isinstance(self.linear, nn.Linear):
            self.linear.weight += update
            return self.linear
        return requantised(self.linear, self.linear.dequantised() + update)


class LoRAWeight(nn.Module):
    """A recurrent layer's kernel, frozen, plus the low-rank term: torch's parametrisation of that weight."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        d_out, d_in = weight.shape
        self.lora_a, self.lora_b = _factors(weight, d_out, d_in, rank)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.lora_b @ self.lora_a)


def _factors(like: Tensor, d_out: int, d_in: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    a, b = nn.Parameter(like.new_empty(rank, d_in)), nn.Parameter(like.new_zeros(d_out, rank))
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    return a, b


def requantised(layer: QuantisedLinear, weight: Tensor) -> QuantisedLinear:
    """A layer like `layer`, with `weight` (d_out, d_in) in its place."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        plain.weight.copy_(weight)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    return QuantisedLinear(plain, layer.method)


class _Place(NamedTuple):
    """A matrix that LoRA can adapt."""

    parent: nn.Module
    name: str  # of the layer, or of the kernel, in its parent
    path: str  # in the model
    d_out: int
    d_in: int
    shared: bool  # with another layer

    def wrap(self, rank: int, alpha: float, compute: Compute) -> None:
        child = getattr(self.parent, self.name)
        if isinstance(child, Tensor):
            kernel = LoRAWeight(child, rank, alpha).train(self.parent.training)
            parametrize.register_parametrization(self.parent, self.name, kernel)
        else:
            layer = LoRALinear(child, rank, alpha, compute=compute).train(child.training)
            setattr(self.parent, self.name, layer)


def _places(model: nn.Module) -> list[_Place]:
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = []
    for above, parent in model.named_modules():
        for name, child in parent.named_children():
            if isinstance(child, LINEAR):
                shared = isinstance(child, nn.Linear) and owners[id(child.weight)] > 1
                path = f"{above}.{name}".lstrip(".")
                places.append(_Place(parent, name, path, child.out_features, child.in_features, shared))
        if isinstance(parent, recurrent.Layer):
            for name in KERNELS:
                kernel = getattr(parent, name)
                shared = owners[id(kernel)] > 1
                places.append(_Place(parent, name, f"{above}.{name}", kernel.shape[0], kernel.shape[1], shared))
    return places


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    targets: Sequence[str] | Callable[[str], bool] | None,
    *,
    compute: Compute = "fp32",
) -> nn.Module:
    """Freezes `model` and wraps, in place, every linear layer, 4-bit or not, and every recurrent kernel whose attribute
    name is in `targets`. None: all of them but those that share their weight, and where one is narrower than the rank,
    with that width for a rank; a function: of these the ones of whose name in the model it says so.

    A comes from torch's global random generator. Only `lora_a` and `lora_b` require gradients afterwards.
    `compute`: in what the frozen products are computed while training (see the head of the file). Returns the model.
    Raises `UserError` when the rank is below 1, a target names no such layer, its weight is shared with another
    layer, the model has none or carries LoRA already, or the processor does not compute in bfloat16.
    """
    if compute not in DTYPES:
        raise UserError(f"compute = {compute!r} is not known. Use {' or '.join(DTYPES)}.")
    if compute == "bf16" and not bf16_available():
        raise UserError("compute = 'bf16': this processor has no bfloat16 products. Use compute = 'fp32'.")
    if rank < 1:
        raise UserError(f"adapt.rank = {rank} is below 1. Use 4, 8 or 16.")
    if layers(model):
        raise UserError("the model carries LoRA already. Merge it first.")
    places = _places(model)
    if targets is None or callable(targets):
        chosen = [p for p in places if not p.shared and (targets is None or targets(p.path))]
        if not chosen:
            raise UserError(f"{type(model).__name__} has no linear layer that LoRA may change. Train all its weights.")
    else:
        chosen = [place for place in places if place.name in targets]
        _check(model, places, chosen, targets, rank)
    model.requires_grad_(False)
    for place in chosen:
        fits = min(rank, place.d_out, place.d_in)
        place.wrap(fits, alpha * fits / rank, compute)
    return model


def _check(
    model: nn.Module, places: Sequence[_Place], chosen: Sequence[_Place], targets: Sequence[str], rank: int
) -> None:
    known = sorted({place.name for place in places})
    if unknown := [target for target in targets if target not in known]:
        raise UserError(
            f"adapt.targets: {unknown[0]!r} names no linear layer of {type(model).__name__}. "
            f"Use some of {', '.join(known)}."
        )
    for place in chosen:
        narrow = min(place.d_in, place.d_out)
        if rank > narrow:
            raise UserError(
                f"adapt.rank = {rank} is above {narrow}, the narrower side of layer {place.name!r} "
                f"({place.d_in} → {place.d_out}): more learns nothing more. Use {narrow} or less."
            )
    for place in chosen:
        if place.shared:
            raise UserError(f"adapt.targets: {place.name!r} shares its weight with another layer. Leave it out.")


def lora_targets(model: nn.Module, section: AdaptSection) -> list[str]:
    """Of a model of text: the names in the section, or every linear layer, 4-bit or not, inside `model.blocks`."""
    names = (name for name, layer in model.named_modules() if isinstance(layer, LINEAR) and name.startswith("blocks."))
    return list(section.targets) or sorted({name.rpartition(".")[2] for name in names})


def merge(model: nn.Module) -> nn.Module:
    """Puts W' into the layers, in place. Returns the model; all its parameters train again.

    A 4-bit layer stays one, and W' is rounded to 4 bits anew, which costs loss. To merge without it, call
    `dequantise_model` first, or keep the adapter beside the 4-bit weights.
    """
    return _without(model, merged=True)


def _without(model: nn.Module, *, merged: bool) -> nn.Module:
    """The model without its LoRA, in place: with W' in its layers, or as it was before `add_lora`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, name, child.merged() if merged else child.linear)
        for name in KERNELS if isinstance(parent, recurrent.Layer) else ():
            if parametrize.is_parametrized(parent, name):
                parametrize.remove_parametrizations(parent, name, leave_parametrized=merged)
    return model.requires_grad_(True)


def layers(model: nn.Module) -> dict[str, LoRALinear | LoRAWeight]:
    """The wrapped layers and kernels by their name in the model."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear | LoRAWeight)}


def save_adapter(folder: Path, model: nn.Module, *, base: str) -> None:
    """Writes `lora.safetensors` and `adapter.json` into `folder`. `base`: digest of the weights it adapts."""
    wrapped = layers(model)
    if not wrapped:
        raise OliveiraError("the model carries no LoRA layer: nothing to save")
    first = next(iter(wrapped.values()))
    if any(layer.rank != first.rank for layer in wrapped.values()):
        raise OliveiraError("LoRA of several ranks is merged, not saved: name the layers that it adapts")
    tensors = {name: parameter.detach().contiguous() for name, parameter in _parameters(model).items()}
    targets = sorted({_attribute(name) for name in wrapped})
    write_adapter(folder, StoredAdapter("", first.rank, first.alpha, targets, tensors), base=base)


def write_adapter(folder: Path, adapter: StoredAdapter, *, base: str) -> None:
    """As `save_adapter`, of tensors by their names."""
    weights = save(adapter.tensors)
    told = {
        "base": base,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "targets": adapter.targets,
        "weights": sha256_bytes(weights),
    }
    write_atomic(folder / WEIGHTS, weights)
    write_json_atomic(folder / DESCRIPTION, {**told, "digest": sha256_json(told)})


def _attribute(name: str) -> str:
    """Of a layer; of a kernel, which torch calls LAYER.parametrizations.KERNEL.0."""
    parts = name.split(".")
    return parts[-2] if "parametrizations" in parts else parts[-1]


class StoredAdapter(NamedTuple):
    """What a folder holds. `tensors`: layer.lora_a (r, d_in) and layer.lora_b (d_out, r) by name."""

    digest: str
    rank: int
    alpha: float
    targets: list[str]
    tensors: dict[str, Tensor]

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer → (A, α/r · B): the term that is added to its output is B A x."""
        scale = self.alpha / self.rank
        names = [name.removesuffix(".lora_a") for name in self.tensors if name.endswith(".lora_a")]
        return {name: (self.tensors[f"{name}.lora_a"], scale * self.tensors[f"{name}.lora_b"]) for name in names}


def read_adapter(folder: Path, *, base: str) -> StoredAdapter:
    """The adapter of `folder`, verified. Raises `UserError` when it was trained on other weights than those with the
    digest `base`, `CorruptError` when its bytes changed."""
    try:
        told = json.loads((folder / DESCRIPTION).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
        digest = told.pop("digest")
        intact = digest == sha256_json(told) and told["weights"] == sha256_bytes(weights)
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
    return StoredAdapter(digest, told["rank"], told["alpha"], told["targets"], tensors)


def load_adapter(folder: Path, model: nn.Module, *, base: str) -> nn.Module:
    """Adds the adapter of `folder` to the plain `model`, whose weights have the digest `base`. Returns it.

    Raises as `read_adapter` does, and `CorruptError` for other layers; either way the model is left as it was.
    """
    stored = read_adapter(folder, base=base)
    tensors = stored.tensors
    add_lora(model, stored.rank, stored.alpha, stored.targets)
    parameters = _parameters(model)
    if {name: p.shape for name, p in parameters.items()} != {name: t.shape for name, t in tensors.items()}:
        _without(model, merged=False)
        raise CorruptError(f"adapter {folder.name} has other layers or shapes than {type(model).__name__}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return model


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{part}": getattr(layer, part) for name, layer in layers(model).items() for part in ("lora_a", "lora_b")
    }
