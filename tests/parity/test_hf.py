"""GPT against transformers: weights copied by the converter that users call, logits and gradients to 1e-5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.gpt import GPT
from oliveira.nn.attention import ConcatCache

TOKENS = {"bos_token_id": 0, "eos_token_id": 0}
GPT2 = dict(vocab_size=29, n_embd=24, n_layer=2, n_head=3, n_positions=16, **TOKENS)
LLAMA = dict(
    vocab_size=29, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=16, **TOKENS,
)  # fmt: skip

VARIANTS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
    "gpt2-untied": (GPT2LMHeadModel, GPT2Config, {**GPT2, "tie_word_embeddings": False}),
    "gpt2-relu-narrow": (GPT2LMHeadModel, GPT2Config, {**GPT2, "activation_function": "relu", "n_inner": 7}),
    "gpt2-eps": (GPT2LMHeadModel, GPT2Config, {**GPT2, "layer_norm_epsilon": 0.1}),
    "llama-gqa": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "llama-mqa": (LlamaForCausalLM, LlamaConfig, {**LLAMA, "num_key_value_heads": 1}),
    "llama-mha-tied": (
        LlamaForCausalLM, LlamaConfig, {**LLAMA, "num_key_value_heads": 6, "tie_word_embeddings": True},
    ),
    "llama-bias": (LlamaForCausalLM, LlamaConfig, {**LLAMA, "attention_bias": True}),
    "llama-rope-eps": (
        LlamaForCausalLM, LlamaConfig,
        {**LLAMA, "rms_norm_eps": 0.1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
}  # fmt: skip


def reference(name: str) -> nn.Module:
    """A reference whose every weight, norms and biases too, is random: a swapped pair would show."""
    kind, config, arguments = VARIANTS[name]
    module = kind(config(**arguments)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def embeddings_gradient(module: nn.Module, embedding: nn.Embedding, run: object) -> tuple[Tensor, Tensor]:
    """Logits, and their gradient (against a fixed direction) at the embedded input."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = embedding.register_forward_hook(keep)
    logits = run(module)  # type: ignore[operator]
    handle.remove()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * direction).sum(dim=(0, 1)).mean().backward()
    assert kept[0].grad is not None
    return logits.detach(), kept[0].grad


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("length", [1, 7, 16])
def test_against_hf(name: str, length: int) -> None:
    theirs = reference(name)
    ours = from_reference(GPT, theirs)
    tokens = torch.randint(29, (2, length))
    expected = embeddings_gradient(theirs, theirs.get_input_embeddings(), lambda m: m(input_ids=tokens).logits)
    got = embeddings_gradient(ours, ours.embedding, lambda m: m(tokens))
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_weight_gradients(name: str) -> None:
    """The gradient of one early weight, through everything that follows it."""
    theirs = reference(name)
    ours = from_reference(GPT, theirs)
    tokens = torch.randint(29, (2, 9))
    theirs(input_ids=tokens).logits.square().sum().backward()
    ours(tokens).square().sum().backward()
    if name == "gpt2":
        expected = theirs.transformer.h[0].attn.c_attn.weight.grad.T[:24]
    else:
        expected = theirs.model.layers[0].self_attn.q_proj.weight.grad
    got = ours.blocks[0].attention.query.weight.grad
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_padding_mask(name: str) -> None:
    """Two texts of different length in one batch, the shorter padded on the left: what an engine does."""
    theirs = reference(name)
    ours = from_reference(GPT, theirs)
    tokens = torch.randint(29, (2, 7))
    kept = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
    positions = (kept.cumsum(1) - 1).clamp(min=0)
    causal = torch.ones(7, 7).tril().bool()
    mask = causal & kept.bool()[:, None, None, :] | torch.eye(7).bool()
    expected = theirs(input_ids=tokens, attention_mask=kept, position_ids=positions).logits
    got = ours(tokens, positions=positions, mask=mask)
    torch.testing.assert_close(got[kept.bool()], expected[kept.bool()], atol=1e-5, rtol=1e-5)
    alone = ours(tokens[:1, 3:])
    torch.testing.assert_close(got[:1, 3:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "llama-bias"])
def test_greedy_text_with_a_cache(name: str) -> None:
    theirs = reference(name)
    ours = from_reference(GPT, theirs)
    prompt = torch.randint(29, (1, 5))
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, do_sample=False, eos_token_id=None
    )
    cache, fed, made = ConcatCache(), prompt, prompt
    with torch.inference_mode():
        for _ in range(10):
            fed = ours(fed, cache=cache)[:, -1:].argmax(dim=-1)
            made = torch.cat([made, fed], dim=1)
    assert made.tolist() == expected.tolist()


REFUSED = {
    "swish": (GPT2LMHeadModel, GPT2Config, {**GPT2, "activation_function": "silu"}, "activation_function"),
    "layer-scale": (
        GPT2LMHeadModel, GPT2Config, {**GPT2, "scale_attn_by_inverse_layer_idx": True}, "inverse_layer",
    ),
    "mlp-bias": (LlamaForCausalLM, LlamaConfig, {**LLAMA, "mlp_bias": True}, "mlp_bias"),
    "mixtral": (MixtralForCausalLM, MixtralConfig, LLAMA, "MixtralForCausalLM"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    kind, config, arguments, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(GPT, kind(config(**arguments)))


def test_no_weight_is_left_over() -> None:
    theirs = reference("gpt2")
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(GPT, theirs)
