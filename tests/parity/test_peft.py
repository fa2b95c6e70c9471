"""LoRA against peft: same weights, same outputs, same gradients."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from oliveira.adaptation.lora import add_lora, layers, merge
from oliveira.nn.feedforward import FeedForward


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (4, 32.0)])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients(rank: int, alpha: float, bias: bool) -> None:
    plain = FeedForward(12, 20, nn.GELU(), bias=bias)
    reference = FeedForward(12, 20, nn.GELU(), bias=bias)
    reference.load_state_dict(plain.state_dict())
    ours = add_lora(plain, rank, alpha, ["up", "down"])
    theirs = get_peft_model(reference, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["up", "down"]))
    wrapped = theirs.base_model.model
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    with torch.no_grad():
        for name, layer in layers(ours).items():
            other = wrapped.get_submodule(name)
            pairs += [
                (layer.lora_a, other.lora_A.default.weight),
                (layer.lora_b, other.lora_B.default.weight),
            ]
        for mine, other in pairs:
            assert mine.shape == other.shape
            other.copy_(mine.normal_())
    x, y = (torch.randn(3, 12, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    got: Tensor = ours(x)
    expected: Tensor = theirs(y)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)
    mine_trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert mine_trained == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    torch.testing.assert_close(merge(ours)(x), theirs.merge_and_unload()(y), atol=1e-5, rtol=1e-5)
