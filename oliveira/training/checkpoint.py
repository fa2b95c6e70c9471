"""State of a run in one safetensors file: model, optimiser, random numbers, position. Replaced atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from oliveira.errors import CorruptError
from oliveira.files import write_atomic
from oliveira.training.optim import Optimizer


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """`state` is JSON: step, seconds, best so far. The file is on disk when this returns."""
    tensors = {f"model/{key}": value.detach().clone() for key, value in model.state_dict().items()}
    tensors |= {f"optimizer/{key}": value for key, value in optimizer.state_tensors().items()}
    tensors["random"] = torch.get_rng_state()
    write_atomic(path, save({k: v.contiguous() for k, v in tensors.items()}, {"state": json.dumps(state)}))


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Puts everything back and returns `state`. Raises CorruptError when the file is not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        optimizer.load_state_tensors(
            {k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")}
        )
        torch.set_rng_state(tensors["random"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CorruptError(
            f"checkpoint {path.name} cannot be read ({error}). Delete it to train from the start."
        ) from None
    return state
