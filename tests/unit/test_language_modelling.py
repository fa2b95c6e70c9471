"""Batches cover the text, and bits per byte is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from oliveira.registry import create
from oliveira.tasks.language_modelling import MixedBatches, TokenBatches, bits_per_byte, generate, total_nats

TOKENS = np.arange(1000, dtype=np.uint16) % 60


class Uniform(nn.Module):
    """Knows nothing: log₂ V bits a token."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 60)


def test_an_ignorant_model_pays_log2_of_the_vocabulary() -> None:
    bits = bits_per_byte(Uniform(), TOKENS, n_bytes=3000, end_of_text=0, max_len=32)
    assert bits == pytest.approx(1000 * math.log2(60) / 3000, rel=1e-6)


@pytest.mark.parametrize("n_tokens", [1, 5, 31, 32, 33, 64, 97, 500])
def test_every_token_is_scored_once(n_tokens: int) -> None:
    nats = total_nats(Uniform(), TOKENS[:n_tokens], end_of_text=0, max_len=32, batch_size=3)
    assert nats == pytest.approx(n_tokens * math.log(60), rel=1e-6)


def test_a_short_text_is_scored_as_one_window() -> None:
    torch.manual_seed(0)
    model = create("gpt", vocab_size=60, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32, max_len=64).eval()
    tokens = TOKENS[:40]
    row = torch.tensor([[0, *tokens.tolist()]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(row[:, :-1]), -1).gather(-1, row[:, 1:, None]).sum()
    assert total_nats(model, tokens, end_of_text=0, max_len=64) == pytest.approx(-log_p.item(), rel=1e-5)


def test_an_epoch_shows_every_window_once() -> None:
    batches = TokenBatches(np.arange(2000, dtype=np.uint16), 50, 1, seed=3)
    starts = [int(batches(number)[0, 0]) for number in range(batches.windows)]
    assert len(set(starts)) == batches.windows and {s % 50 for s in starts} == {starts[0] % 50}
    again = TokenBatches(np.arange(2000, dtype=np.uint16), 50, 1, seed=3)
    assert int(again(batches.windows - 1)[0, 0]) == starts[-1], "batch i depends on i alone"


def test_batches_are_inputs_and_next_tokens() -> None:
    rows = TokenBatches(np.arange(2000, dtype=np.uint16), 50, 4, seed=0)(7)
    assert rows.shape == (4, 51) and torch.equal(rows[:, 1:], rows[:, :-1] + 1)


def test_replay_replaces_its_share() -> None:
    new = TokenBatches(np.full(500, 1, dtype=np.uint16), 16, 10, seed=0)
    old = TokenBatches(np.full(500, 2, dtype=np.uint16), 16, 10, seed=0)
    assert MixedBatches(new, old, 0.3)(0)[:, 0].tolist() == [2] * 3 + [1] * 7


def test_generation_is_greedy_and_repeatable() -> None:
    torch.manual_seed(0)
    model = create("gpt", vocab_size=60, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32, max_len=48).eval()
    written = generate(model, [1, 2, 3], 20, max_len=48)
    tokens = [1, 2, 3]
    with torch.no_grad():
        for expected in written:
            assert int(model(torch.tensor([tokens]))[0, -1].argmax()) == expected
            tokens.append(expected)
    hot = [generate(model, [1], 20, max_len=48, temperature=1.0, seed=s) for s in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]
    assert len(generate(model, [1] * 40, 20, max_len=48)) == 8, "never beyond max_len"
