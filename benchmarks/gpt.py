"""Training steps and greedy decoding beside transformers' GPT-2, same shape, same threads.

    python -m benchmarks.gpt [--rounds 7] [--threads 2]

Prints a table and writes results/bench-gpt.json: `ratios` row → peer's seconds over ours, above 1 = ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.timing import Pair, interleave
from oliveira.files import write_json_atomic
from oliveira.models.gpt import GPT
from oliveira.tasks.language_modelling import generate, next_token_loss
from oliveira.training.optim import make_optimizer

SHAPE = dict(
    n_embd=384, n_layer=6, n_head=6, vocab_size=8192, n_positions=512, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
)
RESULT = Path(__file__).parents[1] / "results" / "bench-gpt.json"


def models() -> tuple[GPT, GPT2LMHeadModel]:
    """The same network twice, weights copied."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**SHAPE))
    return GPT.from_reference(theirs), theirs


def training(batch_size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    ours, theirs = models()
    rows = torch.randint(0, SHAPE["vocab_size"], (batch_size, 257))
    loss = next_token_loss()
    settings = dict(kind="adamw", lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer, peer = make_optimizer(ours, **settings), torch.optim.AdamW(theirs.parameters(), lr=1e-4, fused=True)

    def our_step() -> None:
        loss(ours, rows).backward()
        optimizer.step()
        optimizer.zero_grad()

    def their_step() -> None:
        theirs(rows[:, :-1], labels=rows[:, :-1]).loss.backward()
        peer.step()
        peer.zero_grad()

    return our_step, their_step


def decoding(n_tokens: int) -> tuple[Callable[[], object], Callable[[], object]]:
    ours, theirs = (model.eval() for model in models())
    prompt = torch.randint(1, SHAPE["vocab_size"], (1, 128))

    def their_text() -> object:
        return theirs.generate(
            prompt, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones_like(prompt),
        )  # fmt: skip

    def our_text() -> object:
        with torch.inference_mode():
            return generate(ours, prompt[0].tolist(), n_tokens, max_len=512)

    assert our_text() == their_text()[0, 128:].tolist(), "the two must write the same text"
    return our_text, their_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = {
        "train 4x256, 13.9M": lambda: training(4),
        "train 16x256, 13.9M": lambda: training(16),
        "greedy decode 64 tokens after 128, fp32": lambda: decoding(64),
    }
    found: dict[str, Pair] = {}
    for name, make in rows.items():
        found[name] = pair = interleave(*make(), rounds=given.rounds)
        print(f"{name:<42} ours {pair.ours:.3f} s  transformers {pair.peer:.3f} s  "
              f"ratio {pair.ratio:.2f} ({pair.low:.2f}–{pair.high:.2f})", flush=True)  # fmt: skip
    write_json_atomic(
        RESULT,
        {
            "command": f"python -m benchmarks.gpt --rounds {given.rounds} --threads {given.threads}",
            "device": f"{os.cpu_count()} x {platform.machine()}, torch {torch.__version__}",
            "ratios": {name: round(pair.ratio, 3) for name, pair in found.items()},
            "rows": {name: asdict(pair) for name, pair in found.items()},
        },
    )
    print(json.dumps({name: round(pair.ratio, 2) for name, pair in found.items()}))


if __name__ == "__main__":
    main()
