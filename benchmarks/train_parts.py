"""What a training step computes in our own C++, each part beside torch: there and back, same inputs, results compared.

    python -m benchmarks.train_parts [--rounds 21] [--threads 2]

Prints a table and writes results/bench-train_parts.json: `ratios` row → torch's seconds over ours. Between two turns
other memory is written, as in a step, so that nothing is found in the caches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.table import Table, arguments
from benchmarks.timing import interleave
from oliveira.compression.linear import QuantisedLinear
from oliveira.kernels.causal import causal_attention
from oliveira.kernels.expand import expanded
from oliveira.kernels.gated import gated

Work = Callable[..., Tensor]
WIDTH, FF = 768, 3072


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def both_ways(work: Work, inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    leaves = [x.clone().requires_grad_() for x in inputs]

    def run() -> list[Tensor]:
        y = work(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    return run


def main() -> None:
    given = arguments(__doc__, 21).parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    table = Table(given.rounds, given.threads)
    other = torch.zeros(1 << 24)
    turns = partial(interleave, rounds=given.rounds, between=lambda: other.add_(1))
    parts: dict[str, tuple[Work, Work, list[Tensor]]] = {}
    for shape in ((4, 12, 256, 64), (16, 6, 256, 64), (1, 12, 1024, 64)):
        name = "x".join(map(str, shape))
        parts[f"causal attention {name}"] = causal_attention, attention, [torch.randn(shape) for _ in range(3)]
    gates = [torch.randn(1024, FF) for _ in range(2)]
    parts[f"gate of SwiGLU 1024x{FF}"] = gated, lambda g, u: F.silu(g) * u, gates
    for name, (ours, theirs, inputs) in parts.items():
        a, b = both_ways(ours, inputs), both_ways(theirs, inputs)
        for x, y in zip(a(), b(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        table.add(f"{name}, there and back", turns(a, b), "torch", 1.0)
    for method in ("int4", "nf4"):
        layer = QuantisedLinear(nn.Linear(FF, WIDTH), method)
        for dtype in (torch.float32, torch.bfloat16):
            a = lambda layer=layer, dtype=dtype: expanded(layer, dtype)  # noqa: E731
            b = lambda layer=layer, dtype=dtype: layer.dequantised().to(dtype)  # noqa: E731
            assert torch.equal(a(), b())
            name = f"{method} written out as {str(dtype).removeprefix('torch.')} {WIDTH}x{FF}"
            table.add(name, turns(a, b), "torch", 1.0)
    table.close("train_parts", write=given.write)


if __name__ == "__main__":
    main()
