"""Mamba against transformers and mambapy, S4D's system against scipy: outputs and gradients to 1e-5.

transformers computes parts in float32 (the scan, rotations, logits): 1e-7 of a value, a hundredth of what is allowed.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from mambapy.mamba import Mamba as TheirMamba
from mambapy.mamba import MambaConfig as TheirConfig
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.mamba import Mamba
from oliveira.nn.ssm import DiagonalSSM, convolve

TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
HF: dict[str, Any] = dict(vocab_size=29, hidden_size=24, num_hidden_layers=2, state_size=5, **TOKENS)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one-layer-wide": {"num_hidden_layers": 1, "expand": 3},
    "rank-filter": {"time_step_rank": 7, "conv_kernel": 3},
    "untied-eps": {"tie_word_embeddings": False, "layer_norm_epsilon": 0.1},
    "one-state": {"state_size": 1},
}


def shaken(module: nn.Module) -> Any:
    """Every weight random, gains and biases too: a swapped pair would show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def through_embedding(module: nn.Module, embedding: nn.Module, run: Any) -> tuple[Tensor, Tensor]:
    """Logits, and their gradient against a fixed direction at the embedded input."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = embedding.register_forward_hook(keep)
    logits = run(module).to(torch.get_default_dtype())  # transformers casts its logits to float32
    handle.remove()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * direction).mean(dim=2).sum().backward()
    assert kept[0].grad is not None
    return logits.detach(), kept[0].grad


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_against_hf_mamba(name: str, length: int) -> None:
    torch.manual_seed(0)
    theirs = shaken(MambaForCausalLM(MambaConfig(**{**HF, **VARIANTS[name]})))
    ours = from_reference(Mamba, theirs)
    tokens = torch.randint(29, (2, length))
    expected = through_embedding(theirs, theirs.get_input_embeddings(), lambda m: m(input_ids=tokens).logits)
    got = through_embedding(ours, ours.input, lambda m: m(tokens))
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_weight_gradients_against_hf_mamba() -> None:
    """Of every weight of the first layer, through all that follows it."""
    torch.manual_seed(0)
    theirs = shaken(MambaForCausalLM(MambaConfig(**HF)))
    ours = from_reference(Mamba, theirs)
    tokens = torch.randint(29, (2, 9))
    theirs(input_ids=tokens).logits.square().mean().backward()
    ours(tokens).square().mean().backward()
    mixer: Any = ours.blocks[0].mixer
    other = theirs.backbone.layers[0].mixer
    pairs = [
        (mixer.log_a, other.A_log.grad),
        (mixer.skip, other.D.grad),
        (mixer.step_size.bias, other.dt_proj.bias.grad),
        (mixer.step_size.weight, other.dt_proj.weight.grad),
        (mixer.select.weight, other.x_proj.weight.grad),
        (mixer.conv.weight, other.conv1d.weight.grad[:, 0]),
        (mixer.conv.bias, other.conv1d.bias.grad),
        (mixer.input.weight, other.in_proj.weight.grad),
        (mixer.output.weight, other.out_proj.weight.grad),
    ]
    for weight, expected in pairs:
        assert expected.abs().max() > 0
        torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_against_hf_mamba(side: str) -> None:
    """Two texts of different length in one batch; on either side padding is not seen."""
    torch.manual_seed(0)
    theirs = shaken(MambaForCausalLM(MambaConfig(**HF)))
    ours = from_reference(Mamba, theirs)
    tokens, kept = torch.randint(29, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    real = slice(4, 9) if side == "left" else slice(0, 5)
    kept[0] = 0
    kept[0, real] = 1
    got = ours(tokens, kept.bool())
    expected = theirs(input_ids=tokens, attention_mask=kept).logits.double()
    torch.testing.assert_close(got[kept.bool()], expected[kept.bool()], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[:1, real], ours(tokens[:1, real]), atol=1e-5, rtol=1e-5)


def test_steps_against_hf_mamba_cache() -> None:
    """Ten tokens one at a time: our state beside their cache."""
    torch.manual_seed(0)
    theirs = shaken(MambaForCausalLM(MambaConfig(**HF)))
    ours = from_reference(Mamba, theirs)
    tokens = torch.randint(29, (2, 10))
    state, cache = None, None
    word = "cache" if "cache" in inspect.signature(theirs.forward).parameters else "cache_params"  # before 5.24
    with torch.no_grad():
        for t in range(10):
            got, state = ours.step(tokens[:, t], state)
            output = theirs(input_ids=tokens[:, t : t + 1], use_cache=True, **{word: cache})
            cache = output[word]
            torch.testing.assert_close(got, output.logits[:, 0].double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"dt_rank": 5, "d_conv": 2}, {"expand_factor": 1, "d_state": 3}])
@pytest.mark.parametrize("length", [1, 13, 32])
def test_against_mambapy(changes: dict[str, Any], length: int) -> None:
    torch.manual_seed(0)
    theirs = shaken(TheirMamba(TheirConfig(d_model=24, n_layers=2, **changes)))
    ours = from_reference(Mamba, theirs)
    x = torch.randn(2, length, 24, requires_grad=True)
    direction = torch.randn(2, length, 24)
    expected = nn.functional.rms_norm(theirs(x), (24,), eps=1e-5)
    (expected_grad,) = torch.autograd.grad((expected * direction).sum(), x)
    got = ours(x)
    (got_grad,) = torch.autograd.grad((got * direction).sum(), x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got_grad, expected_grad, atol=1e-5, rtol=1e-5)


REFUSED: dict[str, Any] = {
    "use_bias": lambda: MambaForCausalLM(MambaConfig(**HF, use_bias=True)),
    "use_conv_bias": lambda: MambaForCausalLM(MambaConfig(**HF, use_conv_bias=False)),
    "hidden_act": lambda: MambaForCausalLM(MambaConfig(**HF, hidden_act="gelu")),
    "inner_layernorms": lambda: TheirMamba(TheirConfig(d_model=8, n_layers=1, inner_layernorms=True)),
    "mup": lambda: TheirMamba(TheirConfig(d_model=8, n_layers=1, mup=True)),
    "LlamaForCausalLM": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ),
}


@pytest.mark.parametrize("word", REFUSED)
def test_refuses_what_it_does_not_compute(word: str) -> None:
    with pytest.raises(UserError, match=word):
        from_reference(Mamba, REFUSED[word]())


def test_no_weight_is_left_over() -> None:
    theirs = MambaForCausalLM(MambaConfig(**HF))
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(Mamba, theirs)


def system(layer: DiagonalSSM, channel: int) -> tuple[np.ndarray, ...]:
    """A channel as the real matrices (A, B, C, D) of x' = A x + B u, y = C x + D u, one 2 × 2 block a pair."""
    a_real, a_imag = -layer.log_a_real.exp()[channel], layer.a_imag[channel]
    pairs = a_real.shape[0]
    a, b, c = np.zeros((2 * pairs, 2 * pairs)), np.zeros((2 * pairs, 1)), np.zeros((1, 2 * pairs))
    for n in range(pairs):
        real, imag = a_real[n].item(), a_imag[n].item()
        a[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = [[real, -imag], [imag, real]]
        b[2 * n] = 1
        c[0, 2 * n : 2 * n + 2] = [2 * layer.c_real[channel, n].item(), -2 * layer.c_imag[channel, n].item()]
    return a, b, c, np.array([[layer.skip[channel].item()]])


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("initial", ["lin", "inv"])
@pytest.mark.parametrize("length", [1, 37, 200])
def test_against_scipy_dlsim(method: Any, initial: Any, length: int) -> None:
    """Convolution = simulation of the discretised system, channel by channel.

    S4's state at t has seen u_t already, scipy's has not: C x_{t+1} + D u_t = (C A) x_t + (C B + D) u_t.
    """
    torch.manual_seed(0)
    layer = shaken(DiagonalSSM(4, 8, 256, initial, method))
    u = torch.randn(2, length, 4)
    with torch.no_grad():
        got = layer(u)
    for channel in range(4):
        a, b, c, d = continuous = system(layer, channel)
        a, b, *_, dt = scipy.signal.cont2discrete(continuous, layer.log_dt.exp()[channel].item(), method=method)
        for row in range(2):
            _, expected, _ = scipy.signal.dlsim((a, b, c @ a, c @ b + d, dt), u[row, :, channel].double().numpy())
            torch.testing.assert_close(got[row, :, channel], torch.from_numpy(expected[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel_steps", [33, 1500])
def test_convolution_against_numpy(kernel_steps: int) -> None:
    """Both forms: sums up to 1,024 steps, FFT beyond."""
    torch.manual_seed(0)
    u, kernel = torch.randn(2, 33, 3), torch.randn(3, kernel_steps)
    got = convolve(u, kernel) if kernel_steps > 33 else convolve(u, kernel[:, :33])
    for row in range(2):
        for channel in range(3):
            expected = np.convolve(u[row, :, channel].numpy(), kernel[channel].numpy())[:33]
            torch.testing.assert_close(got[row, :, channel], torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
