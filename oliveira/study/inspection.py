"""What a model is made of and what it costs here: layers, parameters, FLOPs, bytes, milliseconds.

    inspection = oliveira.describe("mamba", "forecast/power", d_model=96)
    inspection.parameters, inspection.flops, inspection.weight_bytes["int4"]

Sizes that no task sets are the example's of each kind (`oliveira.kinds`). FLOPs are two for each multiply-add
(`oliveira.runs.flops`); `uncounted` names the operations that the counter passes over.
Bytes kept for backward are those of every tensor autograd saves, weights left out, each storage once.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from oliveira import kinds
from oliveira.registry import entry, make_config
from oliveira.runs.flops import MORE_RULES, flop_counter

BITS = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0, "int8": 8.0, "int4": 4.5}  # int4: groups of 64, two fp16 each
ROUNDS, SECONDS = 7, 2.0  # of a timing: whichever ends first


@dataclass(frozen=True, kw_only=True)
class Layer:
    path: str  # "blocks.0.mixer"; "" is the model
    kind: str  # name of its class
    output: str  # "(1, 128, 64)"; several: joined by " + "
    parameters: int  # with those of the layers inside it
    calls: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    model: str
    task: str  # "" without
    eats: str
    gives: str
    config: dict[str, Any]
    input: list[str]  # shape of each input
    layers: list[Layer]
    parameters: int  # a weight that two layers share counts once
    flops: int  # of one forward pass
    uncounted: list[str]  # operations without a count of FLOPs
    weight_bytes: dict[str, int]  # if every weight were kept so
    activation_bytes: int  # kept for backward
    forward_ms: float  # the median of `rounds`
    forward_ms_range: tuple[float, float]  # the quickest and the slowest
    forward_backward_ms: float
    forward_backward_ms_range: tuple[float, float]
    rounds: int
    threads: int

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def describe(
    name: str, task: str | None = None, *, home: str | Path = ".oliveira", batch: int = 1, **values: Any
) -> Inspection:
    """Builds a model and runs it on an example of `batch` rows, or on a batch of the task's data.

    `values` are fields of its config. Raises `UserError` for an unknown name or value, or a task that it does not fit.
    """
    if task is None:
        found = entry(name)
        eats, gives = form = found.forms[0]
        network = found.build(make_config(found, {**found.sizes(form), **values}), gives)
        config: Any = network.config
        sizes = {**kinds.sizes_of(form), **dataclasses.asdict(config)}
        inputs = kinds.eats(eats).example(sizes, batch=batch)
    else:
        from oliveira.runs.run import build
        from oliveira.tasks.catalogue import pair

        wanted, found = pair(task, name)
        eats, gives = wanted.eats, wanted.gives
        data = wanted.open(Path(home).absolute(), lambda text: None)
        network = build(wanted, data, found, values)
        inputs = data.batch(0, seed=0, size=batch).inputs
    return inspect(network, inputs, model=name, task=task or "", eats=eats, gives=gives)


def inspect(
    network: nn.Module, inputs: tuple[Tensor, ...], *, model: str, task: str = "", eats: str, gives: str
) -> Inspection:
    """Measures a built model on `inputs`, in `eval` mode."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), _layers(network) as layers, _Uncounted() as uncounted, flop_counter() as counter:
            network(*inputs)
        kept = _kept_for_backward(network, inputs)
        forward = _milliseconds(lambda: _forward(network, inputs))
        both = _milliseconds(lambda: _total(network(*inputs)).backward())
    finally:
        network.train(was_training)
        network.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in network.parameters())
    config: Any = network.config
    return Inspection(
        model=model,
        task=task,
        eats=eats,
        gives=gives,
        config=dataclasses.asdict(config),
        input=[_shape(x) for x in inputs],
        layers=layers,
        parameters=parameters,
        flops=counter.get_total_flops(),
        uncounted=sorted(uncounted.names),
        weight_bytes={kind: round(parameters * bits / 8) for kind, bits in BITS.items()},
        activation_bytes=kept,
        forward_ms=statistics.median(forward),
        forward_ms_range=(min(forward), max(forward)),
        forward_backward_ms=statistics.median(both),
        forward_backward_ms_range=(min(both), max(both)),
        rounds=min(len(forward), len(both)),
        threads=torch.get_num_threads(),
    )


@contextmanager
def _layers(network: nn.Module) -> Iterator[list[Layer]]:
    """Filled when the block ends: every module that was called, in the order of its place in the model."""
    outputs: dict[str, str] = {}
    calls: dict[str, int] = {}

    def watch(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            outputs[path], calls[path] = " + ".join(_shape(x) for x in _tensors(output)), calls.get(path, 0) + 1

        return hook

    modules = dict(network.named_modules())
    handles = [module.register_forward_hook(watch(path)) for path, module in modules.items()]
    found: list[Layer] = []
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    found += [
        Layer(
            path=path,
            kind=type(module).__name__,
            output=outputs[path],
            parameters=sum(p.numel() for p in module.parameters()),
            calls=calls[path],
        )
        for path, module in modules.items()
        if path in calls
    ]


class _Uncounted(TorchDispatchMode):
    """Names of operations on real numbers that torch's counter has no rule for; moving numbers about is none."""

    MOVES = ("view", "copy", "clone", "cat", "stack", "empty", "zeros", "ones", "full", "fill", "scalar_tensor", "lift")

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        real = any(tensor.is_floating_point() or tensor.is_complex() for tensor in _tensors(output))
        moves = func.is_view or any(part in name for part in self.MOVES)
        if real and not moves and not {func.overloadpacket} & (flop_registry.keys() | MORE_RULES.keys()):
            self.names.add(name)
        return output


def _kept_for_backward(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    weights = {p.untyped_storage().data_ptr() for p in [*network.parameters(), *network.buffers()]}
    kept: list[Tensor] = []  # held, so that no storage is freed and its address used again

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(*inputs)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    del output
    return sum(size for address, size in storages.items() if address not in weights)


@torch.no_grad()
def _forward(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    network(*inputs)


def _total(output: Any) -> Tensor:
    return torch.stack([tensor.float().sum() for tensor in _tensors(output)]).sum()


def _milliseconds(run: Callable[[], object]) -> list[float]:
    """Of a few runs, after one to warm up."""
    run()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return [seconds * 1e3 for seconds in times]


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, (tuple, list)) else []


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
