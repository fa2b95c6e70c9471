"""The forms of `GPT` that are neither GPT-2 nor Llama: what they refuse, and their agreement however they are asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.kernels.decoder import BlockPool, Run
from oliveira.kernels.twin import TorchDecoder
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.models.moe import MoE
from oliveira.nn.attention import ConcatCache, causal_mask, windowed
from oliveira.nn.positional import Rotary
from oliveira.registry import create, stored_config
from oliveira.serving.engine.decoders import Settings, make_decoder
from oliveira.serving.engine.window import Window
from oliveira.training.loss import next_token

V, T = 61, 40
BASE = GPTConfig(vocab_size=V, d_model=24, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=40, max_len=64)
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
FORMS: dict[str, GPTConfig] = {
    "mistral": replace(BASE, window=5, d_head=10),
    "qwen3": replace(BASE, qk_norm=True, d_head=8, qkv_bias=True, rope_scaling=YARN),
    "smollm3": replace(BASE, no_rope_every=2),
    "neox": replace(
        BASE, norm="layernorm", feed_forward="gelu_exact", bias=True, parallel=True, rotary_share=0.5, d_head=8
    ),
    "gemma2": replace(
        BASE, window=7, full_every=2, post_norms=True, feed_forward="geglu", attention_cap=2.0, logit_cap=3.0,
        attention_scale=0.2, embedding_scale=24**0.5,
    ),
    "gemma3": replace(
        BASE, window=5, full_every=3, rope_base_local=100.0, qk_norm=True, post_norms=True, feed_forward="geglu",
        rope_scaling={"type": "linear", "factor": 8.0},
    ),
}  # fmt: skip


def model(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    made = GPT(config).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.3)
    return made


def tokens(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
def test_a_cache_and_a_mask_of_ones_own_change_nothing(form: str) -> None:
    """At once, token by token with a cache, behind padding with positions and a mask, and in the twin's blocks."""
    made, x = model(FORMS[form]), tokens(2, T)
    whole = made(x)
    cache = ConcatCache()
    steps = [made(x[:, :9], cache=cache), *(made(x[:, i : i + 1], cache=cache) for i in range(9, T))]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=2e-5, rtol=1e-5)
    pad = 6
    padded = torch.cat([torch.zeros(2, pad, dtype=torch.int64), x], dim=1)
    real = torch.arange(pad + T) >= pad
    mask = (causal_mask(pad + T, 0) & real | torch.eye(pad + T).bool())[None, None]
    positions = (torch.arange(pad + T) - pad).clamp(min=0)
    torch.testing.assert_close(made(padded, positions=positions, mask=mask)[:, pad:], whole, atol=2e-5, rtol=1e-5)
    twin = TorchDecoder(made)
    pool = BlockPool(twin, 8)
    tables = [pool.take(3), pool.take(3)]
    row = x.tolist()
    twin.step([Run(row[0][:20], 0, tables[0], 0), Run(row[1][:33], 0, tables[1], 0)])
    together = twin.step([Run(row[0][20:21], 20, tables[0]), Run(row[1][33:34], 33, tables[1])])  # of unequal length
    torch.testing.assert_close(together, torch.stack([whole[0, 20], whole[1, 33]]), atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_is_behind_a_window_is_not_seen() -> None:
    made, x = model(replace(BASE, window=5, n_layers=2)), tokens(1, T)
    changed = x.clone()
    changed[0, 10] = (x[0, 10] + 1) % V
    moved = (made(x) != made(changed)).any(dim=-1)[0].nonzero().flatten().tolist()
    assert moved == list(range(10, 10 + 2 * 4 + 1))  # two layers of four steps back
    full = replace(BASE, window=5, full_every=2, n_layers=2)
    assert (model(full)(x) != model(full)(changed)).any(dim=-1)[0, 10:].all()


def test_a_window_counts_what_may_be_seen() -> None:
    gap = torch.tensor([[True, True, False, False, True, True], [True, True, False, False, True, False]])
    assert windowed(gap, 3).tolist() == [
        [False, True, False, False, True, True],
        [True, True, False, False, True, False],
    ]


@torch.inference_mode()
def test_layers_that_do_not_turn_know_no_order() -> None:
    made = model(replace(BASE, no_rope_every=1, n_layers=1))
    x = tokens(1, 6)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    torch.testing.assert_close(made(x)[:, -1], made(swapped)[:, -1])


def test_the_losses_of_a_capped_head_are_those_of_its_logits() -> None:
    made, x = model(replace(BASE, logit_cap=1.5)).train(), tokens(2, 9)
    expected = nn.functional.cross_entropy(made(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(next_token(made, x[:, :-1], x[:, 1:]), expected)
    assert made(x).abs().max() < 1.5


def test_yarn_turns_slow_pairs_only_and_sharpens() -> None:
    plain, scaled = Rotary(8, 16), Rotary(8, 16, scaling={**YARN, "attention_factor": 1.0})
    angles = [torch.atan2(r.sin, r.cos)[1, :8] for r in (plain, scaled)]
    ratio = angles[0] / angles[1]
    assert ratio[0] == 1 and abs(ratio[-1] - 4) < 1e-3 and (ratio.diff() >= -1e-4).all()
    assert Rotary(8, 16, scaling=YARN).cos[0, 0] == pytest.approx(0.1 * torch.tensor(4.0).log().item() + 1)


def test_what_a_form_adds_is_stored_only_where_it_is_used() -> None:
    assert {"d_head", "window", "rope_scaling", "logit_cap"}.isdisjoint(stored_config(BASE))
    assert stored_config(FORMS["mistral"]).items() >= {"window": 5, "d_head": 10}.items()
    for config in FORMS.values():
        assert GPTConfig(**stored_config(config)) == config
    with pytest.raises(UserError, match="window = 5 cannot be upcycled"):
        MoE.upcycle(GPT(replace(BASE, window=5)))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "odd width": ({"d_head": 7}, "turns 7 numbers"),
    "odd share": ({"rotary_share": 0.5, "d_head": 6}, "turns 3 numbers"),
    "no share": ({"rotary_share": 0.0}, "turns 0 numbers"),
    "negative": ({"d_head": -8}, "d_head = -8"),
    "no window": ({"full_every": 2}, "full_every = 2 is of layers with a window"),
    "local": ({"rope_base_local": 1e4}, "rope_base_local = 10000 is of layers with a window"),
    "learned": ({"positions": "learned", "no_rope_every": 4}, "no_rope_every is of rotary positions"),
    "both": ({"parallel": True, "post_norms": True}, "parallel and post_norms"),
    "cap": ({"attention_cap": float("nan")}, "attention_cap = nan"),
    "longrope": ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "type 'longrope'. Use one of linear"),
    "missing": ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "has no high_freq_factor"),
    "unknown": ({"rope_scaling": {"type": "linear", "factor": 8.0, "fast": 1}}, "has fast, which is not known"),
    "zero": ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor = 0.0. Give a positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nonsense_is_refused(case: str) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        create("gpt", **{"vocab_size": 9, "d_model": 24, "n_heads": 4, "n_kv_heads": 2, **changes})


def test_a_window_of_serving_does_not_go_with_one_of_the_model() -> None:
    nobody: Any = None
    with pytest.raises(UserError, match=r"serve.window = 128 does not go with .* of 5 tokens"):
        make_decoder(nobody, GPT(replace(BASE, window=5, max_len=128)), Settings(window=Window(128)))
