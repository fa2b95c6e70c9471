"""An artifact's decode step as an ONNX graph, checked, and timed beside the native step and torch on this machine.

The fastest is written beside the artifact (`oliveira.export.choice`), where the engine looks. What counts is the
geometric mean of the median seconds of a step, over one and over several streams; the candidates take turns.
Weights of 4 or 8 bits are fp32 in the graph: what the bits lost stays lost, and the file is up to eight times as large.

Where a loss is allowed, forms of the native step that lose less on held-out text take part: keys and values as fp16, an
output matrix of fewer bits. What is lost is the mean over windows of text, and two standard errors more.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from oliveira.artifact import open_artifact
from oliveira.errors import OliveiraError, UserError
from oliveira.export.choice import FORMAT, graph_path, machine, record_path
from oliveira.export.decode import export_decode
from oliveira.export.decoder import OnnxDecoder
from oliveira.files import sha256_file, write_json_atomic
from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder, NativeDecoder, Run, not_covered
from oliveira.kernels.options import Options, faster, losses, native
from oliveira.kernels.twin import TorchDecoder
from oliveira.models.gpt import GPT
from oliveira.registry import can, entries

MAX_ERROR = 1e-4  # of a logit, relative to the largest
CONTEXT, STEPS = 128, 16
LEAST_WINDOWS, MOST_WINDOWS = 4, 32  # of held-out text, 256 tokens each or the model's max_len


SAFE = Options()


def compile_artifact(
    path: Path,
    *,
    provider: str = "auto",
    threads: int = 1,
    streams: Sequence[int] = (1, 8),
    rounds: int = 7,
    options: Options = SAFE,
    max_loss: float = 0.0,
    text: Sequence[int] = (),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Writes graph and choice for the artifact in `path`; returns what is written.

    `threads`: of every candidate. `options`: how the native step serves where nothing may be lost. `max_loss`: nats a
    token that it may lose against that on `text`, tokens that the model has not learnt.
    Raises `UserError` for a model that does not decode, a provider that cannot be had or too little text,
    `OliveiraError` when the graph does not compute what the model computes: then no choice is left behind.
    """
    artifact = open_artifact(path)
    model: Any = artifact.load_model()
    if not can(model, "decodes"):
        able = ", ".join(found.name for found in entries() if "decodes" in found.can)
        raise UserError(
            f"{path.name} holds a {artifact.name}: only a {able} has a decode step to compile. "
            "For other models use `oliveira export`."
        )
    if threads < 1 or rounds < 1 or not streams or min(streams) < 1:
        raise UserError(f"threads = {threads}, rounds = {rounds}, streams = {list(streams)}: each must be at least 1.")
    window = min(256, model.config.max_len)
    if max_loss > 0 and len(text) <= LEAST_WINDOWS * window:
        raise UserError(
            f"max_loss = {max_loss:g} is measured on held-out text, and {len(text)} tokens are too few: give more than "
            f"{LEAST_WINDOWS * window} tokens (--text FILE), or max_loss = 0."
        )
    record_path(path).unlink(missing_ok=True)
    graph = graph_path(path)
    export_decode(model, graph)
    size = graph.stat().st_size / 1e6
    if artifact.weights == "fp32":
        say(f"{graph}: {size:.1f} MB")
    else:
        say(f"{graph}: {size:.1f} MB (the artifact's {artifact.weights} weights as fp32)")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        onnx = OnnxDecoder(graph, model.config, provider=provider, threads=threads)
        error = logit_error(onnx, model)
        if not error <= MAX_ERROR:  # NaN too
            raise OliveiraError(f"{graph.name}: logits differ by {error:.1e}, more than {MAX_ERROR:g}. It is refused.")
        say(f"provider {onnx.provider}, largest difference of a logit {error:.1e}")
        candidates: dict[str, Decoder] = {"onnx": onnx, "torch": TorchDecoder(model)}
        stored = {x.data_ptr(): x.nbytes for x in model.state_dict().values()}  # tied weights count once
        weight_bytes = {"onnx": onnx.weight_bytes, "torch": sum(stored.values())}
        if (reason := not_covered(model)) is None:
            allowed = _within(model, options, max_loss, text[: MOST_WINDOWS * window + 1], threads, say)
            candidates |= {name: packed for name, (_, packed, _) in allowed.items()}
            weight_bytes |= {name: packed.weight_bytes for name, (_, packed, _) in allowed.items()}
        else:
            say(f"native is left out: {reason}")
            allowed = {}
        seconds = {str(n): step_seconds(candidates, model, n, rounds) for n in streams}
    finally:
        torch.set_num_threads(before)
    means = {name: math.prod(row[name] for row in seconds.values()) ** (1 / len(seconds)) for name in candidates}
    best = min(means, key=lambda name: means[name])
    held, _, lost = allowed.get(best) or (options, None, 0.0)
    record = {
        "format": FORMAT,
        "digest": artifact.digest,
        "machine": machine(),
        "choice": "native" if best in allowed else best,
        "fastest": best,
        "seconds": seconds,
        "threads": threads,
        "provider": onnx.provider,
        "native": asdict(held),
        "loss": lost,
        "max_loss": max_loss,
        "left_out": {} if reason is None else {"native": reason},
        "weight_bytes": weight_bytes,
        "graph": {"sha256": sha256_file(graph), "bytes": graph.stat().st_size, "logit_error": error},
    }
    write_json_atomic(record_path(path), record)
    return record


def _within(
    model: GPT, options: Options, max_loss: float, text: Sequence[int], threads: int, say: Callable[[str], None]
) -> dict[str, tuple[Options, NativeDecoder, float]]:
    """The native steps that lose no more than is allowed, and what each loses, nats a token."""
    safe = native(model, options, threads=threads)
    found: dict[str, tuple[Options, NativeDecoder, float]] = {"native": (options, safe, 0.0)}
    if max_loss <= 0:
        return found
    window = min(256, model.config.max_len)
    base = losses(safe, text)
    for other in faster(model, options):
        packed = native(model, other, threads=threads)
        each = (losses(packed, text) - base) / window
        lost = float(each.mean() + 2 * each.std() / len(each) ** 0.5)
        if not lost <= max_loss:  # NaN is not
            say(f"{other}: {lost:+.4f} nats a token at most, more than {max_loss:g}")
        else:
            say(f"{other}: {lost:+.4f} nats a token at most")
            found[f"native, {other}"] = other, packed, lost
    return found


@torch.inference_mode()
def logit_error(decoder: OnnxDecoder, model: GPT) -> float:
    """Largest difference from the model without a cache, over the largest logit: three streams, chunks and batches."""
    config = model.config
    numbers = torch.Generator().manual_seed(0)
    lengths = sorted({max(2, config.max_len // part) for part in (5, 3, 2)})
    texts = [torch.randint(config.vocab_size, (min(n, MAX_TOKENS),), generator=numbers).tolist() for n in lengths]
    pool = BlockPool(decoder, sum(-(-len(text) // POSITIONS) for text in texts))
    tables = [pool.take(-(-len(text) // POSITIONS)) for text in texts]
    found = []
    for text, table in zip(texts, tables, strict=True):
        half = len(text) // 2  # then all but the last token, then a step together
        parts = [decoder.prefill(text[:half], 0, table, wanted=half)]
        if len(text) - 1 > half:
            parts.append(decoder.prefill(text[half:-1], half, table, wanted=len(text) - 1 - half))
        found.append(torch.cat(parts))
    last = decoder.decode([text[-1] for text in texts], [len(text) - 1 for text in texts], tables)
    error = 0.0
    for text, logits, row in zip(texts, found, last, strict=True):
        expected = model(torch.tensor([text]))[0]
        difference = (torch.cat([logits, row[None]]) - expected).abs().max() / expected.abs().max().clamp(min=1)
        error = max(error, float(difference.nan_to_num(nan=math.inf)))
    return error


def step_seconds(candidates: Mapping[str, Decoder], model: GPT, streams: int, rounds: int) -> dict[str, float]:
    """Median seconds of one step of `streams` streams, each going on after up to 128 tokens; A B C A B C."""
    config = model.config
    steps = min(STEPS, config.max_len // 2)
    context = min(CONTEXT, config.max_len - steps)
    need = -(-(context + steps) // POSITIONS)
    prompt = torch.randint(config.vocab_size, (context,), generator=torch.Generator().manual_seed(0)).tolist()
    tables: dict[str, list[list[int]]] = {}
    for name, decoder in candidates.items():
        pool = BlockPool(decoder, need * streams)
        tables[name] = [pool.take(need) for _ in range(streams)]
        for table in tables[name]:
            decoder.step([Run(prompt, 0, table, 0)])
    kept: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, decoder in candidates.items():
            started = time.perf_counter()
            for i in range(steps):
                decoder.step([Run([prompt[i % context]], context + i, table) for table in tables[name]])
            if turn:  # the first warms up
                kept[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(times) for name, times in kept.items()}
