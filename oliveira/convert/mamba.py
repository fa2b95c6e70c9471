"""Weights of other libraries' Mambas under the names of this house.

Covered: transformers MambaForCausalLM and mambapy.mamba.Mamba, by way of `Mamba.from_reference`. What `Mamba` does not
compute, and a weight that is left over, is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.convert.base import ROUNDED, Converted, Pair, Reference, first_steps, need, read, tokens
from oliveira.errors import UserError
from oliveira.models.mamba import Mamba, MambaConfig

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


def to_mamba(module: nn.Module) -> Mamba:
    """A copy of a transformers `MambaForCausalLM` or a `mambapy.mamba.Mamba`, in `eval` mode.

    The latter is a bare stack: its copy reads d_in = d_model numbers a step as they are and gives the states of the
    last layer through a norm of gain 1. Raises `UserError` when `module` is of another kind or uses what `Mamba` does
    not have.
    """
    return read(module, "Mamba", {"MambaForCausalLM": _transformers, "Mamba": _mambapy}).build(Mamba, MambaConfig)


def _layers(theirs: Reference, state: dict[str, Tensor], prefix: str, n_layers: int) -> None:
    for number in range(n_layers):
        for name, ours in LAYER.items():
            weight = theirs.take(f"{prefix}layers.{number}.{name}")
            # A depthwise Conv1d keeps (channels, 1, steps).
            state[f"blocks.{number}.{ours}"] = weight[:, 0] if name == "mixer.conv1d.weight" else weight


def _transformers(theirs: Reference) -> Converted:
    config = theirs.config
    need(config, "hidden_act", "silu")
    need(config, "use_bias", False)
    need(config, "use_conv_bias", True)
    need(config, "intermediate_size", config.expand * config.hidden_size)
    config.ignore(
        "residual_in_fp32", "use_mambapy", "use_associative_scan",  # the same sums in another order
        "time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor",  # at the start
        "rescale_prenorm_residual", "tie_word_embeddings",
    )  # fmt: skip
    state: dict[str, Tensor] = {}
    ends = {"backbone.embeddings": "input.embedding", "backbone.norm_f": "norm", "lm_head": "output.project"}
    theirs.move(ends, state)
    state.setdefault("output.project.bias", torch.zeros(config.vocab_size))
    _layers(theirs, state, "backbone.", config.num_hidden_layers)
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
    return Converted(config=sizes, state=state, trial=_texts, tolerance=ROUNDED)


def _texts(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    batch, real = tokens(2, ours.config.vocab_size, 7, random), first_steps(7, 4)
    yield Pair("logits", ours(batch, real)[real], theirs(input_ids=batch, attention_mask=real.long())[0][real])


def _mambapy(theirs: Reference) -> Converted:
    if not type(theirs.module).__module__.startswith("mambapy"):
        raise UserError("a Mamba of this library is not covered. Give a MambaForCausalLM or a mambapy Mamba.")
    config = theirs.config
    for name, value in (("bias", False), ("conv_bias", True), ("inner_layernorms", False), ("mup", False)):
        need(config, name, value)
    config.ignore("dt_min", "dt_max", "dt_init", "dt_scale", "base_std", "mup_base_width")  # at the start
    config.ignore("pscan", "use_cuda")  # the same sums in another order
    d_model = config.d_model
    state = {
        "input.project.weight": torch.eye(d_model),
        "input.project.bias": torch.zeros(d_model),
        "norm.weight": torch.ones(d_model),
        "output.project.weight": torch.eye(d_model),
        "output.project.bias": torch.zeros(d_model),
    }
    _layers(theirs, state, "", config.n_layers)
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
    return Converted(config=sizes, state=state, trial=_numbers, tolerance=ROUNDED)


def _numbers(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    sizes = ours.config
    x = torch.randn(2, 7, sizes.d_in, generator=random, dtype=next(ours.parameters()).dtype)
    yield Pair("states", ours(x), nn.functional.rms_norm(theirs(x), (sizes.d_in,), eps=sizes.norm_eps))
