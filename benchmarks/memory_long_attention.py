"""Peak memory against sequence length, forward and backward, and the exponent of the fitted power law.

    python -m benchmarks.memory_long_attention

    peak(L) ≈ c · L^e: e near 1 is linear, near 2 quadratic

The peak is what torch's CPU allocator hands out above what was held before the call: tensors and the workspaces
inside kernels (see `peak_bytes`). Writes results/bench-memory-long-attention.json.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from oliveira.files import write_json_atomic
from oliveira.nn.attention import attention_reference
from oliveira.nn.flash import flash_attention
from oliveira.registry import create

RESULT = Path(__file__).parents[1] / "results" / "bench-memory-long-attention.json"
LENGTHS = [1024, 2048, 4096, 8192]


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that torch's CPU allocator held during `call`, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    held = peak = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def exponent(lengths: list[int], values: list[int]) -> float:
    """Slope of log(value) over log(length), least squares."""
    x, y = [math.log(n) for n in lengths], [math.log(n) for n in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return rise / sum((a - mean_x) ** 2 for a in x)


def cases() -> Iterator[tuple[str, Callable[[int], int]]]:
    """(name, peak bytes at a length) of one training step: one head of 64 for the blocks, one layer for the models."""

    def block(run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[int], int]:
        def at(length: int) -> int:
            q, k, v = (torch.randn(1, 1, length, 64, requires_grad=True) for _ in range(3))
            return peak_bytes(lambda: run(q, k, v).sum().backward())

        return at

    def model(name: str, **config: object) -> Callable[[int], int]:
        def at(length: int) -> int:
            torch.manual_seed(0)
            made = create(name, d_in=4, d_out=4, d_model=64, n_layers=1, n_heads=4, d_ff=128, max_len=length, **config)
            x = torch.randn(1, length, 4)
            made(x).sum().backward()  # gradients are there before the measured step
            return peak_bytes(lambda: made(x).sum().backward())

        return at

    yield "attention as written", block(attention_reference)
    yield "flash, tiles of 256", block(lambda q, k, v: flash_attention(q, k, v)[0])
    yield "torch's flash kernel", block(torch.nn.functional.scaled_dot_product_attention)
    yield "linformer, 128 projected", model("linformer", projected_len=128)
    yield "reformer, chunks of 64, 2 hashes", model("reformer", chunk_len=64, n_hashes=2)
    yield "bigbird, blocks of 64, 3 random", model("bigbird", block_size=64)


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = {}
    for name, at in cases():
        # The dense form would need gigabytes at the longest.
        lengths = LENGTHS[:-1] if name == "attention as written" else LENGTHS
        peaks = [at(length) for length in lengths]
        rows[name] = {"lengths": lengths, "megabytes": [round(p / 1e6, 2) for p in peaks],
                      "exponent": round(exponent(lengths, peaks), 3)}  # fmt: skip
        print(f"{name:<36} {rows[name]['megabytes']} MB  exponent {rows[name]['exponent']}", flush=True)
    write_json_atomic(RESULT, {"command": "python -m benchmarks.memory_long_attention", "rows": rows})


if __name__ == "__main__":
    main()
