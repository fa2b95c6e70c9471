"""What selection is for (Gu & Dao 2023, §4.1.1): copying letters out of noise, where a fixed filter cannot follow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.registry import create
from oliveira.training.optim import make_optimizer

STEPS, LETTERS, KINDS = 64, 4, 14  # the probe's 8 letters shrunk to 4: under a minute of one thread
NOISE, SLOT = KINDS, KINDS + 1
UPDATES, ROWS, LR = 1000, 16, 1e-2


def scattered(number: int, rows: int) -> tuple[Tensor, Tensor]:
    """Letters at random places of noise, then a slot for each: (B, 68) tokens, (B, 4) letters in order."""
    random = torch.Generator().manual_seed(number)
    letters = torch.randint(KINDS, (rows, LETTERS), generator=random)
    places = torch.rand(rows, STEPS, generator=random).argsort(dim=1)[:, :LETTERS].sort(dim=1).values
    noise = torch.full((rows, STEPS), NOISE).scatter(1, places, letters)
    return torch.cat([noise, torch.full((rows, LETTERS), SLOT)], dim=1), letters


def copied_after_training(name: str, optimizer: str) -> float:
    """Share of 500 fresh rows whose letters are all right. Full rate for half of the updates, then down to nothing."""
    torch.manual_seed(0)
    model = create(name, vocab_size=KINDS + 2, d_out=KINDS, d_model=64, n_layers=2, d_state=8, max_len=STEPS + LETTERS)
    optimiser = make_optimizer(model, kind=optimizer, lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    for number in range(UPDATES):
        optimiser.set_lr(LR * min(1, (number + 1) / 20, 2 - 2 * number / UPDATES), LR)
        tokens, letters = scattered(number, ROWS)
        loss = F.cross_entropy(model(tokens)[:, STEPS:].flatten(0, 1), letters.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    tokens, letters = scattered(10**6, 500)
    with torch.no_grad():
        return (model(tokens)[:, STEPS:].argmax(dim=-1) == letters).all(dim=1).double().mean().item()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "optimizer", "must"), [("mamba", "muon", "learn"), ("s4d", "muon", "fail"), ("s4d", "adamw", "fail")]
)
def test_selective_copying_needs_selection(name: str, optimizer: str, must: str) -> None:
    """A guess copies one row in 38,416. The time-invariant twin has the same widths, updates and rates.

    Part 3 of the catalogue asks for 0.98 of 8 letters, each letter counted. 2,500 steps, 1.4 minutes a seed, gave
    0.883, 0.998 and 0.9998 (probe-mamba before its budget grew): it is the recipe's to hold. Here whole rows of 4
    letters are counted: 0.95 of them is 0.987 of the letters.
    """
    copied = copied_after_training(name, optimizer)
    print(name, optimizer, copied)
    assert copied >= 0.95 if must == "learn" else copied <= 0.50, copied
