"""A language model as one ONNX graph that reads a prompt and goes on from its cache, checked against torch.

    (tokens, past keys and values) → (logits, present keys and values)

Shapes: tokens (B, T) int64; past_key_i, past_value_i (B, H_kv, P, K) float32, P = 0 for a prompt;
logits (B, T, V); present_* (B, H_kv, P + T, K). B, T and P are free, so prefill and decoding run one file.
Any model whose `forward(tokens, cache=…)` returns logits can be exported, weights of 4 or 8 bits included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.files import write_atomic
from oliveira.nn.attention import ConcatCache

# protobuf, which ONNX is made of, ends at 2 GiB; one file is what can be hashed, moved and served.
LARGEST = 2**31 - 2**20


class _WithCache(nn.Module):
    """The model with its cache as plain tensors in and out: [key_0, value_0, key_1, …]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        cache = ConcatCache(list(zip(past[0::2], past[1::2], strict=True)))
        logits = self.model(tokens, cache=cache)
        return logits, [tensor for pair in cache.past for tensor in pair]


def _cache_names(prefix: str, n_layers: int) -> list[str]:
    return [f"{prefix}_{kind}_{layer}" for layer in range(n_layers) for kind in ("key", "value")]


def export_onnx(model: nn.Module, path: Path) -> None:
    """Writes `model` to `path`: all of the file or nothing. `verify_onnx` says whether it may be trusted.

    Raises `OliveiraError` when the exporter refuses the model or it does not fit into one file.
    """
    config: Any = model.config
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST:
        raise OliveiraError("the model has more than 2 GiB of weights: too much for one ONNX file.")
    was_training = model.training
    shape = (2, config.n_kv_heads, 3, config.head_width)
    past = [torch.zeros(shape) for _ in range(2 * config.n_layers)]
    tokens = torch.zeros(2, 2, dtype=torch.int64)
    try:
        with _quiet():
            program = torch.onnx.export(
                _WithCache(model).eval(),
                (tokens, past),
                dynamo=True,
                verbose=False,
                input_names=["tokens", *_cache_names("past", config.n_layers)],
                output_names=["logits", *_cache_names("present", config.n_layers)],
                dynamic_shapes={
                    "tokens": {0: "batch", 1: "new"},
                    "past": [{0: "batch", 2: "past"} for _ in past],
                },
            )
        assert program is not None  # with dynamo=True
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces: paths of this machine, and most of a small file
        graph = program.model_proto.SerializeToString(deterministic=True)
    except torch.onnx.errors.OnnxExporterError as error:
        raise OliveiraError(f"{type(model).__name__} cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        model.train(was_training)
    write_atomic(path, graph)


def cpu_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """onnxruntime on the CPU. Weights of 8 bits become float32 when it starts, not at every run: they save disk."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise CorruptError(f"{path.name} is not a graph that onnxruntime can run: {error}") from None


class OnnxGenerator:
    """Greedy text from an exported file, onnxruntime on the CPU. `threads` = 0: all cores."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.session = cpu_session(path, threads)
        _, *past = self.session.get_inputs()
        self._empty = {node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32) for node in past}

    def step(
        self, tokens: Sequence[int], past: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Logits (T, V) of `tokens` after `past` (of the step before), and the new past."""
        fed = {"tokens": np.asarray([tokens], dtype=np.int64), **(past or self._empty)}
        logits, *present = self.session.run(None, fed)
        return logits[0], dict(zip(self._empty, present, strict=True))

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """The `n` most likely tokens after `tokens`, one at a time."""
        return self._greedy(tokens, n)[0]

    def _greedy(self, tokens: Sequence[int], n: int) -> tuple[list[int], NDArray[np.float32]]:
        made: list[int] = []
        seen = []
        fed, past = list(tokens), None
        for _ in range(n):
            logits, past = self.step(fed, past)
            seen.append(logits)
            fed = [int(logits[-1].argmax())]
            made += fed
        return made, np.concatenate(seen)


@torch.inference_mode()
def verify_onnx(
    model: nn.Module, path: Path, prompts: Sequence[Sequence[int]], new_tokens: int, max_logit_error: float
) -> dict[str, Any]:
    """Compares the file with `model`, which recomputes every text from the start, without a cache.

    Every logit of the prompt and of each token decoded with the graph's cache counts, and the greedy text.
    Returns the figures. Raises `OliveiraError` when a logit differs by more than `max_logit_error` or a text
    differs: such a file must not be served.
    """
    config: Any = model.config
    if not prompts or any(not 0 < len(prompt) <= config.max_len - new_tokens for prompt in prompts):
        raise UserError(
            f"export.prompts: every prompt needs 1 to {config.max_len - new_tokens} tokens "
            f"(max_len {config.max_len} less {new_tokens} new ones). Give others."
        )
    generator = OnnxGenerator(path)
    was_training, errors = model.training, []
    model.eval()
    try:
        for number, prompt in enumerate(prompts):
            made, logits = generator._greedy(prompt, new_tokens)
            expected = model(torch.tensor([[*prompt, *made[:-1]]]))[0].numpy()
            errors.append(float(np.abs(expected - logits).max()))
            if not errors[-1] <= max_logit_error:  # NaN too
                raise OliveiraError(
                    f"{path.name}: logits differ by {errors[-1]:.2e} on prompt {number}, more than "
                    f"export.max_logit_error = {max_logit_error:g}. The file is refused."
                )
            # Up to the first token that differs both have read the same prefix: this compares the texts.
            if expected[len(prompt) - 1 :].argmax(axis=-1).tolist() != made:
                raise OliveiraError(f"{path.name}: the greedy text of prompt {number} differs. The file is refused.")
    finally:
        model.train(was_training)
    return {
        "prompts": len(prompts),
        "new_tokens": new_tokens,
        "max_logit_error": max(errors),
        "texts_equal": len(prompts),
    }


# What torch's exporter says on every model, whatever its user does.
_KNOWN = (
    (FutureWarning, "`isinstance(treespec, LeafSpec)` is deprecated"),
    (UserWarning, "# The axis name: "),  # "batch" is the same axis in every input: that is meant
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's known chatter from the terminal; any other warning is passed on afterwards."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")  # "torchvision is not installed"
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        registration.setLevel(level)
    for warning in caught:
        if not any(warning.category is kind and str(warning.message).startswith(text) for kind, text in _KNOWN):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
