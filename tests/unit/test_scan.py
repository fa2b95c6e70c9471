"""The fast recurrences are the plain loops, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oliveira.nn import scan as module
from oliveira.nn.scan import scan, scan_reference, selective_scan, selective_scan_reference


def recurrence(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    a, b = torch.rand(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def selection(batch: int, steps: int, channels: int, states: int) -> list[Tensor]:
    torch.manual_seed(0)
    x, b, c = (torch.randn(batch, steps, n, dtype=torch.float64) for n in (channels, states, states))
    dt = torch.rand(batch, steps, channels, dtype=torch.float64)
    a = -torch.rand(channels, states, dtype=torch.float64) - 0.1
    return [tensor.requires_grad_() for tensor in (x, dt, a, b, c)]


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 17, 3, 4), (1, 64, 5), (3, 9)])
def test_scan_is_the_loop(shape: tuple[int, ...]) -> None:
    a, b = recurrence(*shape)
    torch.testing.assert_close(scan(a, b), scan_reference(a, b))
    direction = torch.randn(shape, dtype=torch.float64)
    got = torch.autograd.grad((scan(a, b) * direction).sum(), [a, b])
    expected = torch.autograd.grad((scan_reference(a, b) * direction).sum(), [a, b], materialize_grads=True)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_scan_gradcheck() -> None:
    assert torch.autograd.gradcheck(scan, recurrence(2, 5, 3))


def test_scan_leaves_its_inputs_alone() -> None:
    a, b = recurrence(2, 5, 3)
    before = a.detach().clone(), b.detach().clone()
    scan(a, b).sum().backward()
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.parametrize("steps", [1, 4, 5, 23])
@pytest.mark.parametrize("chunk_numbers", [1, 150, 2**18])
def test_selective_scan_is_the_loop(steps: int, chunk_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk, several, and a last one that is not full."""
    monkeypatch.setattr(module, "CHUNK_NUMBERS", chunk_numbers)
    inputs = selection(2, steps, 3, 4)
    torch.testing.assert_close(selective_scan(*inputs), selective_scan_reference(*inputs))
    direction = torch.randn(2, steps, 3, dtype=torch.float64)
    got = torch.autograd.grad((selective_scan(*inputs) * direction).sum(), inputs)
    expected = torch.autograd.grad((selective_scan_reference(*inputs) * direction).sum(), inputs)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_selective_scan_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1)  # chunks of four steps
    assert torch.autograd.gradcheck(selective_scan, selection(1, 6, 2, 3))


def test_selective_scan_takes_views() -> None:
    """Transposed and expanded inputs, as a split of one projection gives them."""
    x, dt, a, b, c = (tensor.detach() for tensor in selection(2, 7, 3, 4))
    expected = selective_scan(x, dt, a, b, c)
    wide = torch.cat([dt, b, c], dim=2).split([3, 4, 4], dim=2)
    got = selective_scan(x.mT.contiguous().mT, wide[0], a.T.contiguous().T, wide[1], wide[2])
    torch.testing.assert_close(got, expected)


def test_a_long_memory_and_a_short_one() -> None:
    """a = 1 sums, a = 0 forgets."""
    b = torch.randn(1, 50, 2, dtype=torch.float64)
    torch.testing.assert_close(scan(torch.ones_like(b), b), b.cumsum(dim=1))
    assert torch.equal(scan(torch.zeros_like(b), b), b)
