"""What a training step computes in C++: SwiGLU's gate and causal attention, each against torch, there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oliveira.kernels import build, causal
from oliveira.kernels import gated as gate
from oliveira.kernels.causal import causal_attention
from oliveira.kernels.fast import fast_layers
from oliveira.kernels.gated import gated
from oliveira.models.gpt import GPT, GPTConfig

needs_library = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))
# (batch, heads, heads of keys and values, length, width of a head)
SHAPES = [(2, 4, 2, 100, 32), (1, 3, 3, 1, 16), (2, 2, 1, 65, 80), (1, 2, 2, 256, 64)]


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And small inputs are taken, as large ones are."""
    torch.manual_seed(0)
    monkeypatch.setattr(causal, "SMALLEST", 0)
    monkeypatch.setattr(gate, "SMALLEST", 1)


@pytest.fixture
def best() -> Iterator[None]:
    before = build.path_in_use()
    yield
    build.use(before)


def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def there_and_back(f: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = f(*leaves)
    weights = torch.arange(y.numel()).view(y.shape).sin()
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


def heads(b: int, h: int, t: int, k: int) -> Tensor:
    """As a projection gives them: stored (B, T, H, K)."""
    return torch.randn(b, t, h, k).transpose(1, 2)


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", build.PATHS)
def test_causal_attention_equals_torch(path: str, shape: tuple[int, ...], best: None) -> None:
    if path not in build.usable():
        return
    build.use(path)
    b, h, h_kv, t, width = shape
    q, k, v = heads(b, h, t, width), torch.randn(b, h_kv, t, width), heads(b, h_kv, t, width)
    for ours, theirs in zip(there_and_back(causal_attention, q, k, v), there_and_back(by_torch, q, k, v), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@needs_library
def test_causal_attention_has_the_same_bits_with_any_number_of_threads() -> None:
    q, k, v = heads(3, 4, 90, 32), heads(3, 2, 90, 32), heads(3, 2, 90, 32)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(there_and_back(causal_attention, q, k, v))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


@needs_library
def test_causal_attention_takes_what_it_has_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = heads(1, 4, 8, 32).requires_grad_(), heads(1, 2, 8, 32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert causal.takes(q, k, k)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert not causal.takes(q, k, k), "a thread would have no head"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(causal, "SMALLEST", 4 * 8 * 8 * 32 + 1)
    assert not causal.takes(q, k, k), "torch is faster"
    monkeypatch.setattr(causal, "SMALLEST", 0)
    assert not causal.takes(q.double(), k.double(), k.double())
    assert not causal.takes(q, heads(1, 2, 9, 32), heads(1, 2, 9, 32)), "more keys than queries: a cache"
    assert not causal.takes(heads(1, 4, 8, 20).requires_grad_(), heads(1, 2, 8, 20), heads(1, 2, 8, 20))
    assert not causal.takes(q, heads(1, 3, 8, 32), heads(1, 3, 8, 32)), "4 heads do not share 3"
    two = heads(2, 4, 8, 32).requires_grad_()
    assert not causal.takes(two, k, k), "torch would broadcast, the kernel would read past the end"
    (spread,) = torch.autograd.grad(causal_attention(q, k, k).sum(), q)  # a gradient of stride 0
    torch.testing.assert_close(spread, torch.autograd.grad(by_torch(q, k, k).sum(), q)[0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not causal.takes(q, k, k)


@needs_library
@pytest.mark.parametrize("path", build.PATHS)
def test_gate_equals_torch(path: str, best: None) -> None:
    if path not in build.usable():
        return
    build.use(path)
    g, up = 4 * torch.randn(4, 32, 64), torch.randn(4, 32, 64)
    g[0, 0, :4] = torch.tensor([-200.0, 200.0, 0.0, -1e-9])
    expected = there_and_back(lambda g, u: F.silu(g) * u, g, up)
    for ours, theirs in zip(there_and_back(gated, g, up), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    y = gated(g.requires_grad_(), up)
    assert y.grad_fn.name() == "_GatedBackward"
    (spread,) = torch.autograd.grad(y.sum(), g)  # a gradient of stride 0
    torch.testing.assert_close(spread, torch.autograd.grad((F.silu(g) * up).sum(), g)[0], rtol=1e-5, atol=1e-6)


@needs_library
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_training_model_computes_with_them(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients as without; dropout inside attention stays torch's."""
    sizes = dict(vocab_size=37, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=128, max_len=64)
    model, tokens = GPT(GPTConfig(**sizes)), torch.randint(37, (2, 64))
    for block in model.blocks:
        block.attention.dropout = dropout
    calls = []
    run = causal._run
    monkeypatch.setattr(causal, "_run", lambda *a, **k: (calls.append(1), run(*a, **k))[1])

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)
        model.zero_grad()
        model(tokens).logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    assert not calls
    with fast_layers(model):
        fast = gradients()
        assert len(calls) == (0 if dropout else 4)  # two layers, there and back
        with torch.no_grad():
            model(tokens)
        assert len(calls) == (0 if dropout else 4)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not any("attend" in vars(block.attention) for block in model.blocks)
