"""Blocks of `nn/` against torch and transformers: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from oliveira.nn.attention import MultiHeadAttention, attention_reference, causal_mask, rotate
from oliveira.nn.feedforward import FeedForward, SwiGLU
from oliveira.nn.norm import LayerNorm, RMSNorm
from oliveira.nn.positional import Rotary


def check(ours: Tensor, theirs: Tensor, *inputs: tuple[Tensor, Tensor], tolerance: float = 1e-5) -> None:
    """Outputs and, for each pair of leaves (our input, their input), gradients in a random direction."""
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    direction = torch.randn_like(ours)
    ours.backward(direction)
    theirs.backward(direction)
    for our_input, their_input in inputs:
        torch.testing.assert_close(our_input.grad, their_input.grad, atol=tolerance, rtol=tolerance)


def twins(*shape: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(*shape)
    return x.clone().requires_grad_(), x.clone().requires_grad_()


def copied(d_model: int, n_heads: int, *, bias: bool) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    ours = MultiHeadAttention(d_model, n_heads, bias=bias)
    theirs = nn.MultiheadAttention(d_model, n_heads, bias=bias, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
            theirs.out_proj.bias.copy_(ours.output.bias)
    return ours, theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, 17])
def test_self_attention_against_torch(length: int, causal: bool, bias: bool) -> None:
    ours, theirs = copied(12, 3, bias=bias)
    x, y = twins(2, length, 12)
    blocked = ~causal_mask(length, 0) if causal else None  # torch's MultiheadAttention: True = blocked
    expected, _ = theirs(y, y, y, attn_mask=blocked, need_weights=False)
    check(ours(x, causal=causal), expected, (x, y))
    assert ours.query.weight.grad is not None
    torch.testing.assert_close(ours.query.weight.grad, theirs.in_proj_weight.grad[:12], atol=1e-5, rtol=1e-5)


def test_cross_attention_with_padding_against_torch() -> None:
    ours, theirs = copied(12, 3, bias=True)
    x, y = twins(2, 5, 12)
    context, their_context = twins(2, 9, 12)
    kept = torch.arange(9) < torch.tensor([[9], [4]])
    expected, _ = theirs(y, their_context, their_context, key_padding_mask=~kept, need_weights=False)
    got = ours(x, context=context, mask=kept[:, None, None, :])
    check(got, expected, (x, y), (context, their_context))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", [(1, 1), (3, 8), (7, 7)])
def test_grouped_queries_against_sdpa(n_kv_heads: int, lengths: tuple[int, int]) -> None:
    ours = MultiHeadAttention(16, 4, n_kv_heads)
    x, y = twins(2, lengths[0], 16)
    context = torch.randn(2, lengths[1], 16)
    mask = torch.rand(2, 1, *lengths) < 0.6
    mask[..., 0] = True
    q = ours.query(y).view(2, lengths[0], 4, 4).transpose(1, 2)
    k, v = (f(context).view(2, lengths[1], n_kv_heads, 4).transpose(1, 2) for f in (ours.key, ours.value))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    check(ours(x, context=context, mask=mask), ours.output(expected.transpose(1, 2).flatten(2)), (x, y))


@pytest.mark.parametrize("lengths", [(1, 1), (4, 9), (13, 13)])
def test_fused_kernel_against_the_equation(lengths: tuple[int, int]) -> None:
    """Random masks, among them rows that may attend to nothing: both give zeros there."""
    q, q2 = twins(2, 3, lengths[0], 8)
    k, k2 = twins(2, 3, lengths[1], 8)
    v, v2 = twins(2, 3, lengths[1], 8)
    mask = torch.rand(2, 1, *lengths) < 0.5
    mask[0, 0, 0] = False
    expected = attention_reference(q, k, v, mask)
    got = F.scaled_dot_product_attention(q2, k2, v2, attn_mask=mask)
    assert expected[0, :, 0].abs().max() == 0
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    live = mask.any(-1, keepdim=True)
    direction = torch.randn_like(got) * live
    got.backward(direction)
    (expected * live).backward(direction)
    torch.testing.assert_close(v2.grad, v.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 8), (2, 5, 17)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    ours, theirs = LayerNorm(shape[-1]), nn.LayerNorm(shape[-1])
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.normal_())
    x, y = twins(*shape)
    check(ours(x), theirs(y), (x, y), (ours.weight, theirs.weight), (ours.bias, theirs.bias), tolerance=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 8), (2, 5, 17)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    ours, theirs = RMSNorm(shape[-1], eps=1e-3), nn.RMSNorm(shape[-1], eps=1e-3)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.normal_())
    x, y = twins(*shape)
    check(ours(x), theirs(y), (x, y), (ours.weight, theirs.weight), tolerance=2e-6)


def test_feed_forward_and_swiglu() -> None:
    ours = FeedForward(8, 20, nn.ReLU())
    x, y = twins(3, 8)
    check(ours(x), torch.relu(y @ ours.up.weight.T + ours.up.bias) @ ours.down.weight.T + ours.down.bias, (x, y))
    gated = SwiGLU(8, 20)
    x, y = twins(3, 8)
    hidden = y @ gated.gate.weight.T
    check(gated(x), (hidden * torch.sigmoid(hidden) * (y @ gated.up.weight.T)) @ gated.down.weight.T, (x, y))


@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rope_against_transformers(base: float) -> None:
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )  # fmt: skip
    q, k = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    positions = torch.stack([torch.arange(9), torch.arange(50, 59)])
    expected = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, positions))
    rotation = Rotary(64, 8, base)(positions)
    last_place = 58 * 2**-23  # transformers' angles are float32, the largest 58
    torch.testing.assert_close(rotate(q, *rotation), expected[0], atol=last_place, rtol=1e-5)
    torch.testing.assert_close(rotate(k, *rotation), expected[1], atol=last_place, rtol=1e-5)
