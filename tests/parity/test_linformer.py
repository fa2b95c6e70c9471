"""Linformer against lucidrains' linformer: weights by the converter that users call, logits and gradients to 1e-5."""

from __future__ import annotations

import pytest
import torch
from linformer import LinformerLM, LinformerSelfAttention
from linformer.linformer import Linformer as TheirStack
from torch import nn

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.linformer import Linformer

SIZES = dict(num_tokens=29, dim=24, seq_len=16, depth=2, k=5, heads=3)


def reference(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    module = LinformerLM(**{**SIZES, **changes}).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("changes", [{}, {"k": 16}, {"heads": 1}, {"depth": 1, "k": 2}], ids=str)
@pytest.mark.parametrize("length", [1, 7, 16])
def test_against_linformer(changes: dict[str, object], length: int) -> None:
    theirs = reference(**changes).double()  # rounding differs from CPU to CPU; a wrong formula does not hide in it
    ours = from_reference(Linformer, theirs).double()
    tokens = torch.randint(29, (2, length))
    expected, got = theirs(tokens), ours(tokens)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (got * direction).sum().backward()
    layer, other = ours.blocks[0].attention, theirs.linformer.net.layers[0][0].fn
    assert ours.input.embedding is not None
    for mine, wanted in (
        (ours.input.embedding.weight.grad, theirs.token_emb.weight.grad),
        (ours.positions.table.weight.grad, theirs.pos_emb.weight.grad),
        (layer.key_mix.grad, other.proj_k.grad.T),
        (layer.value_mix.grad, other.proj_v.grad.T),
        (layer.key.weight.grad, other.to_k.weight.grad),
    ):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-4)


def test_padding_is_a_shorter_row_of_the_reference() -> None:
    """The package takes no mask: a padded row must give what the package gives for the row alone."""
    theirs = reference()
    ours = from_reference(Linformer, theirs)
    tokens = torch.randint(29, (2, 11))
    mask = torch.arange(11) < torch.tensor([[11], [4]])
    got = ours(tokens, mask)
    torch.testing.assert_close(got[:1], theirs(tokens[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:, :4], theirs(tokens[1:, :4]), atol=1e-5, rtol=1e-5)


REFUSED = {
    "reversible": (lambda: reference(reversible=True), "reversible"),
    "share_kv": (lambda: reference(share_kv=True), "share_kv"),
    "one_kv_head": (lambda: reference(one_kv_head=True), "one_kv_head"),
    "dim_head": (lambda: reference(dim_head=4), "dim_head"),
    "stack": (lambda: TheirStack(24, 16, 1, heads=3), "LinformerLM"),
    "layer": (lambda: LinformerSelfAttention(24, 16, heads=3), "LinformerLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(Linformer, make())


def test_no_weight_is_left_over() -> None:
    theirs = reference()
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(Linformer, theirs)
