"""`deq` against torchdeq: the same layer, the same fixed point, the same gradients; and against plain unrolling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchdeq import get_deq

from oliveira.nn.fixed_point import contraction
from oliveira.nn.flat import flatten
from oliveira.registry import create

FORMS: dict[str, dict[str, Any]] = {
    "image": dict(channels=1, height=8, width=8, d_out=5),
    "series": dict(d_in=3, max_len=12, d_out=5),
}


def model(form: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Strong weights: the bound is at work."""
    made: Any = create("deq", **{**FORMS[form], "d_model": 24, **changes}).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert torch.linalg.matrix_norm(made.weight, 2) > made.config.factor
    return made


def example(form: str, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (4, 1, 8, 8) if form == "image" else (4, 9, 3)
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def layer_of(made: Any, x: Tensor) -> Any:
    weight, injected = contraction(made.weight, made.config.factor), made.inject(flatten(x, made.config))
    return lambda z: F.relu(F.linear(z, weight) + injected)


def gradients(made: Any, y: Tensor, x: Tensor) -> list[Tensor]:
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return list(torch.autograd.grad((y * direction).sum(), [x, *made.parameters()]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", ["anderson", "broyden", "fixed_point_iter"])
def test_against_torchdeq(form: str, solver: str) -> None:
    """Fixed points are compared, not the steps to them; gradients by the implicit function theorem on both sides."""
    ours = model(form)
    theirs, x = copy.deepcopy(ours), example(form)
    x_theirs = x.detach().clone().requires_grad_()
    solve = get_deq(
        f_solver=solver, b_solver=solver, ift=True, f_max_iter=80, b_max_iter=80, f_tol=1e-6, b_tol=1e-6,
        f_stop_mode="rel", b_stop_mode="rel",
    )  # fmt: skip
    states, _ = solve(layer_of(theirs, x_theirs), torch.zeros(4, 24))
    z = ours.solve(x).z
    torch.testing.assert_close(z, states[-1], atol=1e-5, rtol=1e-5)
    got, expected = ours(x), theirs.output(states[-1])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(ours, got, x), gradients(theirs, expected, x_theirs), strict=True):
        scale = other.abs().max().clamp(min=1)
        torch.testing.assert_close(one / scale, other / scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_implicit_gradient_equals_unrolled(form: str) -> None:
    """200 steps recorded by autograd, float64."""
    made, x = model(form, torch.float64, tol=1e-10, max_iter=100), example(form, torch.float64)
    got = made(x)
    step, z = layer_of(made, x), torch.zeros(4, 24, dtype=torch.float64)
    for _ in range(200):
        z = step(z)
    expected = made.output(z)
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=1e-8)
    for one, other in zip(gradients(made, got, x), gradients(made, expected, x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-7)


def test_one_step_gradient_is_another() -> None:
    """The twin that must fail: without the adjoint, the gradient of the last step alone is far off."""
    made, x = model("image", torch.float64, tol=1e-10, max_iter=100), example("image", torch.float64)
    exact = gradients(made, made(x), x)[0]
    z = made.solve(x).z.detach()
    single = gradients(made, made.output(layer_of(made, x)(z)), x)[0]
    assert (exact - single).abs().max() > 0.05 * exact.abs().max()
