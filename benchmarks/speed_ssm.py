"""Mamba beside transformers and mambapy, S4D beside its convolution as the paper's listing has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference
from oliveira.models.mamba import Mamba
from oliveira.nn.ssm import DiagonalSSM


def cases() -> Iterator[Case]:
    from mambapy.mamba import Mamba as TheirMamba
    from mambapy.mamba import MambaConfig as TheirConfig
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    tokens = torch.randint(512, (8, 256))
    hf = MambaForCausalLM(MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2))
    ours = from_reference(Mamba, hf)
    yield from both(
        "B 8 T 256 d_model 64, 2 layers", "mamba", "transformers MambaForCausalLM",
        lambda: ours(tokens), lambda: hf(input_ids=tokens, use_cache=False).logits, [ours, hf],
    )  # fmt: skip
    theirs = TheirMamba(TheirConfig(d_model=64, n_layers=2))
    stack = from_reference(Mamba, theirs)
    x = torch.randn(8, 256, 64)
    yield from both(
        "B 8 T 256 d_model 64, 2 layers, series", "mamba", "mambapy Mamba",
        lambda: stack(x), lambda: theirs(x), [stack, theirs],
    )  # fmt: skip
    layer = DiagonalSSM(64, 64, 256)
    listing = Listing(layer)
    u = torch.randn(32, 168, 64)
    yield from both(
        "layer, B 32 T 168 d_model 64 d_state 64", "s4d", "complex kernel and FFT",
        lambda: layer(u), lambda: listing(u), [layer, listing],
    )  # fmt: skip


def both(
    size: str,
    model: str,
    reference_name: str,
    ours: Callable[[], Tensor],
    reference: Callable[[], Tensor],
    modules: list[nn.Module],
) -> Iterator[Case]:
    """Forward alone, then forward and backward."""

    def forward(run: Callable[[], Tensor]) -> Callable[[], object]:
        return torch.no_grad()(run)

    def with_backward(run: Callable[[], Tensor], module: nn.Module) -> Callable[[], object]:
        def step() -> None:
            module.zero_grad(set_to_none=True)
            run().square().mean().backward()

        return step

    about: dict[str, Any] = {"model": model, "reference_name": reference_name}
    peer = reference_name.split()[0]
    yield Case(name=f"{model} forward, {size} ({peer})", ours=forward(ours), reference=forward(reference), **about)
    yield Case(
        name=f"{model} forward+backward, {size} ({peer})",
        ours=with_backward(ours, modules[0]),
        reference=with_backward(reference, modules[1]),
        **about,
    )


class Listing(nn.Module):
    """arXiv:2206.11893, eq. 6 and 9, in complex numbers: a Vandermonde product and an FFT."""

    def __init__(self, layer: DiagonalSSM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor) -> Tensor:
        layer, steps = self.layer, u.shape[1]
        a = torch.complex(-layer.log_a_real.exp(), layer.a_imag)
        dt_a = a * layer.log_dt.exp()[:, None]
        weights = torch.complex(layer.c_real, layer.c_imag) * (dt_a.exp() - 1) / a
        powers = (dt_a[..., None] * torch.arange(steps)).exp()
        kernel = 2 * torch.einsum("en,ent->et", weights, powers).real
        spectrum = torch.fft.rfft(u.mT, n=2 * steps) * torch.fft.rfft(kernel, n=2 * steps)
        return torch.fft.irfft(spectrum, n=2 * steps)[..., :steps].mT + layer.skip * u
