"""ViT against transformers: square and oblong images, one and several layers, grey and colour."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.vit import ViT

VIT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12, patch_size=4,
    num_channels=3, num_labels=5,
)  # fmt: skip

VARIANTS = {
    "two-layers": {},
    "one-layer-grey": {"num_hidden_layers": 1, "num_channels": 1},
    "oblong": {"image_size": [8, 20]},
    "eps": {"layer_norm_eps": 0.1},
    "one-head-fine": {"num_attention_heads": 1, "patch_size": 2},
}


def reference(**changes: object) -> nn.Module:
    module = ViTForImageClassification(ViTConfig(**{**VIT, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("name", VARIANTS)
def test_against_hf_vit(name: str) -> None:
    theirs = reference(**VARIANTS[name])
    ours = from_reference(ViT, theirs)
    x = torch.randn(2, ours.config.channels, ours.config.height, ours.config.width)
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = ours(left), theirs(right).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(expected)
    (got * direction).sum().backward()
    (expected * direction).sum().backward()
    assert left.grad is not None and right.grad is not None
    torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-5)
    for mine, other in (
        (ours.positions, theirs.vit.embeddings.position_embeddings),
        (ours.class_token, theirs.vit.embeddings.cls_token),
        (ours.blocks[0].attention.query.weight, theirs.vit.layers[0].attention.q_proj.weight),
    ):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_refuses_what_it_does_not_compute() -> None:
    for changes, word in (({"hidden_act": "gelu_new"}, "hidden_act"), ({"qkv_bias": False}, "qkv_bias")):
        with pytest.raises(UserError, match=word):
            from_reference(ViT, reference(**changes))
    with pytest.raises(UserError, match="Linear"):
        from_reference(ViT, nn.Linear(2, 2))
    more = reference()
    more.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(ViT, more)
