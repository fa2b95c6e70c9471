"""A step of LoRA on 4-bit and fp32 weights beside peft and bitsandbytes: same weights, codes, first factors and tokens.

    python -m benchmarks.qlora [--rounds 5] [--threads 2] [--layers 12] [--no-write]

Prints a table and writes results/bench-qlora.json: `ratios` row → peer's seconds (bytes, loss) over ours, above 1 =
ours is better; steps take turns (A B A B), the median counts. `goals` has the same rows. Rows say what each side
multiplies the frozen weights in; fp32 is bitsandbytes' default. Memory is the peak (VmHWM) of a process of its own that
imports, builds and does three steps. Before anything is timed, both sides must show the same losses in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.timing import Pair, interleave
from benchmarks.train import RESULTS, Table
from oliveira.adaptation.lora import Compute, add_lora, layers
from oliveira.compression.model import quantise_model
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.tasks.language_modelling import next_token_loss
from oliveira.training.loop import Job, one_step
from oliveira.training.optim import make_optimizer
from oliveira.training.products import fast_linears
from oliveira.world import TrainSection

VOCAB, WIDTH, HEADS, FF, LENGTH, SEQUENCES = 8192, 768, 12, 3072, 256, 4
RANK, ALPHA = 16, 32.0
OURS = ("query", "key", "value", "output", "gate", "up", "down")
THEIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG = TrainSection(steps=10_000, lr=1e-3, warmup_steps=1, weight_decay=0.0, beta2=0.999)
LEARN = 24  # steps after which the losses are compared
PEERS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Side(NamedTuple):
    step: Callable[[], object]
    losses: list[float]


def tokens(number: int) -> torch.Tensor:
    """Sequences that count up in steps of 1 … 4: something to learn."""
    random = torch.Generator().manual_seed(number)
    start = torch.randint(VOCAB, (SEQUENCES, 1), generator=random)
    return (start + torch.randint(1, 5, (SEQUENCES, 1), generator=random) * torch.arange(LENGTH + 1)) % VOCAB


def base(n_layers: int, method: str) -> GPT:
    """The frozen model of both sides, the same weights at every call."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=VOCAB, d_model=WIDTH, n_layers=n_layers, n_heads=HEADS, n_kv_heads=HEADS, d_ff=FF, max_len=LENGTH
    )
    model = GPT(config)
    return model if method == "fp32" else quantise_model(model, method)  # type: ignore[return-value]


def ours(n_layers: int, method: str, compute: Compute) -> Side:
    model = base(n_layers, method)
    torch.manual_seed(1)
    add_lora(model, RANK, ALPHA, OURS, compute=compute).train()
    job = Job(batch=tokens, loss=next_token_loss())
    betas = (CONFIG.beta1, CONFIG.beta2)
    optimizer = make_optimizer(model, kind="adamw", lr=CONFIG.lr, betas=betas, weight_decay=0.0)
    losses: list[float] = []

    def step() -> None:
        with fast_linears(model):
            losses.append(one_step(model, job, CONFIG, optimizer, len(losses) + 1)[0])

    return Side(step, losses)


def theirs(n_layers: int, method: str, compute: str) -> Side:
    """peft's LoRA on bitsandbytes' Linear4bit (or on nn.Linear) in a LlamaForCausalLM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=n_layers, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, intermediate_size=FF, max_position_embeddings=LENGTH, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    _copy(base(n_layers, "fp32"), model)
    if method == "nf4":
        _four_bits(model, PEERS[compute])
        model.is_loaded_in_4bit = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(THEIRS), task_type="CAUSAL_LM")
        ).train()
    like = base(n_layers, "fp32")
    torch.manual_seed(1)  # after the model, which draws from the same generator
    factors = layers(add_lora(like, RANK, ALPHA, OURS))
    theirs_a = [p for name, p in model.named_parameters() if "lora_A" in name]
    with torch.no_grad():
        for p, layer in zip(theirs_a, factors.values(), strict=True):
            p.copy_(layer.lora_a)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=CONFIG.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    losses: list[float] = []

    def step() -> None:
        rows = tokens(len(losses))
        targets = rows[:, 1:].contiguous()
        loss = model(input_ids=rows[:, :-1], labels=targets, shift_labels=targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CONFIG.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    return Side(step, losses)


def _copy(source: GPT, target: Any) -> None:
    names = dict(zip(OURS, THEIRS, strict=True))
    state = target.state_dict()
    with torch.no_grad():
        state["model.embed_tokens.weight"].copy_(source.embedding.weight)
        for name, weight in source.named_parameters():
            parts = name.split(".")
            if name.startswith("blocks.") and parts[3] in names:
                room = "self_attn" if parts[2] == "attention" else "mlp"
                state[f"model.layers.{parts[1]}.{room}.{names[parts[3]]}.weight"].copy_(weight)


def _four_bits(module: nn.Module, compute: torch.dtype) -> None:
    import bitsandbytes as bnb

    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and name != "lm_head":
            made = bnb.nn.Linear4bit(
                child.in_features, child.out_features, bias=False, compute_dtype=compute, quant_type="nf4"
            )
            made.weight = bnb.nn.Params4bit(
                child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            setattr(module, name, made.to("cpu"))
        else:
            _four_bits(child, compute)


SIDES = {"ours": ours, "theirs": theirs}


def child(side: str, n_layers: int, method: str, compute: Any) -> None:
    """Three steps in this process; prints the peak of its memory in MiB."""
    made = SIDES[side](n_layers, method, compute)
    for _ in range(3):
        made.step()
    # Not getrusage: its peak outlives exec, so a child would show the parent's.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def peak(threads: int, n_layers: int, *what: str) -> int:
    command = [sys.executable, "-m", "benchmarks.qlora", "--threads", str(threads), "--layers", str(n_layers)]
    done = subprocess.run([*command, "--child", *what], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def same_losses(n_layers: int) -> None:
    """B is zero at first: only from the second step on do the losses depend on A, and then on every gradient."""
    a, b = ours(n_layers, "nf4", "fp32"), theirs(n_layers, "nf4", "fp32")
    for _ in range(4):
        a.step()
        b.step()
    pairs = list(zip(a.losses, b.losses, strict=True))
    assert max(abs(x - y) for x, y in pairs) < 1e-3, f"the two must be the same network and run: {pairs}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "METHOD", "COMPUTE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        side, method, compute = given.child
        return child(side, given.layers, method, compute)
    table, shape = Table(given.rounds, given.threads), f"{SEQUENCES}x{LENGTH}, {given.layers} layers of {WIDTH}"
    same_losses(given.layers)
    for method, mine, yours, goal in (
        ("nf4", "bf16", "fp32", 3.0),
        ("nf4", "fp32", "fp32", 3.0),
        ("nf4", "bf16", "bf16", 3.0),
        ("fp32", "fp32", "fp32", 1.5),
    ):
        a, b = ours(given.layers, method, mine), theirs(given.layers, method, yours)
        pair = interleave(a.step, b.step, rounds=given.rounds)
        name = f"{'QLoRA nf4' if method == 'nf4' else 'LoRA fp32'} step {shape}, {mine} products, theirs {yours}"
        table.add(name, pair, "peft", goal)
    for mine, yours in (("bf16", "fp32"), ("fp32", "fp32")):
        sizes = [peak(given.threads, given.layers, *w) for w in (("ours", "nf4", mine), ("theirs", "nf4", yours))]
        ratio = sizes[1] / sizes[0]
        name = f"QLoRA peak memory {shape}, {mine} products, theirs {yours}"
        table.add(name, Pair(*sizes, ratio, ratio, ratio), "peft", 1.0, "MiB")
    runs = {"peft, fp32": theirs(given.layers, "nf4", "fp32")}
    runs |= {f"ours, {compute}": ours(given.layers, "nf4", compute) for compute in ("fp32", "bf16")}
    last = {}
    for name, side in runs.items():
        for _ in range(LEARN):
            side.step()
        last[name] = sum(side.losses[-4:]) / 4
    table.fact(f"loss of steps {LEARN - 3} to {LEARN}, nats", {name: round(value, 4) for name, value in last.items()})
    for compute in ("fp32", "bf16"):
        value, other = last[f"ours, {compute}"], last["peft, fp32"]
        ratio = other / value
        name = f"QLoRA loss after {LEARN} steps, {compute} products"
        table.add(name, Pair(value, other, ratio, ratio, ratio), "peft", 0.995, "nats")
    if given.write:
        table.write(RESULTS / "bench-qlora.json", "benchmarks.qlora")
    print(json.dumps({name: round(row["ratio"], 2) for name, row in table.rows.items()}))
    return None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
