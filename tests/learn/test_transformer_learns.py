"""`transformer` writes 20 symbols backwards without a mistake; not without knowing where they stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.nn.beam import beam_search
from oliveira.registry import create

SYMBOLS, LENGTH, END = 10, 20, 0  # END also begins a target
STEPS, BATCH = 500, 64


def batch(seed: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target as it is fed, target as it is wanted."""
    source = torch.randint(1, SYMBOLS + 1, (size, LENGTH), generator=torch.Generator().manual_seed(seed))
    edge = torch.full((size, 1), END)
    return source, torch.cat([edge, source.flip(1)], dim=1), torch.cat([source.flip(1), edge], dim=1)


def trained(*, positions: bool) -> nn.Module:
    torch.manual_seed(0)
    model = create(
        "transformer", vocab_size=SYMBOLS + 1, target_vocab_size=SYMBOLS + 1, max_len=LENGTH + 1, d_model=64, n_heads=4,
        n_layers=1, n_decoder_layers=1, d_ff=128, dropout=0.0, pre_norm=True,
    )  # fmt: skip
    if not positions:
        model.positions.table.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / 50, (STEPS - n) / STEPS))
    for number in range(STEPS):
        source, target, wanted = batch(number, BATCH)
        optimizer.zero_grad()
        F.cross_entropy(model(source, target).flatten(0, 1), wanted.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def exact(model: nn.Module, beam: int, count: int) -> float:
    """Share of unseen strings that are written without a mistake."""
    source = batch(10**6, count)[0].numpy()

    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(source), torch.from_numpy(target)).numpy()

    written = beam_search(run, source, start=END, end=END, max_len=LENGTH + 1, beam=beam)
    return float(np.mean([text == row[::-1].tolist() for text, row in zip(written, source, strict=True)]))


@pytest.mark.slow
def test_reverses_20_symbols() -> None:
    model = trained(positions=True)
    greedy, beam = exact(model, 1, 200), exact(model, 4, 200)
    assert greedy == 1.0 and beam == 1.0, (greedy, beam)  # 1,000 of 1,000 where it was measured


@pytest.mark.slow
def test_without_positions_it_cannot() -> None:
    assert exact(trained(positions=False), 1, 50) <= 0.02
