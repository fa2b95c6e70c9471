"""A GPT's step over blocks of keys and values as one ONNX graph, for streams of different length in one batch.

    (tokens, positions, mask, rows, past keys and values) → (logits, new keys and values)

Shapes: tokens, positions (B, T) int64; mask (B, 1, T, P + T) bool, True = may attend; rows (N,) int64, which of the
B · T new tokens want logits; past_key_i, past_value_i (B, H_kv, P, K) float32; logits (N, V);
present (L, 2, B, H_kv, T, K), the new positions only. B, T, P and N are free.

`oliveira.export.onnx` writes a graph for one stream and any model with a cache; this one is what a server runs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.compression.model import QUANTISED, dequantise_model
from oliveira.errors import OliveiraError
from oliveira.export.onnx import LARGEST, _cache_names, _quiet
from oliveira.files import write_atomic
from oliveira.models.gpt import GPT

INPUTS = ("tokens", "positions", "mask", "rows")


class _Append:
    """A cache whose new positions stand behind the old ones and are kept apart."""

    def __init__(self, past: list[Tensor]) -> None:
        self.past, self.new = past, list[Tensor]()

    def length(self) -> int:
        return self.past[0].shape[2]

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        self.new += [k_BHTK, v_BHTK]
        keys, values = self.past[2 * layer : 2 * layer + 2]
        return torch.cat([keys, k_BHTK], dim=2), torch.cat([values, v_BHTK], dim=2)


class DecodeStep(nn.Module):
    """What the graph computes, in torch. A mask may leave no position to a row only if nothing reads that row."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, rows: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        cache = _Append(past)
        hidden = self.model.features(tokens, cache=cache, positions=positions, mask=mask)
        logits = self.model.logits(hidden.flatten(0, 1).index_select(0, rows))
        new = torch.stack(cache.new)
        return logits, new.unflatten(0, (len(past) // 2, 2))


def plain(model: GPT) -> GPT:
    """The model with fp32 matrices: itself, or a copy whose quantised layers are undone (their loss stays)."""
    if not any(isinstance(layer, QUANTISED) for layer in model.modules()):
        return model
    made: Any = dequantise_model(copy.deepcopy(model))
    return made


def export_decode(model: GPT, path: Path) -> None:
    """Writes the graph to `path`, all of it or nothing. Quantised weights are written as fp32: 4 bits become
    eight times their size.

    Raises `OliveiraError` when the exporter refuses the model or it does not fit into one file.
    """
    config, model = model.config, plain(model)
    if (size := sum(tensor.nbytes for tensor in model.state_dict().values())) > LARGEST:
        raise OliveiraError(f"the model has {size / 2**30:.1f} GiB of fp32 weights; one ONNX file holds 2 GiB.")
    n_rows, n_new, n_past = 2, 3, 5
    shape = (n_rows, config.n_kv_heads, n_past, config.head_width)
    past = [torch.zeros(shape) for _ in range(2 * config.n_layers)]
    example = (
        torch.zeros(n_rows, n_new, dtype=torch.int64),
        torch.zeros(n_rows, n_new, dtype=torch.int64),
        torch.ones(n_rows, 1, n_new, n_past + n_new, dtype=torch.bool),
        torch.zeros(4, dtype=torch.int64),
        past,
    )
    axes = {0: "batch", 1: "new"}
    was_training = model.training
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                DecodeStep(model).eval(),
                example,
                dynamo=True,
                verbose=False,
                input_names=[*INPUTS, *_cache_names("past", config.n_layers)],
                output_names=["logits", "present"],
                dynamic_shapes={
                    "tokens": axes,
                    "positions": axes,
                    "mask": {0: "batch", 2: "new", 3: "reach"},
                    "rows": {0: "wanted"},
                    "past": [{0: "batch", 2: "past"} for _ in past],
                },
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise OliveiraError(f"{type(model).__name__} cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        model.train(was_training)
    assert program is not None  # with dynamo=True
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and most of a small file
    write_atomic(path, program.model_proto.SerializeToString(deterministic=True))
