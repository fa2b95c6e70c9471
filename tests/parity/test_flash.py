"""Tiled attention against torch's fused kernels: output, log-sum-exp and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.nn.flash import flash_attention


def qkv(n_queries: int, n_keys: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, n, 16, requires_grad=True) for n in (n_queries, n_keys, n_keys)]


MASKS = {
    "none": None,
    "per key": torch.rand(2, 1, 1, 53, generator=torch.Generator().manual_seed(0)) < 0.7,
    "full": torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(1)) < 0.5,
}


@pytest.mark.parametrize("tile", [7, 16, 64])
@pytest.mark.parametrize("mask", MASKS)
def test_against_torch_scaled_dot_product_attention(mask: str, tile: int) -> None:
    """37 queries and 53 keys: no tile fits."""
    inputs = qkv(37, 53)
    direction = torch.randn(2, 3, 37, 16)
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=MASKS[mask])
    got, _ = flash_attention(*inputs, MASKS[mask], tile=tile)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    for mine, theirs in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_against_the_log_sum_exp_of_torch(causal: bool) -> None:
    q, k, v = qkv(45, 45)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    mine, my_lse = flash_attention(q, k, v, causal=causal, tile=10)
    torch.testing.assert_close(mine, out, atol=1e-6, rtol=0)
    torch.testing.assert_close(my_lse, lse, atol=2e-6, rtol=0)


def test_gradient_of_the_log_sum_exp() -> None:
    """Against autograd through the dense formula."""
    q, k, v = qkv(9, 11)
    _, lse = flash_attention(q, k, v, tile=4)
    expected = (q @ k.transpose(-2, -1) / 4).logsumexp(dim=-1)
    torch.testing.assert_close(lse, expected, atol=2e-6, rtol=0)
    direction = torch.randn_like(lse)
    mine = torch.autograd.grad((lse * direction).sum(), (q, k))
    theirs = torch.autograd.grad((expected * direction).sum(), (q, k))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
