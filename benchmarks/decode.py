"""Greedy decoding beside transformers' `generate`: a GPT-2 of the same shape and weights, fp32, same threads.

    python -m benchmarks.decode [--rounds 7] [--threads 2] [--no-write]

Ours in two ways: `generate` in torch, the plain way, and the native step, with which the server decodes. All three must
write the same text. Writes results/bench-decode.json: `ratios` row → peer's seconds over ours, above 1 = ours is
faster; `goals` has the same rows. Training steps of the same shape are in benchmarks/train.py.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.table import Table, arguments
from benchmarks.timing import interleave
from oliveira.convert import from_reference
from oliveira.kernels import decoder
from oliveira.kernels.build import unavailable
from oliveira.kernels.options import Options, native
from oliveira.models.gpt import GPT
from oliveira.tasks import language_modelling

LENGTH = 512
SHAPE: dict[str, Any] = dict(
    n_embd=384, n_layer=6, n_head=6, vocab_size=8192, n_positions=LENGTH, bos_token_id=None, eos_token_id=None
)
PROMPT, TOKENS = 128, 64


def main() -> None:
    given = arguments(__doc__, 7).parse_args()
    if reason := unavailable():
        raise SystemExit(reason)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**SHAPE)).eval()
    ours = from_reference(GPT, theirs).eval()
    prompt = torch.randint(1, SHAPE["vocab_size"], (1, PROMPT))
    step = native(ours, Options())
    decoder.BlockPool(step, LENGTH // decoder.POSITIONS)  # the step keeps it

    def by_transformers() -> list[int]:
        written = theirs.generate(
            prompt, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones_like(prompt),
        )  # fmt: skip
        return list(written[0, PROMPT:].tolist())

    def by_torch() -> list[int]:
        return language_modelling.generate(ours, prompt[0].tolist(), TOKENS, max_len=LENGTH)

    def by_native_step() -> list[int]:
        return decoder.generate(step, prompt[0].tolist(), TOKENS)

    table = Table(given.rounds, given.threads)
    with torch.inference_mode():
        text = by_transformers()
        for name, write in (("in torch", by_torch), ("native step", by_native_step)):
            assert write() == text, f"{name}: another text than transformers'"
            pair = interleave(write, by_transformers, rounds=given.rounds)
            table.add(
                f"greedy decode {TOKENS} tokens after {PROMPT}, 13.9M, fp32, {name}", pair, "transformers", 1.0,
                tokens_per_second=round(TOKENS / pair.ours), peer_tokens_per_second=round(TOKENS / pair.peer),
            )  # fmt: skip
    table.close("decode", write=given.write)


if __name__ == "__main__":
    main()
