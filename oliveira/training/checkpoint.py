"""State of a run in one safetensors file: model, optimiser, random numbers, position. Replaced atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from oliveira.errors import CorruptError
from oliveira.files import write_atomic
from oliveira.registry import can
from oliveira.training.optim import Optimizer, Replaced


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """`state` is JSON: step, seconds, best so far. The file is on disk when this returns."""
    if can(model, "grows"):
        grown: Any = model
        state = {**state, "config": dataclasses.asdict(grown.config)}
    tensors = {f"model/{key}": value.detach().clone() for key, value in model.state_dict().items()}
    tensors |= {f"optimizer/{key}": value for key, value in optimizer.state_tensors().items()}
    tensors["random"] = torch.get_rng_state()
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    told = json.dumps(state)
    write_atomic(path, save(tensors, {"state": told, "sha256": _digest(tensors, told)}))


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        raw: Any = tensors[key].reshape(-1).view(torch.uint8).numpy()
        digest.update(raw)
    return digest.hexdigest()


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Puts everything back and returns `state`. Raises CorruptError when the file is not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if "sha256" in told and told["sha256"] != _digest(tensors, told["state"]):  # older ones have none
            raise ValueError("its bytes are not those that were written")
        state: dict[str, Any] = json.loads(told["state"])
        if "config" in state:
            optimizer.follow(_resized(model, state.pop("config")))
        model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        optimizer.load_state_tensors(
            {k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")}
        )
        torch.set_rng_state(tensors["random"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CorruptError(
            f"{path} is damaged ({str(error).rstrip('.')}). Remove it to train from the start."
        ) from None
    return state


def _resized(model: nn.Module, config: dict[str, Any]) -> list[Replaced]:
    """Parameters of the sizes that they had grown to, in the place of those of the beginning."""
    network: Any = model
    before = dict(model.named_parameters())
    network.resize(type(network.config)(**config))
    after = model.named_parameters()
    return [Replaced(before[name], p, torch.arange(len(p))) for name, p in after if p is not before[name]]
