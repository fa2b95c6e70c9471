"""Any model's forward pass as one ONNX graph, and its runner, in which there is no torch.

The batch axis is free. What else is free by its kind (`oliveira.kinds`: the steps of a sequence) is free where the
exporter can keep it so, else fixed at the length of the example: the runner then pads with masked steps and cuts the
answer, which by the contract of the catalogue changes nothing. `ForwardRunner.lengths` says which it is.

A mask of real steps is an input only where the example has one or the steps are fixed. The file's metadata tell every
input in words under INPUTS (type, axes, what a mask means), and the free axes of all arrays by name under AXES.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oliveira.errors import OliveiraError
from oliveira.export.onnx import LARGEST, _quiet, cpu_session
from oliveira.files import write_atomic
from oliveira.kinds import BATCH, STEPS, Argument, Form, Kind, eats, gives
from oliveira.registry import can

Array = NDArray[Any]
INPUTS = "inputs"  # key of the file's metadata: JSON, name → what it is
AXES = "axes"  # another: {"inputs": name → names of its axes, "" where not free, "outputs": the same of each output}
MASK = "true = a real step, false = padding; all true where nothing is padded"


class _Flat(nn.Module):
    """The model with its outputs as a plain tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        output = self.model(*inputs)
        return (output,) if isinstance(output, Tensor) else tuple(output)


def export_forward(
    model: nn.Module, inputs: Sequence[Tensor], path: Path, form: Form, *, max_len: int = 0
) -> dict[str, str]:
    """Writes the graph: all of the file or nothing. Returns for each input whether its steps are free or fixed.

    `inputs` are an example with at least two rows, of the kind that the form eats. Where steps must be fixed, they are
    fixed at `max_len` (0: at the example's). Raises `OliveiraError` when the exporter refuses the model.
    """
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST:
        raise OliveiraError("the model has more than 2 GiB of weights: too much for one ONNX file.")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quiet():
            fed, graph, free = _first_that_exports(model, inputs, form, max_len)
    except torch.onnx.errors.OnnxExporterError as error:
        raise OliveiraError(f"{type(model).__name__} cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        model.train(was_training)
    write_atomic(path, graph)
    lengths = {name: [x.shape[i] for i in eats(form[0]).argument(name).places(free=True)] for name, x in fed.items()}
    return {name: "free" if free or not fixed else f"fixed at {fixed[0]}" for name, fixed in lengths.items()}


def _first_that_exports(
    model: nn.Module, inputs: Sequence[Tensor], form: Form, max_len: int
) -> tuple[dict[str, Tensor], bytes, bool]:
    """Free steps without a mask that nobody gave, else with one, else fixed steps, which need it. (fed, graph, free)"""
    kind = eats(form[0])
    plain = kind.named(inputs)
    masked = plain if can(model, "decodes") else _masked(plain, kind)
    for fed in [plain] if plain.keys() == masked.keys() else [plain, masked]:
        try:
            return fed, _export(model, fed, form, free=True), True
        except torch.onnx.errors.OnnxExporterError:
            continue
    fed = {name: _lengthened(x, kind.argument(name), max_len) for name, x in masked.items()}
    return fed, _export(model, fed, form, free=False), False


def _masked(fed: dict[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """With a mask of real steps, where the kind has one and none is given."""
    if kind.mask is None or "mask" in fed:
        return fed
    lengths = {a.name: fed[n].shape[i] for n in fed for i, a in enumerate(kind.argument(n).axes)}
    return fed | {"mask": torch.ones(kind.mask.shape({}, lengths), dtype=torch.bool)}


def _lengthened(x: Tensor, argument: Argument, length: int) -> Tensor:
    for place in argument.places(free=True):
        more = max(0, length - x.shape[place])
        x = torch.cat([x, x.new_zeros(*x.shape[:place], more, *x.shape[place + 1 :])], dim=place)
    return x


def _export(model: nn.Module, fed: dict[str, Tensor], form: Form, *, free: bool) -> bytes:
    kind = eats(form[0])

    def axes(name: str) -> dict[int, Any]:
        kept = [(place, axis) for place, axis in enumerate(kind.argument(name).axes) if axis.free]
        return {place: axis.name for place, axis in kept if free or axis is BATCH}

    names = list(fed)
    program = torch.onnx.export(
        _Flat(model).eval(),
        ([x.contiguous() for x in fed.values()],),
        dynamo=True,
        verbose=False,
        input_names=names,
        dynamic_shapes={"inputs": [axes(name) for name in names]},
    )
    assert program is not None  # with dynamo=True
    program.model.metadata_props[INPUTS] = json.dumps({name: _told(name, x, axes(name)) for name, x in fed.items()})
    program.model.metadata_props[AXES] = json.dumps(
        {
            "inputs": {name: _named(kind.argument(name)) for name in names},
            "outputs": [_named(argument) for argument in gives(form[1]).arguments],
        }
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and most of a small file
    return program.model_proto.SerializeToString(deterministic=True)


def _told(name: str, x: Tensor, axes: dict[int, Any]) -> str:
    shape = ", ".join(str(axes.get(axis, size)) for axis, size in enumerate(x.shape))
    return f"{str(x.dtype).removeprefix('torch.')} ({shape})" + (f": {MASK}" if name == "mask" else "")


def _named(argument: Argument) -> list[str]:
    return [axis.name if axis.free else "" for axis in argument.axes]


class ForwardRunner:
    """Runs an exported forward pass with onnxruntime on the CPU. `threads` = 0: all cores."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.session = cpu_session(path, threads)
        self.inputs = self.session.get_inputs()
        self.names = [node.name for node in self.inputs]
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.described: dict[str, str] = json.loads(metadata.get(INPUTS, "{}"))
        axes = json.loads(metadata[AXES]) if AXES in metadata else _axes_of_old(self.inputs, self.session.get_outputs())
        self.axes: dict[str, list[str]] = axes["inputs"]
        self.output_axes: list[list[str]] = axes["outputs"]
        # Fixed lengths of axes that are free by their kind, by input and place.
        self.fixed: dict[str, dict[int, int]] = {
            node.name: {
                place: node.shape[place]
                for place, axis in enumerate(self.axes[node.name])
                if axis and isinstance(node.shape[place], int)
            }
            for node in self.inputs
        }
        # Fixed number of steps of an input; None = free.
        self.lengths = {name: next(iter(fixed.values()), None) for name, fixed in self.fixed.items()}

    def __call__(self, *arrays: Array) -> Any:
        """Arrays in the order of the model's arguments; a mask may be left out. One array, or a tuple of several."""
        if len(arrays) > len(self.names):
            raise OliveiraError(f"{len(arrays)} inputs were given; the graph takes {', '.join(self.names)}.")
        fed = dict(zip(self.names, (np.asarray(array) for array in arrays), strict=False))
        asked = {axis: array.shape[i] for name, array in fed.items() for i, axis in enumerate(self.axes[name]) if axis}
        if "mask" in self.names and "mask" not in fed:
            fed["mask"] = np.ones([asked[axis] for axis in self.axes["mask"]], dtype=bool)
        outputs = self.session.run(None, {name: self._padded(name, array) for name, array in fed.items()})
        if any(self.fixed.values()):
            cuts = [tuple(slice(asked.get(axis)) for axis in axes) for axes in self.output_axes]
            outputs = [output[cut] for output, cut in zip(outputs, cuts, strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _padded(self, name: str, array: Array) -> Array:
        widths = [(0, 0)] * len(self.axes[name])
        for place, length in self.fixed[name].items():
            if array.shape[place] > length:
                raise OliveiraError(
                    f"{name} has {array.shape[place]} steps; the exported graph takes at most {length}."
                )
            widths[place] = (0, length - array.shape[place])
        return np.pad(array, widths) if self.fixed[name] else array


def _axes_of_old(inputs: list[Any], outputs: list[Any]) -> dict[str, Any]:
    """Of a graph of an older program, whose file does not tell its axes: all but a picture have steps."""
    pairs = "target" in [node.name for node in inputs]

    def named(node: Any, steps: str) -> list[str]:
        rank = len(node.shape)
        return [BATCH.name, *([steps] if 1 < rank < 4 else []), *[""] * (rank - 2 if rank < 4 else rank - 1)]

    source = "source" if pairs else STEPS.name
    return {
        "inputs": {node.name: named(node, STEPS.name if node.name == "target" else source) for node in inputs},
        "outputs": [named(node, STEPS.name if len(node.shape) == 3 else "") for node in outputs],
    }
