"""Solvers and implicit gradient: agreement, rows that do not disturb each other, memory, and what goes wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.nn.fixed_point import anderson, contraction, fixed_point, iterate
from oliveira.registry import create

SOLVERS = pytest.mark.parametrize("solve", [anderson, iterate])


def problem(rows: int = 6, width: int = 16, norm: float = 0.9, dtype: torch.dtype = torch.float64) -> Any:
    """z ← tanh(W z + x) with a W that shortens; rows of quite different size."""
    weight = torch.randn(width, width, dtype=dtype)
    weight = norm * weight / torch.linalg.matrix_norm(weight, 2)
    x = torch.randn(rows, width, dtype=dtype) * torch.logspace(-2, 1, rows, dtype=dtype)[:, None]
    return weight, x


@SOLVERS
@pytest.mark.parametrize("shape", [(6, 16), (6, 4, 4), (6, 16, 1)])
def test_solves_in_any_shape(solve: Any, shape: tuple[int, ...]) -> None:
    weight, x = problem()

    def f(z: Tensor) -> Tensor:
        assert z.shape == shape
        return torch.tanh(z.flatten(1) @ weight.T + x).view(shape)

    found = solve(f, torch.zeros(shape, dtype=torch.float64), tol=1e-9, max_iter=200)
    assert found.z.shape == shape and found.residual.shape == (6,)
    torch.testing.assert_close(f(found.z), found.z, atol=1e-8, rtol=1e-8)
    assert (found.residual <= 1e-9).all() and found.n_evals < 200


def test_anderson_finds_what_plain_iteration_finds_and_sooner() -> None:
    """A map that hardly shortens some directions: plain steps creep along them."""
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    slow_map = turn @ torch.diag(torch.linspace(0.1, 0.97, 8, dtype=torch.float64)) @ turn.T
    x = torch.randn(5, 8, dtype=torch.float64)
    start = torch.zeros_like(x)
    settings = dict(tol=1e-10, max_iter=1000)
    fast, slow = (solve(lambda z: z @ slow_map + x, start, **settings) for solve in (anderson, iterate))
    torch.testing.assert_close(fast.z, slow.z, atol=1e-7, rtol=1e-7)
    assert fast.n_evals < slow.n_evals / 5
    exact = x @ torch.linalg.inv(torch.eye(8, dtype=torch.float64) - slow_map)
    torch.testing.assert_close(fast.z, exact, atol=1e-7, rtol=1e-7)


@SOLVERS
def test_each_row_alone_gives_the_same(solve: Any) -> None:
    """An easy row beside a hard one stops when it is done, not when its neighbour is, at a coarse tolerance too."""
    weight, x = problem()
    together = solve(lambda z: torch.tanh(z @ weight.T + x), torch.zeros_like(x), tol=1e-3, max_iter=50)
    evals = set()
    for row in range(6):
        one = x[row : row + 1]
        alone = solve(lambda z, one=one: torch.tanh(z @ weight.T + one), torch.zeros_like(one), tol=1e-3, max_iter=50)
        torch.testing.assert_close(alone.z[0], together.z[row], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(alone.residual[0], together.residual[row], atol=1e-12, rtol=1e-9)
        evals.add(alone.n_evals)
    assert len(evals) > 1, "the rows must differ for the test to mean anything"


@SOLVERS
def test_a_row_of_nan_harms_no_other(solve: Any) -> None:
    weight, x = problem()

    def broken(z: Tensor) -> Tensor:
        y = torch.tanh(z @ weight.T + x)
        return torch.where(torch.arange(6)[:, None] == 2, torch.nan, y)

    sound = solve(lambda z: torch.tanh(z @ weight.T + x), torch.zeros_like(x), tol=1e-9, max_iter=100)
    found = solve(broken, torch.zeros_like(x), tol=1e-9, max_iter=100)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found.z[others], sound.z[others], atol=1e-9, rtol=1e-9)
    assert found.z.isfinite().all() and math.isinf(found.residual[2]) and found.n_evals == 100


@SOLVERS
def test_says_when_it_did_not_settle(solve: Any) -> None:
    """A map without a fixed point: finite, and the residual tells."""
    found = solve(lambda z: z + 1, torch.zeros(2, 3), tol=1e-6, max_iter=30)
    assert found.z.isfinite().all() and (found.residual > 1e-3).all() and found.n_evals == 30


@SOLVERS
def test_a_start_that_is_the_answer(solve: Any) -> None:
    found = solve(lambda z: 0 * z, torch.zeros(2, 3), tol=1e-6, max_iter=30)
    assert found.n_evals == 1 and (found.residual == 0).all() and (found.z == 0).all()


@pytest.mark.parametrize("solve", [anderson, iterate])
def test_gradcheck(solve: Any) -> None:
    weight, x = problem(rows=3, width=5, norm=0.8)

    def settled(weight: Tensor, x: Tensor) -> Tensor:
        start = torch.zeros_like(x)
        return fixed_point(lambda z: torch.tanh(z @ weight.T + x), start, tol=1e-13, max_iter=300, solve=solve).z

    assert torch.autograd.gradcheck(settled, (weight.requires_grad_(), x.requires_grad_()))


def test_no_graph_without_gradients() -> None:
    weight, x = problem()
    weight.requires_grad_()
    found = fixed_point(lambda z: torch.tanh(z @ weight.T + x), torch.zeros_like(x), tol=1e-9)
    with torch.no_grad():
        again = fixed_point(lambda z: torch.tanh(z @ weight.T + x), torch.zeros_like(x), tol=1e-9)
    assert found.z.requires_grad and not again.z.requires_grad
    torch.testing.assert_close(again.z, found.z, atol=1e-8, rtol=1e-8)


def saved_bytes(max_iter: int, unrolled: bool = False) -> int:
    """What autograd keeps for backward of `max_iter` steps that never satisfy the tolerance."""
    weight, x = problem(rows=32, width=64, dtype=torch.float32)
    weight.requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + x)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if unrolled:
            z = torch.zeros_like(x)
            for _ in range(max_iter):
                z = f(z)
        else:
            z = fixed_point(f, torch.zeros_like(x), tol=0.0, max_iter=max_iter).z
        z.sum().backward()
    return sum(kept.values())


def test_memory_of_backward_is_flat_in_the_steps() -> None:
    assert saved_bytes(5) == saved_bytes(50) > 0
    assert saved_bytes(50, unrolled=True) > 5 * saved_bytes(50), "the twin that must grow"


@pytest.mark.parametrize("width", [1, 5, 64, 300])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_contraction_is_bounded_and_not_much_too_short(width: int, size: float) -> None:
    weight = size * torch.randn(width, width)
    bounded = contraction(weight, 0.8)
    norm = torch.linalg.matrix_norm(bounded, 2)
    assert norm <= 0.8 * (1 + 1e-5)
    if torch.linalg.matrix_norm(weight, 2) > 1:
        assert norm > 0.8 * 0.9


def test_contraction_leaves_small_weights_alone_and_survives_zero() -> None:
    small = 1e-3 * torch.randn(6, 6)
    assert torch.equal(contraction(small, 0.8), small)
    zero = torch.zeros(6, 6, requires_grad=True)
    contraction(zero, 0.8).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_contraction_gradcheck() -> None:
    weight = (2 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: contraction(w, 0.8), (weight,))


def deq(**changes: Any) -> Any:
    return create("deq", **{**dict(d_in=2, max_len=6, d_out=3, d_model=8), **changes})


def test_model_settles_whatever_its_weights() -> None:
    """Weights a hundred times too large: the layer still has one fixed point, found from the state itself."""
    model = deq()
    nn.init.normal_(model.weight, std=30.0)
    found = model.solve(torch.randn(16, 6, 2))
    assert found.residual.max() <= 1e-6 and found.n_evals <= 30


def test_series_is_filled_up_with_zeros() -> None:
    model, x = deq().eval(), torch.randn(2, 4, 2)
    filled = torch.cat([x, torch.zeros(2, 2, 2)], dim=1)
    torch.testing.assert_close(model(x), model(filled))
    mask = torch.arange(6)[None] < torch.tensor([[4], [4]])
    torch.testing.assert_close(model(filled + (~mask)[:, :, None] * 7.0, mask), model(x))
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 7, 2))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"factor": 1.0}, "factor"), ({"max_iter": 0}, "max_iter"), ({"channels": 1, "height": 2, "width": 2}, "d_in")],
)
def test_config_refuses(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        deq(**changes)
