"""A training step of the loop beside transformers' GPT-2 with torch's fused AdamW: same shape, weights and threads.

    python -m benchmarks.train [--rounds 7] [--threads 2] [--no-write]

A step is forward, loss, backward, clipping, AdamW and the schedule. Prints a table and writes results/bench-train.json:
`ratios` row → peer's seconds over ours, above 1 = ours is faster; the two take turns (A B A B), the median counts.
`goals` has the same rows. `facts`: what a product reaches in the same run, through torch's own call and through oneDNN.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.table import Table, arguments
from benchmarks.timing import interleave
from oliveira.convert import from_reference
from oliveira.kernels.fast import fast_layers
from oliveira.kernels.products import product
from oliveira.models.gpt import GPT
from oliveira.tasks.language_modelling import next_token_loss
from oliveira.training.loop import Job, one_step
from oliveira.training.optim import Turn, make_optimizer
from oliveira.training.settings import TrainSection

LENGTH = 256
SHAPE: dict[str, Any] = dict(
    n_embd=384, n_layer=6, n_head=6, vocab_size=8192, n_positions=LENGTH, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    bos_token_id=None, eos_token_id=None,
)  # fmt: skip
GOALS = {4: 1.5, 16: 1.3}  # sequences a step → ratio
CONFIG = TrainSection(steps=10_000, lr=1e-4, warmup_steps=100, weight_decay=0.1, beta2=0.95)


def peak(call: Callable[[torch.Tensor, torch.Tensor], object]) -> float:
    """GFLOP/s of 4096×384 times 384×1536, the best of nine."""
    x, weight = torch.randn(4096, 384), torch.randn(1536, 384)
    seconds = []
    with torch.no_grad():
        for _ in range(9):
            started = time.perf_counter()
            call(x, weight)
            seconds.append(time.perf_counter() - started)
    return 2 * 4096 * 384 * 1536 / min(seconds) / 1e9


def flops(model: GPT, sequences: int) -> float:
    """Of one step: six for every weight of a product and token, and attention's two products, half of them masked."""
    products = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    attention = model.config.n_layers * LENGTH * model.config.d_model
    return 6.0 * sequences * LENGTH * (products + attention)


def full(sequences: int) -> tuple[GPT, Callable[[], object], Callable[[], object]]:
    """Our model, a step of ours, a step of theirs. Both start from the same weights and see the same tokens."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**SHAPE)).train()
    ours = from_reference(GPT, theirs).train()
    rows = torch.randint(0, SHAPE["vocab_size"], (sequences, LENGTH + 1))
    targets = rows[:, 1:].contiguous()
    job = Job(batch=lambda number: rows, loss=next_token_loss())
    betas = (CONFIG.beta1, CONFIG.beta2)
    optimizer = make_optimizer(ours, kind="adamw", lr=CONFIG.lr, betas=betas, weight_decay=CONFIG.weight_decay)
    turns = [Turn(optimizer, job.loss)]
    peer = torch.optim.AdamW(theirs.parameters(), lr=CONFIG.lr, betas=betas, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(peer, lambda step: min(1.0, (step + 1) / CONFIG.warmup_steps))
    losses: tuple[list[float], list[float]] = ([], [])

    def our_step() -> None:
        with fast_layers(ours):
            losses[0].append(one_step(ours, job, CONFIG, turns, len(losses[0]) + 1)[0])

    def their_step() -> None:
        loss = theirs(rows[:, :-1], labels=targets, shift_labels=targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), CONFIG.clip)
        peer.step()
        schedule.step()
        peer.zero_grad()
        losses[1].append(loss.item())
        if len(losses[1]) == 1:
            assert abs(losses[0][0] - losses[1][0]) < 1e-4, "the two must be the same network"

    return ours, our_step, their_step


def main() -> None:
    given = arguments(__doc__, 7).parse_args()
    torch.set_num_threads(given.threads)
    table = Table(given.rounds, given.threads)
    table.fact("GFLOP/s of a product, torch (MKL)", round(peak(F.linear), 1))
    best = peak(product)
    table.fact("GFLOP/s of a product, oneDNN", round(best, 1))
    for sequences, goal in GOALS.items():
        ours, our_step, their_step = full(sequences)
        pair = interleave(our_step, their_step, rounds=given.rounds)
        table.add(
            f"train step {sequences}x{LENGTH}, 13.8M", pair, "transformers", goal,
            tokens_per_second=round(sequences * LENGTH / pair.ours),
            peer_tokens_per_second=round(sequences * LENGTH / pair.peer),
            share_of_the_product=round(flops(ours, sequences) / pair.ours / 1e9 / best, 2),
        )  # fmt: skip
    table.close("train", write=given.write)


if __name__ == "__main__":
    main()
