"""Any model's forward pass as one ONNX graph, and its runner, in which there is no torch.

The batch axis is free. The second axis (steps of a sequence) is free where the exporter can keep it so, else fixed at
the length of the example: the runner then pads with masked steps and cuts the answer, which by the contract of the
catalogue changes nothing. `ForwardRunner.lengths` says which it is.

A mask of real steps is an input only where the example has one or the steps are fixed. Every input is told in the
file's metadata under INPUTS, in words: type, axes, and what a mask means.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oliveira.errors import CorruptError, OliveiraError
from oliveira.export.onnx import LARGEST, _quiet
from oliveira.files import write_atomic

Array = NDArray[Any]
INPUTS = "inputs"  # key of the file's metadata: JSON, name → what it is
MASK = "true = a real step, false = padding; all true where nothing is padded"


class _Flat(nn.Module):
    """The model with its outputs as a plain tuple."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        return (output,) if isinstance(output, Tensor) else tuple(output)


def bound(model: nn.Module, inputs: Sequence[Tensor], *, masked: bool = True) -> dict[str, Tensor]:
    """The inputs by the names of `forward`; `masked`: a mask of real steps is added where it takes one and has none."""
    parameters = inspect.signature(model.forward).parameters.values()
    # A keyword-only mask is another thing: gpt's says which pairs of positions attend.
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    fed = dict(zip(names, inputs, strict=False))
    if masked and "mask" in names and "mask" not in fed and inputs[0].dim() < 4:
        fed["mask"] = torch.ones(inputs[0].shape[:2], dtype=torch.bool)
    return fed


def export_forward(model: nn.Module, inputs: Sequence[Tensor], path: Path, *, max_len: int = 0) -> dict[str, str]:
    """Writes the graph: all of the file or nothing. Returns for each input whether its steps are free or fixed.

    `inputs` are an example with at least two rows. Where steps must be fixed, they are fixed at `max_len` (0: at the
    example's). Raises `OliveiraError` when the exporter refuses the model.
    """
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST:
        raise OliveiraError("the model has more than 2 GiB of weights: too much for one ONNX file.")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quiet():
            fed, graph, free = _first_that_exports(model, inputs, max_len)
    except torch.onnx.errors.OnnxExporterError as error:
        raise OliveiraError(f"{type(model).__name__} cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        model.train(was_training)
    write_atomic(path, graph)
    return {name: "free" if free or x.dim() == 4 else f"fixed at {x.shape[1]}" for name, x in fed.items()}


def _first_that_exports(
    model: nn.Module, inputs: Sequence[Tensor], max_len: int
) -> tuple[dict[str, Tensor], bytes, bool]:
    """Free steps without a mask that nobody gave, else with one, else fixed steps, which need it. (fed, graph, free)"""
    plain, masked = bound(model, inputs, masked=False), bound(model, inputs)
    for fed in [plain] if plain.keys() == masked.keys() else [plain, masked]:
        try:
            return fed, _export(model, fed, free=True), True
        except torch.onnx.errors.OnnxExporterError:
            continue
    fed = {name: _lengthened(x, max_len) for name, x in masked.items()}
    return fed, _export(model, fed, free=False), False


def _told(name: str, x: Tensor, axes: dict[int, Any]) -> str:
    shape = ", ".join(str(axes.get(axis, size)) for axis, size in enumerate(x.shape))
    return f"{str(x.dtype).removeprefix('torch.')} ({shape})" + (f": {MASK}" if name == "mask" else "")


def _lengthened(x: Tensor, length: int) -> Tensor:
    if not 1 < x.dim() < 4 or x.shape[1] >= length:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], length - x.shape[1], *x.shape[2:])], dim=1)


def _export(model: nn.Module, fed: dict[str, Tensor], *, free: bool) -> bytes:
    def axes(name: str, x: Tensor) -> dict[int, Any]:
        if not free or x.dim() in (1, 4):
            return {0: "batch"}
        side = "source" if "source" in fed and name != "target" else "steps"
        return {0: "batch", 1: side}

    names = list(fed)
    program = torch.onnx.export(
        _Flat(model, names).eval(),
        ([x.contiguous() for x in fed.values()],),
        dynamo=True,
        verbose=False,
        input_names=names,
        dynamic_shapes={"inputs": [axes(name, x) for name, x in fed.items()]},
    )
    assert program is not None  # with dynamo=True
    program.model.metadata_props[INPUTS] = json.dumps({name: _told(name, x, axes(name, x)) for name, x in fed.items()})
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and most of a small file
    return program.model_proto.SerializeToString(deterministic=True)


class ForwardRunner:
    """Runs an exported forward pass with onnxruntime on the CPU. `threads` = 0: all cores."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
            raise CorruptError(f"{path.name} is not a graph that onnxruntime can run: {error}") from None
        self.inputs = self.session.get_inputs()
        self.names = [node.name for node in self.inputs]
        self.described: dict[str, str] = json.loads(self.session.get_modelmeta().custom_metadata_map.get(INPUTS, "{}"))
        # Fixed number of steps of an input; None = free.
        self.lengths = {
            node.name: node.shape[1] if 1 < len(node.shape) < 4 and isinstance(node.shape[1], int) else None
            for node in self.inputs
        }

    def __call__(self, *arrays: Array) -> Any:
        """Arrays in the order of the model's arguments; a mask may be left out. One array, or a tuple of several."""
        if len(arrays) > len(self.names):
            raise OliveiraError(f"{len(arrays)} inputs were given; the graph takes {', '.join(self.names)}.")
        fed = dict(zip(self.names, (np.asarray(array) for array in arrays), strict=False))
        if "mask" in self.names and "mask" not in fed:
            fed["mask"] = np.ones(fed[self.names[0]].shape[:2], dtype=bool)
        steps = fed["target" if "target" in fed else self.names[0]]
        asked = steps.shape[1] if 1 < steps.ndim < 4 else 0
        fixed = self.lengths["target" if "target" in fed else self.names[0]]
        outputs = self.session.run(None, {name: self._padded(name, array) for name, array in fed.items()})
        if fixed is not None:
            outputs = [out[:, :asked] if out.ndim == 3 and out.shape[1] == fixed else out for out in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _padded(self, name: str, array: Array) -> Array:
        length = self.lengths[name]
        if length is None:
            return array
        if array.shape[1] > length:
            raise OliveiraError(f"{name} has {array.shape[1]} steps; the exported graph takes at most {length}.")
        return np.pad(array, [(0, 0), (0, length - array.shape[1])] + [(0, 0)] * (array.ndim - 2))
