"""Adapters in a batch: the native step = torch with the merged weights; neighbours do not notice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from oliveira.compression.model import quantise_model
from oliveira.errors import UserError
from oliveira.kernels.adapter import Adapter
from oliveira.kernels.build import unavailable, usable, use
from oliveira.kernels.decoder import BlockPool, Decoder, NativeDecoder, Run
from oliveira.kernels.twin import TorchDecoder
from oliveira.models.gpt import GPT, GPTConfig

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="no compiler: torch decodes")

FORMS = {
    "llama": dict(feed_forward="swiglu", n_kv_heads=2, norm="rmsnorm", positions="rope"),
    "gpt2": dict(feed_forward="gelu", n_kv_heads=4, norm="layernorm", positions="learned", bias=True),
    "wide heads": dict(feed_forward="geglu", n_kv_heads=2, d_head=32, window=9, post_norms=True, qk_norm=True),
    "parallel": dict(feed_forward="gelu_exact", n_kv_heads=4, bias=True, parallel=True, rotary_share=0.5),
}


def make(form: str) -> GPT:
    sizes = dict(vocab_size=97, d_model=64, n_layers=2, n_heads=4, d_ff=128, max_len=64)
    model = GPT(GPTConfig(**{**sizes, **FORMS[form]})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def low_rank(model: GPT, rank: int, *, only: str = "") -> dict[str, tuple[Tensor, Tensor]]:
    return {
        name: (0.2 * torch.randn(rank, layer.in_features), 0.2 * torch.randn(layer.out_features, rank))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks.") and only in name
    }


def merged(model: GPT, layers: dict[str, tuple[Tensor, Tensor]]) -> GPT:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, (a, b) in layers.items():
            model.get_submodule(name).weight.add_(b @ a)
    return model


def logits(decoder: Decoder, runs: list[tuple[list[int], Adapter | None]]) -> list[Tensor]:
    """All prompts read in one step, then one token more for each."""
    pool = BlockPool(decoder, 4 * len(runs))
    tables = [pool.take(4) for _ in runs]
    first = decoder.step([Run(tokens, 0, t, len(tokens), a) for (tokens, a), t in zip(runs, tables, strict=True)])
    then = decoder.step([Run([5], len(tokens), t, 1, a) for (tokens, a), t in zip(runs, tables, strict=True)])
    ends = first.split([len(tokens) for tokens, _ in runs])
    return [torch.cat([a, b[None]]) for a, b in zip(ends, then, strict=True)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("native", [True, False])
def test_each_stream_gets_its_own_adapter(form: str, native: bool) -> None:
    model = make(form)
    both = [low_rank(model, 3), low_rank(model, 8, only="attention.value")]
    adapters = [Adapter(model.config, layers) for layers in both]
    decoder: Decoder = NativeDecoder(model) if native else TorchDecoder(model)
    prompts = [torch.randint(97, (n,)).tolist() for n in (7, 20, 1, 33)]
    got = logits(decoder, list(zip(prompts, [adapters[0], None, adapters[1], adapters[0]], strict=True)))
    for prompt, layers, found in zip(prompts, [both[0], {}, both[1], both[0]], got, strict=True):
        with torch.inference_mode():
            wanted = merged(model, layers)(torch.tensor([[*prompt, 5]]))[0]
        torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.std()), rtol=1e-4)


def test_neighbours_change_no_bit() -> None:
    model = quantise_model(make("llama"), "nf4")
    assert isinstance(model, GPT)
    adapter = Adapter(model.config, low_rank(make("llama"), 4))
    decoder = NativeDecoder(model)
    prompts = [torch.randint(97, (n,)).tolist() for n in (9, 30, 17)]
    for path in usable():
        use(path)
        alone = [
            logits(decoder, [(prompt, who)])[0] for prompt, who in zip(prompts, (adapter, None, adapter), strict=True)
        ]
        together = logits(decoder, list(zip(prompts, (adapter, None, adapter), strict=True)))
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one, other), path
        assert not torch.equal(alone[0], logits(decoder, [(prompts[0], None)])[0])
    use(usable()[0])


def test_an_adapter_for_another_model_is_refused() -> None:
    model = make("llama")
    with pytest.raises(UserError, match="shapes"):
        Adapter(model.config, {"blocks.0.attention.key": (torch.zeros(2, 64), torch.zeros(64, 2))})
    for name in ("head", "blocks.7.attention.key", "blocks.0.attention.keys"):
        with pytest.raises(UserError, match=name):
            Adapter(model.config, {name: (torch.zeros(2, 64), torch.zeros(64, 2))})
