"""The mixture: three ways of dispatching agree, losses and loads are what they say, a dense model can be upcycled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.models.moe import MoE, MoEConfig
from oliveira.nn.feedforward import FeedForward, SwiGLU
from oliveira.nn.moe import (
    MixtureOfExperts,
    Router,
    Routing,
    balance_loss,
    dense,
    expert_load,
    mixture_reference,
    sorted_by_expert,
    z_loss,
)
from oliveira.registry import create


def mixture(n_experts: int = 5, top_k: int = 2, **options: Any) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts((FeedForward(6, 9, nn.GELU()) for _ in range(n_experts)), 6, top_k, **options).double()


def gradients(module: nn.Module, y: Tensor, x: Tensor) -> list[Tensor]:
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    wanted = [x, *module.parameters()]
    found = torch.autograd.grad((y * direction).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("dispatch", [sorted_by_expert, dense])
@pytest.mark.parametrize(("n_experts", "top_k"), [(1, 1), (4, 1), (5, 2), (5, 5), (40, 3)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_dispatch_equals_the_loop_over_tokens(dispatch: Any, n_experts: int, top_k: int, renormalise: bool) -> None:
    """Outputs and every gradient; forty experts leave most of them without a token."""
    model = mixture(n_experts, top_k, renormalise=renormalise, bias=True)
    x = torch.randn(17, 6, dtype=torch.float64, requires_grad=True)
    expected = mixture_reference(x, model.router(x), model.experts)
    got = dispatch(x, model.router(x), model.experts)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(gradients(model, got, x), gradients(model, expected, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradcheck() -> None:
    """Away from the places where two experts tie."""
    model = mixture(4, 2)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))


def test_the_largest_are_chosen_and_not_the_first() -> None:
    """The seed's Σ_{i=1}^k would ask experts 0 … k−1 whatever the token."""
    router = Router(3, 3, 2, bias=True)
    nn.init.zeros_(router.score.weight)
    router.score.bias.data.copy_(torch.tensor([0.0, 2.0, 1.0]))
    routing = router(torch.randn(4, 3))
    assert routing.experts.tolist() == [[1, 2]] * 4
    torch.testing.assert_close(routing.weights.sum(1), torch.ones(4))
    raw = Router(3, 3, 2, renormalise=False)
    assert (raw(torch.randn(4, 3)).weights.sum(1) < 1).all()


@pytest.mark.parametrize("top_k", [0, 4])
def test_top_k_must_fit(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        Router(4, 3, top_k)


def routing_of(experts: list[list[int]], logits: Tensor) -> Routing:
    chosen = torch.tensor(experts)
    return Routing(logits, logits.softmax(-1), torch.ones_like(chosen, dtype=torch.float32), chosen)


def test_balance_loss_is_one_when_even_and_n_when_collapsed() -> None:
    even = routing_of([[0, 1], [2, 3]], torch.zeros(2, 4))
    torch.testing.assert_close(balance_loss(even), torch.tensor(1.0))
    collapsed = routing_of([[0]] * 3, torch.tensor([[90.0, 0, 0, 0]] * 3))
    torch.testing.assert_close(balance_loss(collapsed), torch.tensor(4.0))
    torch.testing.assert_close(z_loss(even), torch.tensor(4.0).log().square())


def test_losses_and_loads_leave_out_padding() -> None:
    logits = torch.randn(6, 4)
    routing = routing_of([[0], [1], [0], [3], [3], [3]], logits)
    mask = torch.tensor([True, True, True, False, False, False])
    kept = Routing(*(part[:3] for part in routing))
    torch.testing.assert_close(expert_load(routing, mask), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    for loss in (balance_loss, z_loss):
        torch.testing.assert_close(loss(routing, mask), loss(kept))
        assert loss(routing, torch.zeros(6, dtype=torch.bool)) == 0


def model(**changes: Any) -> MoE:
    torch.manual_seed(0)
    sizes = dict(vocab_size=31, d_out=31, max_len=16, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=12)
    made = create("moe", **{**sizes, "n_experts": 6, "top_k": 2, **changes}).eval()
    assert isinstance(made, MoE)
    return made


def test_sparse_model_keeps_the_contract() -> None:
    """The registry's tiny config asks all of its experts; here four of six are left out for each token."""
    moe, tokens = model(), torch.randint(31, (3, 12))
    y = moe(tokens)
    for row in range(3):
        torch.testing.assert_close(moe(tokens[row : row + 1])[0], y[row], atol=1e-6, rtol=1e-5)
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 31
    torch.testing.assert_close(moe(changed)[:, :7], y[:, :7], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(moe(changed)[:, 7:], y[:, 7:], atol=1e-3)


def test_auxiliary_loss_and_load() -> None:
    moe, tokens = model(balance_weight=0.5, z_weight=0.0), torch.randint(31, (3, 12))
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[2, 5:] = False
    output, loss = moe.forward_with_auxiliary(tokens, mask)
    assert torch.equal(output, moe(tokens, mask))
    other = tokens.clone()
    other[2, 5:] = 0
    torch.testing.assert_close(loss, moe.forward_with_auxiliary(other, mask)[1])
    assert 0.5 <= loss < 0.5 * 6
    load = moe.expert_load(tokens, mask)
    assert load.shape == (2, 6)
    torch.testing.assert_close(load.sum(1), torch.ones(2))
    loss.backward()
    assert all(block.mixture.router.score.weight.grad.abs().max() > 0 for block in moe.blocks)


def gpt(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = dict(vocab_size=31, d_model=24, n_layers=2, n_heads=3, n_kv_heads=1, d_ff=20, max_len=16)
    made = GPT(GPTConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize(("n_experts", "top_k"), [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_upcycled_model_computes_what_the_dense_one_did(n_experts: int, top_k: int, tied: bool) -> None:
    """Sparse upcycling: equal experts answer alike, so the first logits are the dense model's."""
    dense_model, tokens = gpt(tied=tied), torch.randint(31, (3, 9))
    moe = MoE.upcycle(dense_model, n_experts=n_experts, top_k=top_k, balance_weight=0.1).eval()
    assert moe.config.n_experts == n_experts and moe.config.balance_weight == 0.1
    torch.testing.assert_close(moe(tokens), dense_model(tokens), atol=1e-5, rtol=1e-5)
    loads = moe.expert_load(tokens)
    assert (loads > 0).sum() > 2 or top_k == n_experts, "the routers must not all send to one expert"


def test_raw_weights_upcycle_to_something_else() -> None:
    """The twin that must fail: without renormalising, equal experts are scaled down."""
    dense_model, tokens = gpt(), torch.randint(31, (3, 9))
    moe = MoE.upcycle(dense_model, renormalise=False).eval()
    assert not torch.allclose(moe(tokens), dense_model(tokens), atol=1e-2)


@pytest.mark.parametrize(
    "changes", [{"norm": "layernorm"}, {"feed_forward": "gelu"}, {"positions": "learned"}, {"bias": True}]
)
def test_upcycle_refuses_another_form(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        MoE.upcycle(gpt(**changes))


@pytest.mark.parametrize(
    ("changes", "field"), [({"top_k": 7}, "top_k"), ({"n_heads": 3}, "d_model"), ({"n_kv_heads": 3}, "n_kv_heads")]
)
def test_config_refuses_what_does_not_fit(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match=field):
        model(**changes)


def test_the_suggested_heads_are_accepted() -> None:
    with pytest.raises(ValueError, match=r"n_heads = 6 heads .* Use 2, 4, 8 heads\."):
        MoEConfig(vocab_size=5, d_out=5, d_model=16, n_heads=6, n_kv_heads=6)
    for heads in (2, 4, 8):
        assert MoEConfig(vocab_size=5, d_out=5, d_model=16, n_heads=heads, n_kv_heads=heads).n_heads == heads


def test_experts_may_be_any_module() -> None:
    layer = MixtureOfExperts([SwiGLU(4, 3), nn.Linear(4, 4), nn.Identity()], 4, 1)
    assert layer(torch.randn(2, 3, 5, 4)).shape == (2, 3, 5, 4)
