"""4-bit formats: what is stored, what comes back, what it costs."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from oliveira.compression.int4 import dequantise_int4, quantise_int4
from oliveira.compression.int8 import Int8Linear
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.compression.model import QUANTISED, dequantise_model, quantise_model
from oliveira.compression.nf4 import CODE, dequantise_nf4, quantise_nf4
from oliveira.compression.packing import pack
from oliveira.errors import OliveiraError, UserError
from oliveira.lifecycle.compression_report import compare, language_loss, size_in_bytes
from oliveira.models.gpt import GPT, GPTConfig

METHODS = list(CODECS)
ALL_METHODS = [*METHODS, "int8"]
SMALL = GPTConfig(vocab_size=37, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32, max_len=24)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def round_trip(x: Tensor, method: str) -> Tensor:
    codec = CODECS[method]
    return codec.dequantise(codec.quantise(x), x.shape)


def relative_error(x: Tensor, method: str) -> float:
    return float((round_trip(x, method) - x).norm() / x.norm())


def nibbles(packed: Tensor, n: int) -> list[int]:
    return [code for byte in packed.tolist() for code in (byte >> 4, byte & 15)][:n]


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_int4_is_the_formula_of_the_seed(n: int) -> None:
    """The slow twin: one weight after the other, exactly as written."""
    x = torch.randn(n)
    codes = nibbles(quantise_int4(x).codes, n)
    for start in range(0, n, 64):
        block = x[start : start + 64].tolist()
        low, high = min(block), max(block)
        for value, code in zip(block, codes[start:], strict=False):
            exact = (value - low) / (high - low) * (2**4 - 1) if high > low else 0.0
            assert abs(exact - code) <= 0.5 + 1e-4


@pytest.mark.parametrize("n", [1, 65, 200])
def test_nf4_takes_the_nearest_value(n: int) -> None:
    x = torch.randn(n)
    codes = nibbles(quantise_nf4(x).codes, n)
    for start in range(0, n, 64):
        block = x[start : start + 64]
        distance = (block[:, None] / block.abs().max() - CODE).abs()
        chosen = distance.gather(1, torch.tensor(codes[start : start + 64])[:, None])[:, 0]
        torch.testing.assert_close(chosen, distance.amin(dim=1), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    shift=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)
def test_error_bounds(n: int, scale: float, shift: float, seed: int) -> None:
    x = scale * (torch.randn(n, generator=torch.Generator().manual_seed(seed)) + shift)
    blocks = x.split(64)
    half_step = torch.cat([(b.max() - b.min()).expand(len(b)) / 30 for b in blocks])
    float16 = 2e-3 * x.abs().max()
    assert ((round_trip(x, "int4") - x).abs() <= half_step + float16).all()
    # Half of the widest gap of the code book, and what double quantisation loses of absmax.
    widest = float((CODE[1:] - CODE[:-1]).max()) / 2
    absmax = torch.cat([b.abs().max().expand(len(b)) for b in blocks])
    assert ((round_trip(x, "nf4") - x).abs() <= widest * absmax + 0.02 * absmax.max()).all()


def test_constant_and_zero_blocks() -> None:
    """0/0 in the seed document's formula."""
    x = torch.cat([torch.zeros(64), torch.full((64,), 0.5), torch.full((7,), -3.0)])
    assert torch.equal(round_trip(x, "int4"), x)
    assert torch.equal(round_trip(x, "int4_mse"), x)
    back = round_trip(x, "nf4")
    assert torch.equal(back[:64], torch.zeros(64))  # code of an exact zero
    torch.testing.assert_close(back, x, atol=0.02, rtol=0)


def test_zeros_survive_nf4_and_not_int4() -> None:
    x = torch.randn(6400)
    x[::3] = 0
    assert (round_trip(x, "nf4")[::3] == 0).all()
    assert (round_trip(x, "int4")[::3] == 0).float().mean() < 0.02  # only by luck


def test_relative_error_by_distribution() -> None:
    """The figures of the catalogue: NF4 wins on heavy tails, the seed document's formula on uniform weights."""
    normal, uniform = torch.randn(64, 4096), torch.rand(64, 4096) * 2 - 1
    heavy = normal / torch.distributions.Chi2(4.0).sample((64, 4096)).div(4).sqrt()
    assert relative_error(normal, "int4") == pytest.approx(0.0897, abs=0.001)
    assert relative_error(normal, "nf4") == pytest.approx(0.0920, abs=0.001)
    assert relative_error(uniform, "int4") < 0.8 * relative_error(uniform, "nf4")
    assert relative_error(heavy, "nf4") < relative_error(heavy, "int4")


def test_int4_mse_has_the_smaller_error_in_every_block() -> None:
    normal = torch.randn(64, 64)
    normal[5, 7] = 9  # one far weight
    normal[60] = 1e-8 * normal[60]  # its step is nothing in float16
    error = {m: (round_trip(normal, m) - normal).square().sum(dim=1) for m in ("int4", "int4_mse")}
    assert (error["int4_mse"] <= 1.0001 * error["int4"]).all()
    assert (error["int4_mse"] < 0.97 * error["int4"]).sum() > 40
    wide = torch.randn(64, 4096)
    assert relative_error(wide, "int4_mse") == pytest.approx(0.0843, abs=0.001)
    codes, minimum, step = CODECS["int4_mse"].quantise(torch.arange(64.0) % 16)
    assert (minimum.item(), step.item()) == (0, 1) and nibbles(codes, 16) == list(range(16))


@pytest.mark.parametrize(("method", "bits"), [("int4", 4.5), ("int4_mse", 4.5), ("nf4", 4.127)])
def test_bits_are_counted_with_the_scales(method: str, bits: float) -> None:
    layer = QuantisedLinear(nn.Linear(1024, 512), method)
    assert layer.bits_per_weight() == pytest.approx(bits, abs=0.001)
    stored = save({name: tensor for name, tensor in layer.state_dict().items() if name != "bias"})
    assert 8 * len(stored) / (1024 * 512) == pytest.approx(bits, abs=0.01)  # the file says the same


def test_int8_rounds_each_row_by_its_largest_weight() -> None:
    linear = nn.Linear(1024, 512)
    layer = Int8Linear(linear)
    assert layer.bits_per_weight() == 8 + 32 / 1024
    half_step = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 254
    assert ((layer.dequantised() - linear.weight).abs() <= 1.0001 * half_step).all()
    with torch.no_grad():
        linear.weight[3, 5] = float("nan")
    with pytest.raises(OliveiraError, match="NaN"):
        Int8Linear(linear)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_multiplies_by_what_it_stores(method: str, bias: bool) -> None:
    linear = nn.Linear(33, 7, bias=bias)
    layer = QuantisedLinear(linear, method)
    x = torch.randn(2, 3, 33)
    expected = x @ round_trip(linear.weight.detach(), method).T + (linear.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected)
    assert not list(layer.parameters())
    x.requires_grad_()
    layer(x).sum().backward()  # gradients pass through, to what stands before
    torch.testing.assert_close(x.grad[0, 0], layer.dequantised().sum(dim=0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", METHODS)
def test_refuses_what_has_no_size(method: str, bad: float) -> None:
    x = torch.randn(64)
    x[5] = bad
    with pytest.raises(OliveiraError, match="NaN"):
        round_trip(x, method)


def test_int4_refuses_what_float16_cannot_hold() -> None:
    for quantise in (quantise_int4, CODECS["int4_mse"].quantise):
        with pytest.raises(OliveiraError, match=r"float16.* up to 2e\+06"):
            quantise(torch.tensor([0.0, 2e6, -0.1]))
    assert dequantise_nf4(quantise_nf4(torch.tensor([0.0, 1e6])), (2,)).tolist() == [0.0, 1e6]


def test_packing_order() -> None:
    assert pack(torch.tensor([[1, 15, 7, 2]]), 4).tolist() == [0x1F, 0x72]
    assert dequantise_int4(quantise_int4(torch.tensor([0.0, 15.0, 7.0])), (3,)).tolist() == [0.0, 15.0, 7.0]


@pytest.mark.parametrize("method", ALL_METHODS)
def test_model_keeps_its_head_and_round_trips_through_a_file(method: str) -> None:
    model = quantise_model(GPT(SMALL), method).eval()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert linear == ["head"]
    assert model.head.weight is model.embedding.weight
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    fresh = quantise_model(GPT(SMALL), method).eval()
    tokens = torch.randint(37, (2, 9))
    assert not torch.equal(fresh(tokens), model(tokens))
    fresh.load_state_dict(load(save(state)), strict=False)
    assert torch.equal(fresh(tokens), model(tokens))


@pytest.mark.parametrize("method", ALL_METHODS)
def test_dequantised_model_computes_the_same_and_trains(method: str) -> None:
    model = quantise_model(GPT(GPTConfig(**{**SMALL.__dict__, "bias": True})), method)
    tokens = torch.randint(37, (2, 9))
    expected = model(tokens)
    model = dequantise_model(model)
    torch.testing.assert_close(model(tokens), expected)
    model(tokens).sum().backward()
    assert model.blocks[0].attention.query.weight.grad is not None
    assert not any(isinstance(module, QUANTISED) for module in model.modules())


def test_quantise_model_refuses() -> None:
    with pytest.raises(UserError, match="int3"):
        quantise_model(GPT(SMALL), "int3")
    with pytest.raises(UserError, match="no linear layer"):
        quantise_model(quantise_model(GPT(SMALL), "nf4"), "nf4")
    with pytest.raises(UserError, match="no linear layer"):
        quantise_model(quantise_model(GPT(SMALL), "int8"), "nf4")


@torch.inference_mode()
def test_language_loss_is_the_mean_over_every_token() -> None:
    model = GPT(SMALL).eval()
    tokens = torch.randint(37, (24 * 3 + 11,))
    total = 0.0
    for start in range(0, len(tokens) - 1, 24):
        window = tokens[start : start + 25]
        logits = model(window[None, :-1])[0]
        total += float(nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    assert language_loss(model, tokens, batch_size=2) == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    assert language_loss(model, tokens[:5]) > 0


def test_compare_reports_what_it_costs() -> None:
    model = GPT(SMALL)
    before = copy.deepcopy(model.state_dict())
    tokens = torch.randint(37, (200,))
    rows = compare(model, ALL_METHODS, tokens, rounds=2)
    assert [row["weights"] for row in rows] == ["fp32", *ALL_METHODS]
    fp32 = rows[0]
    assert fp32["bits_per_weight"] == 32 and fp32["loss_change"] == 0 and not fp32["slower"]
    assert fp32["bytes"] == size_in_bytes(model) == 4 * sum(p.numel() for p in model.parameters())
    for row in rows[1:]:
        least = 8 if row["weights"] == "int8" else 4
        assert row["bytes"] < fp32["bytes"] and least < row["bits_per_weight"] < least + 2
        assert row["loss_change"] == pytest.approx(row["loss"] - fp32["loss"])
        assert 0 < abs(row["loss_change"]) < 0.05
        assert row["prefill_ms"] > 0 and row["decode_ms"] > 0
        longer = row["decode_ms"] > 1.05 * fp32["decode_ms"] or row["prefill_ms"] > 1.05 * fp32["prefill_ms"]
        assert row["slower"] is longer
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match="too few"):
        compare(model, METHODS, tokens[:2])


def test_a_trained_model_keeps_its_loss() -> None:
    """≤ 0.02 nats a token, where a model whose nibbles are swapped loses far more."""

    def sequences(n: int) -> Tensor:
        """x → 3x + 1 (mod 31), one step in ten at random: the best loss is about 0.64 nats."""
        rows = [torch.randint(31, (n,))]
        for _ in range(24):
            noise = torch.rand(n) < 0.1
            rows.append(torch.where(noise, torch.randint(31, (n,)), (3 * rows[-1] + 1) % 31))
        return torch.stack(rows, dim=1)

    model = GPT(GPTConfig(**{**SMALL.__dict__, "d_model": 32, "d_ff": 64}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        batch = sequences(32)
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = sequences(100).flatten()
    fp32, *rows = compare(model, METHODS, held_out, rounds=1)
    assert fp32["loss"] < 1.2  # it has learnt: guessing costs ln 31 = 3.4
    for row in rows:
        assert abs(row["loss_change"]) <= 0.02
        broken = quantise_model(copy.deepcopy(model), row["weights"])
        for layer in broken.modules():
            if isinstance(layer, QuantisedLinear):
                layer.codes = layer.codes << 4 | layer.codes >> 4
        assert language_loss(broken.eval(), held_out) > fp32["loss"] + 0.1
