"""Weights of other libraries' Mambas under the names of this house.

Covered: transformers MambaForCausalLM and mambapy.mamba.Mamba, by way of `Mamba.from_reference`. What `Mamba` does not
compute, and a weight that is left over, is refused in one sentence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.models.convert import Converted

LAYER = {  # of both libraries → ours
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "mixer.input.weight",
    "mixer.conv1d.weight": "mixer.conv.weight",
    "mixer.conv1d.bias": "mixer.conv.bias",
    "mixer.x_proj.weight": "mixer.select.weight",
    "mixer.dt_proj.weight": "mixer.step_size.weight",
    "mixer.dt_proj.bias": "mixer.step_size.bias",
    "mixer.A_log": "mixer.log_a",
    "mixer.D": "mixer.skip",
    "mixer.out_proj.weight": "mixer.output.weight",
}


def to_mamba(module: nn.Module) -> Converted:
    """Raises `UserError` when `module` is of another kind or uses what `Mamba` does not have."""
    kind, settings = type(module).__name__, getattr(module, "config", None)
    theirs = dict(module.state_dict())
    if kind == "MambaForCausalLM":
        config, state = _transformers(settings, theirs)
    elif kind == "Mamba" and type(module).__module__.startswith("mambapy"):
        config, state = _mambapy(settings, theirs)
    else:
        raise UserError(f"a {kind} cannot become a Mamba. Give a MambaForCausalLM or a mambapy Mamba.")
    if theirs:
        raise UserError(f"{kind} has weights that Mamba does not know: {', '.join(sorted(theirs)[:3])}.")
    return Converted(config, state)


def need(config: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        if (found := getattr(config, name)) != value:
            raise UserError(f"{name} = {found!r} is not covered. Only {value!r} can be converted.")


def _layers(theirs: dict[str, Tensor], prefix: str, n_layers: int) -> dict[str, Tensor]:
    state = {}
    for number in range(n_layers):
        for name, ours in LAYER.items():
            weight = theirs.pop(f"{prefix}layers.{number}.{name}")
            # A depthwise Conv1d keeps (channels, 1, steps).
            state[f"blocks.{number}.{ours}"] = weight[:, 0] if name == "mixer.conv1d.weight" else weight
    return state


def _transformers(config: Any, theirs: dict[str, Tensor]) -> Converted:
    need(config, hidden_act="silu", use_bias=False, use_conv_bias=True)
    head = theirs.pop("lm_head.weight")
    state = {
        "input.embedding.weight": theirs.pop("backbone.embeddings.weight"),
        "norm.weight": theirs.pop("backbone.norm_f.weight"),
        "output.project.weight": head,
        "output.project.bias": head.new_zeros(head.shape[0]),
        **_layers(theirs, "backbone.", config.num_hidden_layers),
    }
    sizes = {
        "vocab_size": config.vocab_size,
        "d_out": config.vocab_size,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "d_state": config.state_size,
        "d_conv": config.conv_kernel,
        "expand": config.expand,
        "dt_rank": int(config.time_step_rank),
        "norm_eps": config.layer_norm_epsilon,
    }
    return Converted(sizes, state)


def _mambapy(config: Any, theirs: dict[str, Tensor]) -> Converted:
    need(config, bias=False, conv_bias=True, inner_layernorms=False, mup=False)
    d_model = config.d_model
    state = {
        "input.project.weight": torch.eye(d_model),
        "input.project.bias": torch.zeros(d_model),
        "norm.weight": torch.ones(d_model),
        "output.project.weight": torch.eye(d_model),
        "output.project.bias": torch.zeros(d_model),
        **_layers(theirs, "", config.n_layers),
    }
    sizes = {
        "d_in": d_model,
        "d_out": d_model,
        "d_model": d_model,
        "n_layers": config.n_layers,
        "d_state": config.d_state,
        "d_conv": config.d_conv,
        "expand": config.expand_factor,
        "dt_rank": config.dt_rank,
        "norm_eps": config.rms_norm_eps,
    }
    return Converted(sizes, state)
