"""Block-sparse attention is dense attention with the same boolean mask, in memory linear in the length."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from memory_helpers import exponent, peak_bytes
from torch import Tensor

from oliveira.nn.attention import attention_reference
from oliveira.nn.block_sparse import block_sparse_attention, block_sparse_mask, random_blocks


def qkv(length: int, batch: int = 2, heads: int = 2, width: int = 8) -> list[Tensor]:
    torch.manual_seed(length)
    return [torch.randn(batch, heads, length, width, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("length", [1, 4, 5, 8, 19, 48, 61])
@pytest.mark.parametrize(("n_random", "n_global"), [(0, 0), (0, 1), (2, 0), (2, 1), (3, 2), (1, 2)])
def test_is_dense_attention_with_the_same_mask(length: int, n_random: int, n_global: int) -> None:
    """Outputs and gradients, with rows of every kind: whole, padded right, padded left, nothing but padding."""
    table = random_blocks(16, 2, n_random, n_global=n_global, seed=3)
    inputs = qkv(length, batch=4)
    step = torch.arange(length)
    mask = torch.stack([step >= 0, step < max(1, length // 3), step >= length // 2, step < 0])
    got = block_sparse_attention(*inputs, table, 4, n_global, mask)
    dense = block_sparse_mask(table, length, 4, n_global, mask)
    expected = attention_reference(*inputs, dense)
    assert got.isfinite().all()
    rows = mask[:, None, :, None] | ~mask.any(dim=1)[:, None, None, None]  # padding's own rows are nobody's business
    torch.testing.assert_close(got * rows, expected * rows, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(got) * rows
    for mine, theirs in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [3, 16, 20])
def test_short_sequences_are_full_attention(length: int) -> None:
    """Up to four blocks everything is window or global: no switch to another kernel is needed."""
    inputs = qkv(length)
    table = random_blocks(8, 2, 2)
    if length <= 16:
        expected = F.scaled_dot_product_attention(*inputs)
        torch.testing.assert_close(block_sparse_attention(*inputs, table, 4), expected, atol=1e-6, rtol=1e-5)
    else:
        assert not block_sparse_mask(random_blocks(8, 2, 0), length, 4).all()


def test_the_pattern_by_hand() -> None:
    """Six blocks of one step, one random block each: written out."""
    random = torch.tensor([[[2], [4], [5], [1], [2], [1]]])
    seen = block_sparse_mask(random, 6, 1, n_global=2)[0, 0].int()
    assert seen.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 1, 1],
        [1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    window = block_sparse_mask(random[:, :, :0], 6, 1, n_global=0)[0, 0]
    assert torch.equal(window, torch.ones(6, 6).tril(1).triu(-1).bool())


def test_random_blocks_are_new_to_their_row() -> None:
    table = random_blocks(32, 4, 3, seed=1)
    rows = torch.arange(32)[:, None]
    assert ((table - rows).abs() > 1).all() and (table > 0).all() and (table < 32).all()
    assert all(len(set(row.tolist())) == 3 for head in table for row in head)
    assert torch.equal(table, random_blocks(32, 4, 3, seed=1)) and not torch.equal(
        table, random_blocks(32, 4, 3, seed=2)
    )
    assert not torch.equal(table[0], table[1]), "each head draws its own"
    assert (random_blocks(4, 1, 3)[0, 0] == torch.tensor([2, 3, -1])).sum() >= 1, "too few: the rest is -1"


def test_padding_is_invisible_at_any_length() -> None:
    """The last global block is the row's own, and the random table does not depend on the padded length."""
    table = random_blocks(32, 2, 2, seed=0)
    long = qkv(100, batch=1)
    mask = (torch.arange(100) < 37)[None]
    alone = block_sparse_attention(*(x[:, :, :37] for x in long), table, 4)
    together = block_sparse_attention(*long, table, 4, 2, mask)
    torch.testing.assert_close(together[:, :, :37], alone, atol=1e-6, rtol=1e-5)


def test_memory_is_linear_in_the_length() -> None:
    lengths = [512, 1024, 2048]

    def peak(length: int, dense: bool) -> int:
        inputs, table = qkv(length, batch=1, heads=1), random_blocks(length // 16, 1, 2)
        if dense:
            mask = block_sparse_mask(table, length, 16)
            return peak_bytes(lambda: attention_reference(*inputs, mask).sum().backward())
        return peak_bytes(lambda: block_sparse_attention(*inputs, table, 16).sum().backward())

    assert exponent(lengths, [peak(n, dense=False) for n in lengths]) < 1.2
    assert exponent(lengths, [peak(n, dense=True) for n in lengths]) > 1.8
