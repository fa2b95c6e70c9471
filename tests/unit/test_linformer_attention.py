"""Linformer attention: full attention where nothing is left out, padding adds nothing, memory grows with the length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_helpers import exponent, peak_bytes
from torch import nn

from oliveira.errors import UserError
from oliveira.models.linformer import Linformer
from oliveira.nn.attention import MultiHeadAttention
from oliveira.nn.linformer import LinformerAttention, length_projection
from oliveira.registry import create

SHARING = ["none", "headwise", "key-value", "layerwise"]


def layer(sharing: Any, max_len: int = 12, projected_len: int = 4) -> LinformerAttention:
    torch.manual_seed(0)
    shared = length_projection(max_len, projected_len) if sharing == "layerwise" else None
    return LinformerAttention(16, 2, max_len, projected_len, sharing, shared=shared)


@pytest.mark.parametrize("sharing", SHARING)
def test_identity_projections_give_full_attention(sharing: str) -> None:
    ours, full = layer(sharing, max_len=12, projected_len=12), MultiHeadAttention(16, 2)
    state = {name: p for name, p in ours.state_dict().items() if "mix" not in name and name != "output.bias"}
    full.load_state_dict(state)
    with torch.no_grad():
        ours.output.bias.zero_()
        for mix in (ours.key_mix, ours.value_mix):
            mix.copy_(torch.eye(12).expand_as(mix))
    x = torch.randn(2, 12, 16)
    torch.testing.assert_close(ours(x), full(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sharing", SHARING)
def test_as_the_equation_is_written(sharing: str) -> None:
    """Equation 7 head by head, W before E: the layer applies a shared E first."""
    ours, x = layer(sharing), torch.randn(1, 9, 16)
    heads = []
    for h in range(2):
        rows = slice(8 * h, 8 * h + 8)
        e, f = (mix[h] if sharing == "none" else mix for mix in (ours.key_mix, ours.value_mix))
        q, k, v = (x[0] @ m.weight[rows].T for m in (ours.query, ours.key, ours.value))
        heads.append(torch.softmax(q @ (e[:, :9] @ k).T / 8**0.5, dim=-1) @ (f[:, :9] @ v))
    torch.testing.assert_close(ours(x)[0], ours.output(torch.cat(heads, dim=1)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("sharing", "projections"), [("none", 2 * 2 * 2), ("headwise", 2 * 2), ("key-value", 2), ("layerwise", 1)]
)
def test_how_many_projections_a_sharing_has(sharing: str, projections: int) -> None:
    """Two layers of two heads: the counts of §4 of the paper."""
    model: nn.Module = create(
        "linformer",
        vocab_size=5,
        d_out=5,
        d_model=8,
        n_heads=2,
        n_layers=2,
        max_len=12,
        projected_len=4,
        sharing=sharing,
    )
    mixes = {id(p): p.numel() for name, p in model.named_parameters() if "mix" in name}
    assert sum(mixes.values()) == projections * 4 * 12


def test_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="max_len = 12"):
        layer("headwise")(torch.zeros(1, 13, 16))
    with pytest.raises(UserError, match="n_heads = 3"):
        create("linformer", vocab_size=5, d_out=5, d_model=8, n_heads=3)


def test_memory_is_linear_in_the_length() -> None:
    lengths = [256, 512, 1024]

    def peak(attention: nn.Module, length: int) -> int:
        x = torch.randn(1, length, 16, requires_grad=True)
        return peak_bytes(lambda: attention(x).sum().backward())

    assert exponent(lengths, [peak(layer("headwise", n, 16), n) for n in lengths]) < 1.2


def test_reloads_with_a_projection_that_is_shared() -> None:
    model = create(
        "linformer", vocab_size=5, d_out=5, d_model=8, n_heads=2, max_len=6, projected_len=2, sharing="layerwise"
    )
    assert isinstance(model, Linformer) and model.blocks[0].attention.key_mix is model.mix
