"""Weights of other libraries' hypernetworks under the names of this house.

Covered: labml_nn HyperLSTM, whole and layer by layer (`HyperLSTM`), and hypnettorch ChunkedHMLP that makes an MLP
(`Hypernetwork`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.convert.base import Converted, Pair, Reference, read
from oliveira.convert.recurrent import ends, whole_model
from oliveira.errors import UserError
from oliveira.models.hyperlstm import HyperLSTM, HyperLSTMConfig
from oliveira.models.hypernetwork import Hypernetwork, HypernetworkConfig
from oliveira.nn.hyper import HyperLSTMLayer, mlp_shapes


def to_hyperlstm(
    module: nn.Module,
    *,
    input: nn.Embedding | nn.Linear,
    output: nn.Linear,
    gives: Literal["steps", "one"] = "steps",
) -> HyperLSTM:
    """A copy, in `eval` mode, of a labml `HyperLSTM`, of what feeds it and of what reads it.

    Raises `UserError` for another kind, and when its input is not as wide as its state.
    """
    parts = {"input": input, "output": output}
    converted = read(module, "HyperLSTM", {"HyperLSTM": partial(_hyperlstm, gives=gives)}, parts)
    return converted.build(HyperLSTM, HyperLSTMConfig)


def layer_from_reference(cell: nn.Module) -> HyperLSTMLayer:
    """A copy of one labml `HyperLSTMCell`: theirs keeps a gate's parts apart, and its gates in the order i, f, g, o."""
    return read(cell, "HyperLSTMLayer", {"HyperLSTMCell": _layer}).build(lambda sizes: HyperLSTMLayer(**sizes), dict)


def _sizes(cell: Any) -> dict[str, int]:
    d_model, d_in = cell.w_x[0].shape
    return {
        "d_in": d_in,
        "d_model": d_model,
        "d_hyper": cell.z_h.in_features,
        "d_embedding": cell.d_h[0].in_features,
    }


def _hyperlstm(theirs: Reference, *, gives: Literal["steps", "one"]) -> Converted:
    layers = theirs.module["layers"]
    inner = _sizes(layers.cells[0])
    d_in = inner.pop("d_in")
    if d_in != inner["d_model"]:
        raise UserError(
            f"input_size = {d_in} differs from hidden_size = {inner['d_model']}. A whole model has one d_model: use "
            "oliveira.convert.hyper.layer_from_reference, which covers it."
        )
    n_layers = len(layers.cells)
    sizes, state, twins = ends(theirs)
    made = (d_in, inner["d_model"], inner["d_hyper"], inner["d_embedding"], n_layers)
    theirs.twin = lambda: nn.ModuleDict({"layers": type(layers)(*made), **twins})
    for number in range(n_layers):
        state |= _cell_state(theirs, f"layers.cells.{number}.", f"layers.{number}.")
    steps_first = type(layers).__module__.startswith("labml")

    def trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
        def run(x: Tensor) -> Tensor:
            return theirs["layers"](x.transpose(0, 1))[0].transpose(0, 1) if steps_first else theirs["layers"](x)

        yield from whole_model(ours, theirs, random, run, mean=False)

    sizes |= {"n_layers": n_layers, **inner}
    return Converted(config=sizes, gives=gives, state=state, trial=trial)


def _layer(theirs: Reference) -> Converted:
    cell, sizes = theirs.module, _sizes(theirs.module)
    apart = type(cell).__module__.startswith("labml")  # the four states as four arguments
    theirs.twin = lambda: type(cell)(*sizes.values())

    def trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
        x = torch.randn(2, 5, sizes["d_in"], generator=random, dtype=next(ours.parameters()).dtype)
        state = [x.new_zeros(2, sizes[name]) for name in ("d_model", "d_model", "d_hyper", "d_hyper")]
        rows = []
        for now in x.unbind(1):
            state = list(theirs(now, *state) if apart else theirs(now, state))
            rows.append(state[0])
        yield Pair("states", ours(x), torch.stack(rows, dim=1))

    return Converted(config=sizes, state=_cell_state(theirs, "", ""), trial=trial)


def _cell_state(theirs: Reference, source: str, target: str) -> dict[str, Tensor]:
    def take(name: str) -> Tensor:
        return theirs.take(f"{source}{name}")

    def rows(gates: Any) -> Tensor:
        i, f, g, o = gates
        return torch.stack([i, f, o, g])

    def gates(name: str, part: str = "") -> Tensor:
        return rows([take(f"{name}.{gate}{part}") for gate in range(4)])

    def norms(ours: str, of: str) -> dict[str, Tensor]:
        return {
            f"{ours}gate_norm.weight": gates(f"{of}layer_norm", ".weight"),
            f"{ours}gate_norm.bias": gates(f"{of}layer_norm", ".bias"),
            f"{ours}cell_norm.weight": take(f"{of}layer_norm_c.weight")[None],
            f"{ours}cell_norm.bias": take(f"{of}layer_norm_c.bias")[None],
        }

    w_x = gates("w_x")
    above, below = take("hyper.input_lin.weight").split([w_x.shape[1], w_x.shape[2]], dim=1)
    state = {
        "input.weight": w_x.flatten(0, 1),
        "hidden": gates("w_h").flatten(0, 1),
        "hyper_input.weight": rows(below.chunk(4)).flatten(0, 1),
        "hyper_input.bias": rows(take("hyper.hidden_lin.bias").chunk(4)).flatten(0, 1),
        "hyper_above": rows(above.chunk(4)).flatten(0, 1),
        "hyper_hidden": rows(take("hyper.hidden_lin.weight").chunk(4)).flatten(0, 1),
        "squeeze": torch.stack([rows(take(f"z_{z}.weight").chunk(4)) for z in "hxb"]),
        "squeeze_bias": torch.stack([rows(take(f"z_{z}.bias").chunk(4)) for z in "hx"]),
        "expand": torch.stack([gates(f"d_{d}", ".weight") for d in "hxb"]),
        "bias": gates("d_b", ".bias"),
        **norms("", ""),
        **norms("hyper_", "hyper."),
    }
    return {f"{target}{name}": tensor for name, tensor in state.items()}


# hypnettorch --------------------------------------------------------------------------------------


def to_hypernetwork(module: nn.Module) -> Hypernetwork:
    """A copy, in `eval` mode, of a hypnettorch `ChunkedHMLP` that makes an MLP: `cond_chunk_embs`, one condition
    without an embedding of its own, one hidden layer. Inputs become images of 1 × 1 × n.

    Raises `UserError` for another kind or form.
    """
    return read(module, "Hypernetwork", {"ChunkedHMLP": _chunked}).build(Hypernetwork, HypernetworkConfig)


def _chunked(theirs: Reference) -> Converted:
    module = theirs.module
    shapes = [tuple(shape) for shape in module.target_shapes]
    widths = [shapes[0][-1], *(shape[0] for shape in shapes[::2])]
    inner = module._hnet
    refused = {
        f"target_shapes = {shapes}": shapes != mlp_shapes(widths) or len(set(widths[1:-1])) != 1,
        f"layers = {inner._layers}": len(inner._layers) != 1,
        f"cond_chunk_embs = {module.cond_chunk_embs}": not module.cond_chunk_embs,
        f"num_cond_embs = {module.num_known_conds}": module.num_known_conds != 1,
        f"cond_in_size = {module._cond_in_size}": module._cond_in_size != 0,
        f"uncond_in_size = {module._uncond_in_size}": module._uncond_in_size != 0,
        f"activation_fn = {inner._act_fn}": not isinstance(inner._act_fn, nn.ReLU),
        "use_batch_norm": inner._use_batch_norm,
        "use_spectral_norm": inner._use_spectral_norm,
        "use_bias = False": not module.has_bias,
    }
    if wrong := [name for name, is_wrong in refused.items() if is_wrong]:
        raise UserError(f"a ChunkedHMLP with {wrong[0]} is not covered. See Hypernetwork.from_reference.")
    *linear, chunks = module.internal_params  # weight, bias, weight, bias, embeddings
    known = {id(parameter) for parameter in module.internal_params}
    theirs.drop(*[name for name, p in module.named_parameters(remove_duplicate=False) if id(p) in known])
    names = [f"hyper.layers.{i}.{part}" for i in range(2) for part in ("weight", "bias")]
    sizes = {
        "channels": 1,
        "height": 1,
        "width": widths[0],
        "d_out": widths[-1],
        "d_model": widths[1],
        "n_layers": len(widths) - 2,
        "d_hyper": inner._layers[0],
        "d_embedding": module.chunk_emb_size,
        "chunk_size": module._chunk_size,
    }
    state = {name: tensor.detach() for name, tensor in zip(names, linear, strict=True)}
    state |= {"hyper.chunks": chunks.detach(), "scale": torch.ones(len(shapes))}
    return Converted(config=sizes, state=state, trial=_made)


def _made(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """The weights that both make, and what an MLP computes with theirs."""
    x = torch.randn(3, 1, 1, ours.config.width, generator=random, dtype=next(ours.parameters()).dtype)
    h, made = x.flatten(1), theirs(cond_id=0)
    for name, mine, other in zip("Wb" * len(made), ours.weights(), made, strict=False):
        yield Pair(f"a {name} that is made", mine, other)
    for i in range(0, len(made), 2):
        h = F.linear(F.relu(h) if i else h, made[i], made[i + 1])
    yield Pair("logits", ours(x), h)
