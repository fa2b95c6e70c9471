"""`moe` against transformers: the whole Mixtral, its block and loss, and Switch's top-1 layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM, SwitchTransformersConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.moe import MoE
from oliveira.nn.feedforward import FeedForward, SwiGLU
from oliveira.nn.moe import MixtureOfExperts, balance_loss, z_loss

SIZES: dict[str, Any] = dict(
    vocab_size=29, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=16, num_local_experts=5, num_experts_per_tok=2,
    bos_token_id=0, eos_token_id=0, experts_implementation="eager",  # the grouped product has no float64
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "top-2": {},
    "top-1": {"num_experts_per_tok": 1},
    "all": {"num_local_experts": 3, "num_experts_per_tok": 3},
    "mqa-tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "rope-eps": {"rms_norm_eps": 0.1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}


def mixtral(**changes: Any) -> Any:
    """Every weight random, the norms too: a swapped pair would show."""
    module = MixtralForCausalLM(MixtralConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def run(module: nn.Module, embedding: nn.Embedding, call: Any) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient (against a fixed direction) at the embedded input."""
    kept: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = call(module)
    handle.remove()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return logits, torch.autograd.grad((logits * direction).sum(), kept[0])[0]


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("name", VARIANTS)
def test_against_hf_mixtral(name: str, length: int) -> None:
    theirs = mixtral(**VARIANTS[name])
    ours = from_reference(MoE, theirs)
    tokens = torch.randint(29, (3, length))
    expected = run(theirs, theirs.get_input_embeddings(), lambda m: m(input_ids=tokens).logits)
    got = run(ours, ours.input.embedding, lambda m: m(tokens))  # type: ignore[arg-type]
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    scale = expected[1].abs().max()  # the reference norms and routes in float32: 1e-7 of the largest that is summed
    torch.testing.assert_close(got[1] / scale, expected[1] / scale, atol=1e-5, rtol=0)


def test_padding_against_hf_mixtral() -> None:
    theirs = mixtral()
    ours, tokens = from_reference(MoE, theirs), torch.randint(29, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    expected = theirs(input_ids=tokens, attention_mask=mask.long()).logits
    torch.testing.assert_close(ours(tokens, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_weight_gradients_against_hf_mixtral() -> None:
    """One expert's fused matrix and the router of the first layer, through all that follows."""
    theirs = mixtral()
    ours, tokens = from_reference(MoE, theirs), torch.randint(29, (3, 9))
    theirs(input_ids=tokens).logits.square().sum().backward()
    ours(tokens).square().sum().backward()
    mlp, mixture = theirs.model.layers[0].mlp, ours.blocks[0].mixture
    both = torch.cat([mixture.experts[1].gate.weight.grad, mixture.experts[1].up.weight.grad])
    scale = mlp.experts.gate_up_proj.grad[1].abs().max()
    torch.testing.assert_close(both / scale, mlp.experts.gate_up_proj.grad[1] / scale, atol=1e-5, rtol=1e-4)
    scale = mlp.gate.weight.grad.abs().max()
    torch.testing.assert_close(
        mixture.router.score.weight.grad / scale, mlp.gate.weight.grad / scale, atol=1e-5, rtol=1e-4
    )


def mixtral_block(top_k: int) -> tuple[MixtralSparseMoeBlock, MixtureOfExperts]:
    config = MixtralConfig(**{**SIZES, "num_experts_per_tok": top_k})
    theirs = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    ours = MixtureOfExperts((SwiGLU(24, 20) for _ in range(5)), 24, top_k)
    ours.router.score.load_state_dict(theirs.gate.state_dict())
    for e, expert in enumerate(ours.experts):
        gate, up = theirs.experts.gate_up_proj[e].detach().chunk(2)
        expert.load_state_dict({"gate.weight": gate, "up.weight": up, "down.weight": theirs.experts.down_proj[e]})
    return theirs, ours


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_block_and_balance_loss_against_hf_mixtral(top_k: int) -> None:
    theirs, ours = mixtral_block(top_k)
    x = torch.randn(3, 11, 24)
    y, routing = ours.routed(x)
    torch.testing.assert_close(y, theirs(x), atol=1e-5, rtol=1e-5)
    logits = theirs.gate(x)[0]
    mask = torch.rand(3, 11) < 0.7
    for keep, attention in ((None, None), (mask, mask.long())):
        expected = load_balancing_loss_func((logits,), 5, top_k, attention).double()
        torch.testing.assert_close(top_k * balance_loss(routing, keep), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z_loss(routing), logits.logsumexp(-1).square().mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("top_k", [1, 2])
def test_auxiliary_loss_against_hf_mixtral(n_layers: int, top_k: int, padded: bool) -> None:
    """Of the whole model, value and gradient: transformers counts the tokens of all layers together."""
    theirs = mixtral(num_hidden_layers=n_layers, num_experts_per_tok=top_k, router_aux_loss_coef=0.3)
    ours, tokens = from_reference(MoE, theirs), torch.randint(29, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.bool)
    if padded:
        mask[0, 5:], mask[2, 1:] = False, False
    given = {"attention_mask": mask.long()} if padded else {}
    expected = 0.3 * theirs(input_ids=tokens, output_router_logits=True, **given).aux_loss.double()
    _, got = ours.forward_with_auxiliary(tokens, mask if padded else None)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    pairs = [
        (block.mixture.router.score.weight, layer.mlp.gate.weight)
        for block, layer in zip(ours.blocks, theirs.model.layers, strict=True)
    ]
    routers, gates = zip(*pairs, strict=True)
    gradients = torch.autograd.grad(got, routers), torch.autograd.grad(expected, gates)
    for mine, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=1e-4)
    by_layer = MoE(replace(ours.config, balance="layers"))
    by_layer.load_state_dict(ours.state_dict())
    _, averaged = by_layer.eval().forward_with_auxiliary(tokens, mask if padded else None)
    assert torch.allclose(averaged, expected, rtol=1e-4) == (n_layers == 1), "one layer: one form"


@pytest.mark.parametrize("bias", [False, True])
def test_against_hf_switch(bias: bool) -> None:
    """Top-1, the raw probability as weight, capacity large enough to drop nothing."""
    config = SwitchTransformersConfig(
        d_model=24, d_ff=20, num_experts=4, expert_capacity=64, router_bias=bias, dropout_rate=0.0
    )
    theirs = SwitchTransformersSparseMLP(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    ours = MixtureOfExperts(
        (FeedForward(24, 20, nn.ReLU(), bias=False) for _ in range(4)), 24, 1, renormalise=False, bias=bias
    )
    ours.router.score.load_state_dict(theirs.router.classifier.state_dict())
    for e, expert in enumerate(ours.experts):
        dense = theirs.experts[f"expert_{e}"]
        expert.load_state_dict({"up.weight": dense.wi.weight, "down.weight": dense.wo.weight})
    x = torch.randn(3, 9, 24, requires_grad=True)
    expected, got = theirs(x), ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


REFUSED: dict[str, tuple[Any, str]] = {
    "gelu": ({"hidden_act": "gelu"}, "hidden_act"),
    "wide-head": ({"head_dim": 8}, "head_dim"),
    "window": ({"sliding_window": 4}, "sliding_window"),
    "scaled-rope": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "rope_type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    changes, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(MoE, mixtral(**changes))


def test_refuses_another_kind_and_a_weight_left_over() -> None:
    dense = {key: value for key, value in SIZES.items() if "experts" not in key}
    with pytest.raises(UserError, match="MistralForCausalLM"):
        from_reference(MoE, MistralForCausalLM(MistralConfig(**dense)))
    theirs = mixtral()
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(MoE, theirs)
