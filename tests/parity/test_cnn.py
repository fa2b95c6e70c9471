"""CNN against transformers' ResNet of basic blocks: both stems, several depths, odd sides; training mode too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.cnn import CNN

RESNET = dict(
    num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5
)  # fmt: skip

VARIANTS = {
    "two-stages": {},
    "deep": {"depths": [2, 2]},
    "three-stages-grey": {"hidden_sizes": [4, 8, 16], "depths": [1, 1, 1], "num_channels": 1},
    "one-stage": {"hidden_sizes": [4], "depths": [3]},
}
SIZES = [(32, 32), (17, 23)]


def reference(name: str, *, stem: str = "large", **changes: object) -> nn.Module:
    """Every weight and every running statistic random; a small stem put in by hand, as He et al. do for CIFAR-10."""
    module = ResNetForImageClassification(ResNetConfig(**{**RESNET, **VARIANTS[name], **changes}))
    if stem == "small":
        embedder = module.resnet.embedder
        embedder.embedder.convolution = nn.Conv2d(module.config.num_channels, 4, 3, padding=1, bias=False)
        embedder.pooler = nn.Identity()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer_name, buffer in module.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            elif buffer_name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return module.eval()


def with_gradient(run: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and their gradient (against a fixed direction) at the image."""
    x = x.clone().requires_grad_()
    logits = run(x)  # type: ignore[operator]
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    assert x.grad is not None
    return logits.detach(), x.grad


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stem", ["large", "small"])
@pytest.mark.parametrize("size", SIZES)
def test_against_hf_resnet(name: str, stem: str, size: tuple[int, int]) -> None:
    theirs = reference(name, stem=stem)
    ours = from_reference(CNN, theirs, height=size[0], width=size[1])
    assert ours.config.stem == stem
    x = torch.randn(2, theirs.config.num_channels, *size)
    expected = with_gradient(lambda x: theirs(x).logits, x)
    got = with_gradient(ours, x)
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=1e-5)


def test_training_mode_and_statistics() -> None:
    """The batch's own mean and variance, and what is kept of them."""
    theirs = reference("deep").train()
    ours = from_reference(CNN, copy.deepcopy(theirs)).train()
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-5, rtol=1e-4)
    kept = theirs.resnet.encoder.stages[1].layers[0].shortcut.normalization
    torch.testing.assert_close(ours.blocks[2].shortcut.normalization.running_var, kept.running_var)


REFUSED = {
    "bottleneck": ({"layer_type": "bottleneck", "hidden_sizes": [4, 8]}, "layer_type"),
    "gelu": ({"hidden_act": "gelu"}, "hidden_act"),
    "first-stage": ({"downsample_in_first_stage": True}, "downsample_in_first_stage"),
    "uneven": ({"depths": [1, 2]}, "depths"),
    "widths": ({"hidden_sizes": [4, 12]}, "hidden_sizes"),
    "embedding": ({"embedding_size": 6}, "embedding_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    changes, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(CNN, reference("two-stages", **changes))


def test_refuses_another_stem_kind_and_weight() -> None:
    half_small = reference("two-stages")
    half_small.resnet.embedder.pooler = nn.Identity()
    with pytest.raises(UserError, match="stem"):
        from_reference(CNN, half_small)
    with pytest.raises(UserError, match="Linear"):
        from_reference(CNN, nn.Linear(2, 2))
    more = reference("two-stages")
    more.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(CNN, more)
