"""LoRA on 4-bit layers: the same maths as on their rebuilt weights, nothing of the base kept or moved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oliveira.adaptation import lora
from oliveira.adaptation.lora import LoRALinear, add_lora, layers, load_adapter, merge, save_adapter
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.compression.model import dequantise_model, quantise_model
from oliveira.errors import CorruptError, UserError
from oliveira.kernels import products
from oliveira.kernels.fast import fast_layers
from oliveira.models.gpt import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=37, d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=128, max_len=24)
TARGETS = ["query", "value", "down"]
TOKENS = torch.arange(48).view(2, 24) % 37


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products through oneDNN too, as large ones are."""
    monkeypatch.setattr(products, "SMALLEST", 0)


def quantised(method: str = "nf4") -> GPT:
    model = quantise_model(GPT(SMALL), method)
    assert isinstance(model, GPT)
    return model


def trained(model: nn.Module) -> nn.Module:
    """As if after training: neither factor is zero."""
    with torch.no_grad():
        for layer in layers(model).values():
            layer.lora_b.normal_(std=0.05)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model(TOKENS).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", CODECS)
def test_is_lora_on_the_rebuilt_weights(fast: None, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and the gradients of every factor, fast against plain torch."""
    model = trained(add_lora(quantised(method), 4, 8.0, TARGETS))
    plain = dequantise_model(copy.deepcopy(model)).requires_grad_(False)
    for layer in layers(plain).values():
        layer.lora_a.requires_grad_()
        layer.lora_b.requires_grad_()
    with fast_layers(model):
        found, y = gradients(model), model(TOKENS)
    monkeypatch.setattr(products, "SMALLEST", 1 << 60)
    expected = gradients(plain)
    torch.testing.assert_close(y, plain(TOKENS), rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys() and len(found) == 2 * 2 * len(TARGETS)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_fast_way_is_taken(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above compares torch with itself."""
    calls: list[tuple[int, ...]] = []
    real = lora._Product.apply
    monkeypatch.setattr(lora._Product, "apply", lambda *given: calls.append(given[0].shape) or real(*given))
    gradients(add_lora(quantised(), 4, 8.0, TARGETS))
    assert len(calls) == 2 * len(TARGETS)


def test_no_rebuilt_matrix_is_kept_for_the_way_back(fast: None) -> None:
    """Neither by the layers with LoRA nor, inside the loop, by those without."""
    model = add_lora(quantised(), 4, 8.0, TARGETS)
    shapes: list[tuple[int, ...]] = []

    def note(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x

    matrices = {(m.out_features, m.in_features) for m in model.modules() if isinstance(m, QuantisedLinear)}
    matrices |= {(b, a) for a, b in matrices}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        model(TOKENS)
        assert matrices & set(shapes), "without fast_layers, torch keeps those of the other layers"
        shapes.clear()
        with fast_layers(model):
            model(TOKENS)
    assert shapes and not matrices & set(shapes)


def test_bf16_products_are_near_and_only_while_training(fast: None) -> None:
    if not products.bf16_available():
        with pytest.raises(UserError, match="no bfloat16 products"):
            add_lora(quantised(), 4, 8.0, TARGETS, compute="bf16")
        return
    model = trained(add_lora(quantised(), 4, 8.0, TARGETS, compute="bf16"))
    exact = copy.deepcopy(model)
    for layer in layers(exact).values():
        layer.dtype = torch.float32
    error = (model(TOKENS) - exact(TOKENS)).norm() / exact(TOKENS).norm()
    assert 0 < error < 2e-2  # eight bits of mantissa; zero would be fp32
    assert model(TOKENS).dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(model(TOKENS), exact(TOKENS))


def test_unknown_compute_is_refused() -> None:
    with pytest.raises(UserError, match=r"compute = 'fp16' is not known\. Use fp32 or bf16"):
        add_lora(quantised(), 4, 8.0, TARGETS, compute="fp16")  # type: ignore[arg-type]


def test_the_codes_stay_and_the_factors_learn(fast: None) -> None:
    model = add_lora(quantised(), 4, 8.0, TARGETS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(TOKENS).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.endswith(("lora_a", "lora_b"))}


@pytest.mark.parametrize("method", CODECS)
def test_merging_rounds_to_four_bits_again(method: str) -> None:
    model = trained(add_lora(quantised(method), 4, 8.0, TARGETS))
    exact = merge(dequantise_model(copy.deepcopy(model)))
    with torch.no_grad():
        torch.testing.assert_close(exact(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-4)
    merged = merge(copy.deepcopy(model))
    assert not layers(merged) and merged.state_dict().keys() == quantised(method).state_dict().keys()
    expected = layers(model)["blocks.0.attention.query"]
    wanted = expected.linear.dequantised() + expected.scale * expected.lora_b @ expected.lora_a
    found = merged.get_submodule("blocks.0.attention.query")
    assert isinstance(found, QuantisedLinear)
    error = (found.dequantised() - wanted).norm() / wanted.norm()
    assert 0 < error < 0.12  # 4 bits: about 0.09 of a normal matrix


def test_an_adapter_of_a_quantised_base_is_saved_and_loaded(tmp_path: Path) -> None:
    base = quantised()
    model = trained(add_lora(copy.deepcopy(base), 4, 8.0, TARGETS))
    save_adapter(tmp_path, model, base="a" * 64)
    loaded = load_adapter(tmp_path, copy.deepcopy(base), base="a" * 64)
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_a_refused_adapter_leaves_the_codes_as_they_were(tmp_path: Path) -> None:
    """Taking LoRA off again must not round the weights a second time."""
    save_adapter(tmp_path, add_lora(quantised(), 4, 8.0, TARGETS), base="a" * 64)
    other = quantise_model(GPT(GPTConfig(**{**SMALL.__dict__, "d_ff": 192})), "nf4")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CorruptError, match="other layers or shapes"):
        load_adapter(tmp_path, other, base="a" * 64)
    assert not layers(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_equals_peft_on_bitsandbytes(fast: None) -> None:
    """One layer, the same codes and factors: output and gradients."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(128, 192)
    weight = bitsandbytes.nn.Params4bit(
        linear.weight.data.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    theirs = bitsandbytes.nn.Linear4bit(128, 192, compute_dtype=torch.float32, quant_type="nf4")
    theirs.weight, theirs.bias = weight, nn.Parameter(linear.bias.data.clone(), requires_grad=False)
    theirs = theirs.to("cpu")
    layer = LoRALinear(QuantisedLinear(linear, "nf4"), rank=4, alpha=8.0)
    with torch.no_grad():
        layer.lora_b.normal_()
    a, b = (p.detach().clone().requires_grad_() for p in (layer.lora_a, layer.lora_b))
    x, z = (torch.randn(5, 128, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    y = layer(x)
    expected = theirs(z) + 2.0 * (z @ a.T @ b.T)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    for found, wanted in ((x.grad, z.grad), (layer.lora_a.grad, a.grad), (layer.lora_b.grad, b.grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
