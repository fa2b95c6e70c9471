"""State-space layers: recurrence = convolution = scan, gradients, causality, exports with a free time axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oliveira.errors import UserError
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.nn import ssm
from oliveira.nn.ssm import CausalConv, DiagonalSSM, SelectiveSSM, convolve, discretise
from oliveira.registry import create

SIZES: dict[str, dict[str, Any]] = {
    "mamba": dict(d_model=12, n_layers=2, d_state=5, max_len=64),
    "s4d": dict(d_model=12, n_layers=2, d_state=8, max_len=64),
    "s4d-bilinear": dict(d_model=12, n_layers=2, d_state=8, max_len=64, method="bilinear", initial="inv"),
}


def made(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return create(name.split("-")[0], **{**SIZES[name], "d_in": 3, "d_out": 4, **changes}).eval()


@pytest.mark.parametrize("name", SIZES)
def test_steps_are_the_whole_sequence(name: str) -> None:
    """The recurrent form, one step at a time, gives what training computes at once: to 1e-5."""
    model, x = made(name), torch.randn(2, 40, 3)
    expected, state = model(x), None
    for t in range(40):
        got, state = model.step(x[:, t], state)
        torch.testing.assert_close(got, expected[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_steps_of_tokens(name: str) -> None:
    model, tokens = made(name, d_in=0, vocab_size=7), torch.randint(7, (2, 6))
    state = None
    for t in range(6):
        got, state = model.step(tokens[:, t], state)
    torch.testing.assert_close(got, model(tokens)[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_invisible(name: str, side: str) -> None:
    model, x = made(name, gives="one"), torch.randn(2, 9, 3)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :4] = False
    if side == "right":
        mask = mask.flip(1)
    alone = model(x[:1, 4:] if side == "left" else x[:1, :5])
    torch.testing.assert_close(model(x, mask)[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_discretise_is_the_complex_formula(method: Any) -> None:
    torch.manual_seed(0)
    dt = torch.rand(5, 1, dtype=torch.float64) * 2
    a = torch.complex(-torch.rand(5, 6, dtype=torch.float64) * 3, torch.randn(5, 6, dtype=torch.float64) * 9)
    got = discretise(dt, a.real, a.imag, method)
    if method == "zoh":
        power, weight = (dt * a).exp(), ((dt * a).exp() - 1) / a
    else:
        power, weight = (1 + dt * a / 2) / (1 - dt * a / 2), dt / (1 - dt * a / 2)
    torch.testing.assert_close(torch.polar(got.log_r.exp(), got.theta), power)
    torch.testing.assert_close(torch.complex(got.b_real, got.b_imag), weight)


def test_zoh_of_a_small_step_does_not_cancel() -> None:
    """Δ A = 1e-6 (−1 + i) in float32: B̄ = Δ to seven digits, where exp(Δ A) − 1 keeps one or two."""
    one = torch.ones(1, 1)
    got = discretise(1e-6 * one, -one, one, "zoh")
    torch.testing.assert_close(got.b_real, 1e-6 * one, atol=0, rtol=2e-6)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
def test_kernel_is_its_sum(length: int) -> None:
    torch.manual_seed(0)
    layer = DiagonalSSM(3, 8, 128).double()
    d = layer.discrete()
    t = torch.arange(length, dtype=torch.float64)[:, None, None]
    powers = torch.polar((t * d.log_r).exp(), t * d.theta)  # (T, E, N/2)
    weights = torch.complex(layer.c_real, layer.c_imag) * torch.complex(d.b_real, d.b_imag)
    torch.testing.assert_close(layer.kernel(length), 2 * (weights * powers).sum(dim=2).real.T)


@pytest.mark.parametrize(("length", "kernel_steps"), [(6, 6), (1, 1), (6, 2000)])
def test_convolution_gradcheck(length: int, kernel_steps: int) -> None:
    torch.manual_seed(0)
    u = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, length, dtype=torch.float64, requires_grad=True)
    behind = torch.zeros(3, kernel_steps - length, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u, k: convolve(u, torch.cat([k, behind], dim=1)), (u, kernel))


@pytest.mark.parametrize("steps", [40, 300])
def test_causal_to_the_bit(steps: int) -> None:
    """At lengths that are used, too, where one could think of an FFT."""
    for name in SIZES:
        model, x = made(name, max_len=512), torch.randn(2, steps, 3)
        before = model(x)
        x[:, steps // 2 :] += 1
        assert torch.equal(model(x)[:, : steps // 2], before[:, : steps // 2])


def test_causal_by_fft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `DIRECT` steps the past sees the future's rounding, and nothing else of it."""
    monkeypatch.setattr(ssm, "DIRECT", 0)
    model, x = made("s4d"), torch.randn(2, 40, 3)
    before = model(x)
    x[:, 20:] += 1
    assert (model(x)[:, :20] - before[:, :20]).abs().max() < 1e-5


def test_filter_is_its_sum() -> None:
    torch.manual_seed(0)
    conv, x = CausalConv(3, 4), torch.randn(2, 7, 3)
    expected = torch.zeros(2, 7, 3)
    for t in range(7):
        for lag in range(min(4, t + 1)):
            expected[:, t] += conv.weight[:, 3 - lag] * x[:, t - lag]
    torch.testing.assert_close(conv(x), expected + conv.bias)


def test_step_sizes_start_between_a_thousandth_and_a_tenth() -> None:
    torch.manual_seed(0)
    dt = torch.nn.functional.softplus(SelectiveSSM(16, 400, 4, 4, 1).step_size.bias)
    assert 1e-3 <= dt.min() < 1.2e-3 and 0.08 < dt.max() <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_exported_time_is_free(name: str, tmp_path: Path) -> None:
    model = made(name)
    assert export_forward(model, (torch.randn(2, 9, 3),), tmp_path / "m.onnx", ("series", "steps"))["x"] == "free"
    run = ForwardRunner(tmp_path / "m.onnx")
    for shape in ((1, 1, 3), (3, 17, 3), (2, 64, 3)):
        x = torch.randn(shape)
        with torch.no_grad():
            np.testing.assert_allclose(run(x.numpy()), model(x).numpy(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("s4d", {"d_state": 5}, "d_state = 5"),
        ("mamba", {"d_conv": 0}, "d_conv = 0"),
        ("s4d", {"method": "x"}, "method"),
    ],
)
def test_refused_sizes(name: str, value: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        create(name, d_in=3, d_out=4, **value)
