"""Tiled attention: exact at every tile size, in linear memory, and torch's own flash kernel is what the house uses."""

from __future__ import annotations

import pytest
import torch
from memory_helpers import exponent, peak_bytes
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from oliveira.nn.attention import MultiHeadAttention, attention_reference, causal_mask
from oliveira.nn.flash import flash_attention


def qkv(n_queries: int, n_keys: int, dtype: torch.dtype = torch.float32, width: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, n, width, dtype=dtype, requires_grad=True) for n in (n_queries, n_keys, n_keys)]


@pytest.mark.slow
@pytest.mark.parametrize("tile", [1, 3, 8, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_backward_by_finite_differences(tile: int, causal: bool) -> None:
    """Both outputs, with rows that see nothing at all."""
    mask = torch.rand(2, 1, 5, 7) < 0.7
    mask[0, :, 2] = False

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = flash_attention(q, k, v, mask, causal, tile)
        return out, lse.masked_fill(lse.isinf(), 0.0)

    assert torch.autograd.gradcheck(run, qkv(5, 7, torch.float64))


@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 7), (3, 7), (7, 3), (1, 9)])
def test_causal_is_aligned_at_the_end(n_queries: int, n_keys: int) -> None:
    """As `causal_mask` of the cache is; where there are more queries than keys, the first ones see nothing."""
    q, k, v = qkv(n_queries, n_keys)
    seen = torch.arange(n_keys) <= torch.arange(n_queries)[:, None] + n_keys - n_queries
    if n_queries <= n_keys:
        assert torch.equal(seen, causal_mask(n_queries, n_keys - n_queries))
    out, lse = flash_attention(q, k, v, causal=True, tile=2)
    torch.testing.assert_close(out, attention_reference(q, k, v, seen), atol=1e-6, rtol=1e-5)
    assert (out[:, :, ~seen.any(dim=1)] == 0).all()
    assert torch.equal(lse[0, 0].isinf(), ~seen.any(dim=1))


def test_rows_that_see_nothing_give_zeros_and_finite_gradients() -> None:
    q, k, v = qkv(6, 6)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1] = False
    out, _ = flash_attention(q, k, v, mask, tile=4)
    out.square().sum().backward()
    assert (out[1] == 0).all() and out[0].abs().min() > 0
    for tensor in (q, k, v):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all() and (tensor.grad[1] == 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logits_of_ten_thousand_stay_finite(sign: float) -> None:
    q, k, v = qkv(8, 8)
    big = (q.detach() * 200).requires_grad_()
    other = (sign * k.detach() * 200).requires_grad_()
    assert (big @ other.transpose(-2, -1) / 2).abs().max() > 1e4
    out, lse = flash_attention(big, other, v, tile=3)
    (out.sum() + lse.sum()).backward()
    torch.testing.assert_close(out, attention_reference(big, other, v), atol=1e-5, rtol=1e-5)
    for tensor in (out, lse, big.grad, other.grad, v.grad):
        assert tensor is not None and tensor.isfinite().all()


def test_a_tile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="tile = 0"):
        flash_attention(*qkv(2, 2), tile=0)


@pytest.mark.slow
def test_memory_is_linear_and_of_the_dense_form_quadratic() -> None:
    """Forward and backward, whatever the allocator hands out. 8k is in benchmarks/memory_long_attention.py."""
    lengths = [512, 1024, 2048]

    def run(length: int, tiled: bool) -> int:
        q, k, v = (torch.randn(1, 1, length, 16, requires_grad=True) for _ in range(3))
        step = (lambda: flash_attention(q, k, v, tile=64)[0]) if tiled else (lambda: attention_reference(q, k, v))
        return peak_bytes(lambda: step().sum().backward())

    assert exponent(lengths, [run(n, tiled=True) for n in lengths]) < 1.2
    assert exponent(lengths, [run(n, tiled=False) for n in lengths]) > 1.8


def test_multi_head_attention_runs_the_flash_kernel_of_torch() -> None:
    layer, x = MultiHeadAttention(32, 4), torch.randn(2, 64, 32)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        layer(x).sum().backward()
    names = {event.key for event in seen.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names
    assert "aten::_scaled_dot_product_attention_math" not in names
