"""Reversing strings of 10 to 20 letters: with attention all of them, without it hardly one (Bahdanau 2015, fig. 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.nn.beam import beam_search
from oliveira.registry import create

PADDING, START, END, LETTERS = 0, 1, 2, 10
SHORTEST, LONGEST = 10, 20


class Strings(NamedTuple):
    source: Tensor  # (B, 20)
    target: Tensor  # (B, 21) the start, then the source from its end
    wanted: Tensor  # (B, 21) the same, then the end
    lengths: Tensor  # (B,)


def strings(n: int, random: torch.Generator) -> Strings:
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n,), generator=random)
    steps = torch.arange(LONGEST)
    source = torch.randint(END + 1, END + 1 + LETTERS, (n, LONGEST), generator=random)
    source = source * (steps < lengths[:, None])
    turned = source.gather(1, (lengths[:, None] - 1 - steps).clamp(min=0)) * (steps < lengths[:, None])
    edge = torch.full((n, 1), START)
    wanted = torch.cat([turned, torch.zeros_like(edge)], dim=1).scatter(1, lengths[:, None], END)
    return Strings(source, torch.cat([edge, turned], dim=1), wanted, lengths)


def trained(attention: str, steps: int) -> Any:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    size = LETTERS + END + 1
    model = create("seq2seq", vocab_size=size, target_vocab_size=size, d_model=64, attention=attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps, pct_start=0.1)
    for _ in range(steps):
        batch = strings(32, random)
        logits = model(batch.source, batch.target, batch.source != PADDING)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.wanted.flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.mark.long
@pytest.mark.parametrize(("attention", "must"), [("additive", "learn"), ("none", "fail")])
def test_reversal_needs_attention(attention: str, must: str) -> None:
    model, held_out = trained(attention, 700), strings(300, torch.Generator().manual_seed(1))

    def run(source: Any, target: Any) -> Any:
        tokens = torch.from_numpy(source)
        with torch.inference_mode():
            return model(tokens, torch.from_numpy(target), tokens != PADDING).numpy()

    answers = beam_search(run, held_out.source.numpy(), start=START, end=END, max_len=LONGEST + 2, beam=1)
    rows = zip(answers, held_out.source, held_out.lengths, strict=True)
    right = np.array([answer == source[:n].flip(0).tolist() for answer, source, n in rows])
    if must == "fail":
        at_longest = right[held_out.lengths.numpy() == LONGEST].mean()
        assert at_longest <= 0.5, at_longest
        return
    assert right.mean() >= 0.99, right.mean()
    with torch.inference_mode():
        looked = model.attention_map(held_out.source, held_out.target, held_out.source != PADDING).argmax(dim=-1)
    # One anti-diagonal, as the paper's figure has it, up to a constant shift: each annotation sums up the words around
    # its own (§3.2), and this net reads a letter off the neighbour at its right, 97 % of the steps after the first; the
    # last letter, asked for first, has no such neighbour.
    shifts = torch.cat(
        [row[1:n] - torch.arange(n - 2, -1, -1) for row, n in zip(looked, held_out.lengths.tolist(), strict=True)]
    )
    on_one = max((shifts == shift).float().mean().item() for shift in (-1, 0, 1))
    assert on_one >= 0.9, on_one
