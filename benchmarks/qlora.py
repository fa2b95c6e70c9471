"""A step of LoRA on 4-bit and fp32 weights beside peft and bitsandbytes: same weights, codes, first factors and tokens.

    python -m benchmarks.qlora [--rounds 5] [--threads 2] [--layers 12] [--no-write]

Two subjects: random weights of a common shape, and SmolLM2-135M on docs/*.md, from which something can be learned: its
loss after so many steps is a row too. If SmolLM2 cannot be had, that is said and its rows are left out.

Prints a table and writes results/bench-qlora.json: `ratios` row → peer's seconds (bytes, loss) over ours, above 1 =
ours is better; steps take turns (A B A B), the median counts. `goals` has the same rows. Rows say what each side
multiplies the frozen weights in; fp32 is bitsandbytes' default. Memory is the peak (VmHWM) of a process of its own that
imports, builds and does three steps. Before anything is timed, both sides must show the same losses in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import smollm2
from benchmarks.qlora_case import (
    ALPHA,
    CONFIG,
    LENGTH,
    RANK,
    SEQUENCES,
    TARGETS,
    Side,
    Subject,
    random_subject,
    real_subject,
)
from benchmarks.qlora_peer import theirs
from benchmarks.table import Table, arguments
from benchmarks.timing import Pair, interleave
from oliveira.adaptation.lora import Compute, add_lora
from oliveira.compression.model import quantise_model
from oliveira.errors import OliveiraError
from oliveira.kernels.fast import fast_layers
from oliveira.tasks.language_modelling import next_token_loss
from oliveira.training.loop import Job, one_step
from oliveira.training.optim import Turn, make_optimizer

LEARN, LAST = 24, 4  # steps; the mean loss of the last ones is compared


class Work(NamedTuple):
    method: str
    ours: Compute
    theirs: str
    goal: float


WORKS = (
    Work("nf4", "bf16", "fp32", 3.0),
    Work("nf4", "fp32", "fp32", 3.0),
    Work("nf4", "bf16", "bf16", 3.0),
    Work("fp32", "fp32", "fp32", 1.5),
)


def ours(subject: Subject, method: str, compute: Compute) -> Side:
    model: nn.Module = subject.model()
    if method != "fp32":
        model = quantise_model(model, method)
    torch.manual_seed(1)
    add_lora(model, RANK, ALPHA, TARGETS, compute=compute).train()
    job = Job(batch=subject.batch, loss=next_token_loss())
    betas = (CONFIG.beta1, CONFIG.beta2)
    optimizer = make_optimizer(model, kind="adamw", lr=CONFIG.lr, betas=betas, weight_decay=0.0)
    turns = [Turn(optimizer, job.loss)]
    losses: list[float] = []

    def step() -> None:
        with fast_layers(model):
            losses.append(one_step(model, job, CONFIG, turns, len(losses) + 1)[0])

    return Side(step, losses)


SIDES = {"ours": ours, "theirs": theirs}


def child(side: str, n_layers: int, method: str, compute: Any) -> None:
    """Three steps in this process; prints the peak of its memory in MiB."""
    made = SIDES[side](random_subject(n_layers), method, compute)
    for _ in range(3):
        made.step()
    # Not getrusage: its peak outlives exec, so a child would show the parent's.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def peak(threads: int, n_layers: int, *what: str) -> int:
    command = [sys.executable, "-m", "benchmarks.qlora", "--threads", str(threads), "--layers", str(n_layers)]
    done = subprocess.run([*command, "--child", *what], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def same_losses(subject: Subject) -> None:
    """B is zero at first: only from the second step on do the losses depend on A, and then on every gradient."""
    a, b = ours(subject, "nf4", "fp32"), theirs(subject, "nf4", "fp32")
    for _ in range(4):
        a.step()
        b.step()
    pairs = list(zip(a.losses, b.losses, strict=True))
    assert max(abs(x - y) for x, y in pairs) < 1e-3, f"the two must be the same network and run: {pairs}"


def time_step(table: Table, subject: Subject, work: Work) -> None:
    a, b = ours(subject, work.method, work.ours), theirs(subject, work.method, work.theirs)
    pair = interleave(a.step, b.step, rounds=table.rounds)
    kind = "QLoRA nf4" if work.method == "nf4" else "LoRA fp32"
    name = f"{kind} step {SEQUENCES}x{LENGTH}, {subject.name}, {work.ours} products, theirs {work.theirs}"
    table.add(name, pair, "peft", work.goal)


def compare_peaks(table: Table, subject: Subject, n_layers: int) -> None:
    for mine, yours in (("bf16", "fp32"), ("fp32", "fp32")):
        sizes = [peak(table.threads, n_layers, *w) for w in (("ours", "nf4", mine), ("theirs", "nf4", yours))]
        ratio = sizes[1] / sizes[0]
        name = f"QLoRA peak memory {SEQUENCES}x{LENGTH}, {subject.name}, {mine} products, theirs {yours}"
        table.add(name, Pair(*sizes, ratio, ratio, ratio), "peft", 1.0, "MiB")


def compare_losses(table: Table, subject: Subject) -> None:
    """The same batches on all sides; what the last ones cost before any step shows what was learned."""
    sides: dict[str, Callable[[], Side]] = {
        "peft, fp32": lambda: theirs(subject, "nf4", "fp32"),
        "ours, fp32": lambda: ours(subject, "nf4", "fp32"),
        "ours, bf16": lambda: ours(subject, "nf4", "bf16"),
    }
    first, last = {}, {"before any step": unadapted(subject, range(LEARN - LAST, LEARN))}
    for name, make in sides.items():
        side = make()
        for _ in range(LEARN):
            side.step()
        first[name], last[name] = side.losses[0], mean(side.losses[-LAST:])
    for label, losses in (("first step", first), (f"steps {LEARN - LAST + 1} to {LEARN}", last)):
        table.fact(f"{subject.name} nf4, loss of {label}, nats", {name: round(x, 4) for name, x in losses.items()})
    for compute in ("fp32", "bf16"):
        value, other = last[f"ours, {compute}"], last["peft, fp32"]
        ratio = other / value
        name = f"QLoRA loss after {LEARN} steps, {subject.name}, {compute} products, theirs fp32"
        table.add(name, Pair(value, other, ratio, ratio, ratio), "peft", 0.995, "nats")


@torch.inference_mode()
def unadapted(subject: Subject, batches: range) -> float:
    model, loss = quantise_model(subject.model(), "nf4"), next_token_loss()
    return mean(loss(model, subject.batch(number)).item() for number in batches)


def main() -> None:
    parser = arguments(__doc__, 5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "METHOD", "COMPUTE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        side, method, compute = given.child
        return child(side, given.layers, method, compute)
    table, subject = Table(given.rounds, given.threads), random_subject(given.layers)
    same_losses(subject)
    for work in WORKS:
        time_step(table, subject, work)
    compare_peaks(table, subject, given.layers)
    try:
        real = real_subject()
    except OliveiraError as error:
        print(f"{smollm2.NAME} cannot be had ({error}): its rows are left out.", flush=True)
    else:
        same_losses(real)
        for work in WORKS[:3]:
            time_step(table, real, work)
        compare_losses(table, real)
    table.close("qlora", write=given.write)
    return None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
