"""`mlp`, `cnn` and `vit` beside nn.Sequential and transformers: pictures of 28 × 28, or 64 × 64 in colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference
from oliveira.models.cnn import CNN
from oliveira.models.mlp import MLP
from oliveira.models.vit import ViT


def cases() -> Iterator[Case]:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    sequential = nn.Sequential(nn.Flatten(), *layers)
    x = torch.randn(512, 1, 784)
    yield from _both(
        "mlp", "B 512, 784 → 512 → 512 → 10", from_reference(MLP, sequential), sequential, x, "nn.Sequential"
    )

    sizes: dict[str, Any] = dict(hidden_sizes=[32, 64, 128], depths=[2, 2, 2], num_labels=10)
    resnet = ResNetForImageClassification(ResNetConfig(embedding_size=32, layer_type="basic", **sizes))
    yield from _both(
        "cnn",
        "B 16, 3 × 64 × 64, 13 convolutions of 32 to 128 channels",
        from_reference(CNN, resnet, height=64, width=64),
        _Logits(resnet),
        torch.randn(16, 3, 64, 64),
        "transformers ResNet",
    )

    sizes = dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, num_labels=10)
    vit = ViTForImageClassification(ViTConfig(image_size=28, patch_size=4, num_channels=1, **sizes))
    yield from _both(
        "vit",
        "B 16, 28 × 28, 49 patches, 4 layers of 96",
        from_reference(ViT, vit),
        _Logits(vit),
        torch.randn(16, 1, 28, 28),
        "transformers ViT",
    )


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def _both(name: str, size: str, ours: nn.Module, theirs: nn.Module, x: Tensor, reference: str) -> Iterator[Case]:
    for what, wrap in (("forward", _forward), ("forward+backward", _backward)):
        yield Case(
            name=f"{name} {what}, {size}",
            model=name,
            ours=wrap(ours, x),
            reference=wrap(theirs, x),
            reference_name=reference,
        )


def _forward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        model.eval()
        with torch.no_grad():
            return model(x)

    return run


def _backward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        model.train()
        model.zero_grad()
        model(x).square().mean().backward()

    return run
