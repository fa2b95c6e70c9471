"""Who may attend to whom, and that a row of padding alone stays finite, backwards too."""

from __future__ import annotations

import torch

from oliveira.nn.attention import MultiHeadAttention
from oliveira.nn.encoder import EncoderBlock
from oliveira.nn.feedforward import FeedForward
from oliveira.nn.masking import causal_keys, keys
from oliveira.nn.norm import LayerNorm

MASK = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])


def test_keys_are_the_real_steps() -> None:
    assert keys(None) is None
    allowed = keys(MASK)
    assert allowed is not None and allowed.shape == (3, 1, 1, 3)
    assert allowed[:, 0, 0].tolist() == [[True, True, False], [True] * 3, [False, True, True]]


def test_causal_keys_are_those_before_and_oneself() -> None:
    allowed = causal_keys(MASK)[:, 0]
    for row in range(3):
        for query in range(3):
            for key in range(3):
                expected = key == query or (key < query and bool(MASK[row, key]))
                assert bool(allowed[row, query, key]) == expected


def test_padding_alone_is_finite() -> None:
    torch.manual_seed(0)
    for pre_norm in (True, False):
        block = EncoderBlock(
            MultiHeadAttention(8, 2),
            FeedForward(8, 16, torch.nn.ReLU()),
            (LayerNorm(8), LayerNorm(8)),
            pre_norm=pre_norm,
        )
        for allowed in (keys(MASK), causal_keys(MASK)):
            x = torch.randn(3, 3, 8, requires_grad=True)
            y = block(x, allowed)
            y.sum().backward()
            assert y.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
