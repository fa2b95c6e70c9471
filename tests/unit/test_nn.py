"""Blocks: the fused form against the equation, gradients, masks, caches. (Other libraries: tests/parity.)"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from oliveira.nn.attention import ConcatCache, MultiHeadAttention, attention_reference, causal_mask, rotate
from oliveira.nn.feedforward import FeedForward, SwiGLU
from oliveira.nn.norm import LayerNorm, RMSNorm, layer_norm_reference
from oliveira.nn.positional import Learned, Rotary, Sinusoidal
from oliveira.registry import create


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def by_hand(module: MultiHeadAttention, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One head after the other, with the equation as it is written."""
    width, share = module.d_head, module.n_heads // module.n_kv_heads
    q, k, v = module.query(x), module.key(x), module.value(x)
    heads = []
    for head in range(module.n_heads):
        mine = slice(head * width, (head + 1) * width)
        shared = slice(head // share * width, (head // share + 1) * width)
        heads.append(attention_reference(q[..., mine], k[..., shared], v[..., shared], mask))
    return module.output(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_equation(n_kv_heads: int, causal: bool) -> None:
    module = MultiHeadAttention(12, 4, n_kv_heads, bias=True)
    x = torch.randn(2, 7, 12)
    expected = by_hand(module, x, causal_mask(7, 0) if causal else None)
    torch.testing.assert_close(module(x, causal=causal), expected, atol=1e-6, rtol=1e-5)


def test_attention_reference_by_arithmetic() -> None:
    """Two keys, one query: softmax of (1, 0)·ln 3/√1 is (3/4, 1/4)."""
    q, k = torch.tensor([[math.log(3.0)]]), torch.tensor([[1.0], [0.0]])
    v = torch.tensor([[8.0], [4.0]])
    torch.testing.assert_close(attention_reference(q, k, v), torch.tensor([[7.0]]))
    allowed = torch.tensor([[False, True]])
    torch.testing.assert_close(attention_reference(q, k, v, allowed), torch.tensor([[4.0]]))
    assert attention_reference(q, k, v, ~allowed & allowed).item() == 0


def test_what_is_masked_cannot_be_seen() -> None:
    module = MultiHeadAttention(12, 3)
    x = torch.randn(1, 6, 12)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[:, 4] = False
    mask[4, 4] = True
    changed = x.clone()
    changed[:, 4] += 1e3
    others = [0, 1, 2, 3, 5]
    assert torch.equal(module(changed, mask=mask)[:, others], module(x, mask=mask)[:, others])
    assert not torch.equal(module(changed)[:, others], module(x)[:, others])


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 4], [5, 1, 1]])
def test_cache_equals_recomputation(pieces: list[int]) -> None:
    rotary = Rotary(16, 4, 100.0)
    module = MultiHeadAttention(16, 4, 2)
    x = torch.randn(2, 7, 16)
    expected = module(x, causal=True, rotation=rotary(torch.arange(7)))
    cache, got, start = ConcatCache(), [], 0
    for n in pieces:
        assert cache.length() == start
        got.append(
            module(
                x[:, start : start + n],
                mask=causal_mask(n, start),
                rotation=rotary(torch.arange(start, start + n)),
                cache=cache,
            )
        )
        start += n
    torch.testing.assert_close(torch.cat(got, dim=1), expected, atol=1e-6, rtol=1e-5)


def test_causal_mask() -> None:
    assert causal_mask(2, 1).int().tolist() == [[1, 1, 0], [1, 1, 1]]


def test_dropout_acts_in_training_only() -> None:
    module = MultiHeadAttention(12, 3, dropout=0.5)
    x = torch.randn(1, 6, 12)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_rope_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    rotary = Rotary(128, 8)

    def score(at: int, to: int) -> float:
        turned = [
            rotate(x, *rotary(torch.tensor([position])))
            for x, position in ((q, at), (k, to))
        ]  # fmt: skip
        return float((turned[0] * turned[1]).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)
    assert score(5, 5) == pytest.approx(float((q * k).sum()), abs=1e-4)


def test_rope_takes_positions_per_stream() -> None:
    """Streams of different length in one batch."""
    x, rotary = torch.randn(2, 3, 4, 8), Rotary(32, 8)
    positions = torch.stack([torch.arange(4), torch.arange(9, 13)])
    together = rotate(x, *rotary(positions))
    for row in range(2):
        assert torch.equal(together[row], rotate(x[row : row + 1], *rotary(positions[row]))[0])


def test_sinusoidal_is_the_formula() -> None:
    table = Sinusoidal(9, 6)(torch.arange(9))
    for position in range(9):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
    assert Sinusoidal(4, 5).table.shape == (4, 5)
    assert Learned(9, 6)(torch.arange(4)).shape == (4, 6)


def test_layer_norm_is_the_equation_and_has_the_epsilon() -> None:
    module = LayerNorm(7)
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    x = 3 * torch.randn(4, 7) + 5
    expected = layer_norm_reference(x, module.weight, module.bias)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    constant = torch.full((1, 7), 2.0)  # the seed document's form gives 0/0 here
    assert torch.equal(module(constant)[0], module.bias)
    assert layer_norm_reference(constant, module.weight, module.bias, eps=0.0).isnan().all()


def test_rms_norm_is_the_equation() -> None:
    x = torch.randn(3, 5)
    expected = torch.stack([row / (sum(v * v for v in row) / 5 + 1e-6) ** 0.5 for row in x])
    torch.testing.assert_close(RMSNorm(5)(x), expected)
    assert RMSNorm(5)(torch.zeros(1, 5)).abs().max() == 0


def test_feed_forward_is_the_equation() -> None:
    module = FeedForward(2, 3, nn.ReLU())
    with torch.no_grad():
        module.up.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        module.up.bias.copy_(torch.tensor([0.0, -1.0, 0.5]))
        module.down.weight.copy_(torch.tensor([[1.0, 10.0, 100.0], [0.0, 0.0, 1.0]]))
        module.down.bias.zero_()
    assert module(torch.tensor([[2.0, 3.0]])).tolist() == [[22.0, 0.0]]  # max(0, ·) = (2, 2, 0)


@pytest.mark.parametrize(
    "module",
    [LayerNorm(5), RMSNorm(5), SwiGLU(5, 4), FeedForward(5, 4, nn.GELU()), MultiHeadAttention(4, 2, 1)],
    ids=lambda module: type(module).__name__,
)
def test_gradcheck(module: nn.Module) -> None:
    """Numerical gradients in float64, in the input and in every parameter."""
    module = module.double()
    x = torch.randn(2, 3, 4 if isinstance(module, MultiHeadAttention) else 5, dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    parameters = [parameter.detach().requires_grad_() for parameter in module.parameters()]
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *parameters), atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_transformer_s_one_answer_is_read_off_its_real_steps(pool: str) -> None:
    torch.manual_seed(0)
    sizes = dict(d_in=3, d_out=2, gives="one", d_model=8, n_layers=1, n_heads=2, d_ff=8, max_len=9, pre_norm=True)
    one = create("transformer", **sizes, pool=pool).eval()
    every = create("transformer", **{**sizes, "gives": "steps"}).eval()
    every.load_state_dict(one.state_dict())
    x, mask = torch.randn(2, 9, 3), torch.arange(9) < torch.tensor([[9], [5]])
    steps = every(x, mask)
    for row, length in enumerate((9, 5)):
        real = steps[row, :length]
        wanted = real[-1] if pool == "last" else real.mean(dim=0)
        torch.testing.assert_close(one(x, mask)[row], wanted, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one(x[row : row + 1, :length])[0], wanted, atol=1e-6, rtol=1e-5)
