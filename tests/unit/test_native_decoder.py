"""The whole step in C++ against the torch model, and its promise: the same token, the same bits."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oliveira import artifact
from oliveira.compression.model import quantise_model
from oliveira.errors import UserError
from oliveira.kernels import build
from oliveira.kernels.decoder import POSITIONS, BlockPool, NativeDecoder, Run, generate, not_covered
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.tasks import language_modelling

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

V = 203
BASE = GPTConfig(vocab_size=V, d_model=192, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=320, max_len=96)
SMALL = replace(BASE, d_model=64, n_heads=4, n_kv_heads=2, d_ff=128)
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
FORMS: dict[str, GPTConfig] = {
    "llama": BASE,
    "gpt2": replace(
        BASE, norm="layernorm", feed_forward="gelu", positions="learned", bias=True, n_heads=3, n_kv_heads=3
    ),
    "own": replace(BASE, feed_forward="relu", positions="sinusoidal", tied=False, d_model=64, n_heads=4, n_kv_heads=1),
    "narrow": replace(BASE, d_model=32, n_heads=2, n_kv_heads=2, d_ff=64, bias=True, norm="layernorm"),
    "mistral": replace(SMALL, window=19, d_head=32),
    "qwen3": replace(SMALL, qk_norm=True, d_head=48, qkv_bias=True, rope_scaling=YARN),
    "smollm3": replace(SMALL, no_rope_every=2),
    "neox": replace(
        SMALL, norm="layernorm", feed_forward="gelu_exact", bias=True, parallel=True, rotary_share=0.25, tied=False
    ),
    "gemma2": replace(
        SMALL, window=19, full_every=2, feed_forward="geglu", post_norms=True, embedding_scale=8.0,
        attention_scale=0.3, attention_cap=5.0, logit_cap=7.0,
    ),
    "gemma3": replace(
        SMALL, n_layers=3, window=5, full_every=3, feed_forward="geglu", post_norms=True, qk_norm=True,
        rope_base_local=100.0, rope_scaling={"type": "linear", "factor": 8.0},
    ),
}  # fmt: skip
# Largest difference of a logit over their standard deviation.
TOLERANCE = 1e-4


def model(form: str, method: str = "fp32") -> GPT:
    """Weights as large as trained ones, so that attention is sharp and every part counts."""
    torch.manual_seed(0)
    made = GPT(FORMS[form]).eval()
    for parameter in made.parameters():
        wide = parameter.ndim > 1
        nn.init.normal_(parameter, 0.0 if wide else 1.0, 2.0 * FORMS[form].d_model ** -0.5 if wide else 0.2)
    if method != "fp32":
        quantise_model(made, method)
    return made


def decoder_of(made: GPT, n_blocks: int = 64, **options: Any) -> tuple[NativeDecoder, BlockPool]:
    options.setdefault("threads", 1)
    decoder = NativeDecoder(made, **options)
    return decoder, BlockPool(decoder, n_blocks)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, V, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def torch_logits(made: GPT, tokens: list[int]) -> Tensor:
    return made(torch.tensor([tokens]))[0]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize("method", ["fp32", "int8", "int4", "nf4"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_torch_model(form: str, method: str) -> None:
    """Logits of every position, and the same greedy text."""
    made = model(form, method)
    decoder, pool = decoder_of(made)
    tokens = prompt(37)
    table = pool.take(3)
    assert error(decoder.prefill(tokens, 0, table, wanted=37), torch_logits(made, tokens)) <= TOLERANCE
    pool.give_back(table)
    expected = language_modelling.generate(made, tokens, 59, max_len=96)
    assert generate(decoder, tokens, 59, chunk=16) == expected
    assert len(pool.free) == 64


@pytest.mark.parametrize("form", FORMS)
def test_an_int8_artifact_gives_the_text_of_torch(form: str, tmp_path: Path) -> None:
    made = quantise_model(model(form), "int8")
    loaded = artifact.write(
        tmp_path / "artifact", model=made, name="gpt", weights="int8", lineage={}, metrics={}
    ).load_model()
    assert isinstance(loaded, GPT)
    decoder, _ = decoder_of(loaded)
    tokens = prompt(37)
    assert generate(decoder, tokens, 59) == language_modelling.generate(loaded, tokens, 59, max_len=96)


@pytest.mark.parametrize("path", build.PATHS)
def test_every_path(path: str) -> None:
    if path not in build.usable():
        return
    build.use(path)
    try:
        for form in ("llama", "gpt2", "neox", "gemma2"):
            made = model(form, "int4")
            decoder, pool = decoder_of(made)
            tokens = prompt(37)
            assert error(decoder.prefill(tokens, 0, pool.take(3), wanted=37), torch_logits(made, tokens)) <= TOLERANCE
    finally:
        build.use(build.usable()[0])


@pytest.mark.parametrize("cache", ["fp32", "fp16"])
@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("form", "method"),
    [
        *(("llama", "int4"), ("gpt2", "nf4"), ("own", "fp32"), ("narrow", "int8")),
        *(("mistral", "int4"), ("neox", "int8"), ("gemma2", "nf4"), ("gemma3", "fp32")),
    ],
)
def test_same_bits_however_it_is_computed(form: str, method: str, activations: str, cache: str) -> None:
    """At once, in chunks, token by token, with other threads, in other blocks: equal, not nearly equal."""
    made = model(form, method)
    decoder, pool = decoder_of(made, activations=activations, cache=cache)
    tokens = prompt(70)
    table = pool.take(5)
    whole = decoder.prefill(tokens, 0, table, wanted=70)
    pool.blocks[pool.free] = float("nan")  # what an earlier owner left is never read
    for threads, cuts in ((1, (0, 1, 4, 20, 37, 70)), (2, (0, 33, 70)), (2, range(71))):
        decoder.threads = threads
        other = pool.take(5)[::-1]
        parts = [
            decoder.prefill(tokens[a:b], a, other, wanted=b - a) for a, b in zip(cuts, list(cuts)[1:], strict=False)
        ]
        assert torch.equal(torch.cat(parts), whole)
        assert same_cache(decoder, pool, table, other, 70)


def same_cache(decoder: NativeDecoder, pool: BlockPool, one: list[int], two: list[int], length: int) -> bool:
    """Keys and values of the first `length` positions, bit for bit."""
    config = decoder.config
    shape = (len(one), config.n_layers * config.n_kv_heads, 2, POSITIONS * decoder.d_head)
    filled = []
    for table in (one, two):
        blocks = pool.blocks[table].view(shape)
        keys = blocks[:, :, 0].unflatten(-1, (decoder.d_head, POSITIONS)).transpose(-1, -2)
        values = blocks[:, :, 1].unflatten(-1, (POSITIONS, decoder.d_head))
        both = torch.stack([keys, values]).transpose(2, 3)  # (2, blocks, positions, heads, d_head)
        filled.append(both.flatten(1, 2)[:, :length])
    return torch.equal(*filled)


@pytest.mark.parametrize(
    ("form", "method", "activations"),
    [
        *(("llama", "fp32", "fp32"), ("llama", "int4", "fp32"), ("llama", "nf4", "int8")),
        *(("gemma2", "fp32", "fp32"), ("neox", "int4", "int8")),
    ],
)
def test_a_batch_of_sixteen_is_sixteen_single_runs(form: str, method: str, activations: str) -> None:
    made = model(form, method)
    decoder, pool = decoder_of(made, 16 * 4 * 2, activations=activations, threads=2)
    prompts = [prompt(1 + 3 * i, seed=i) for i in range(16)]
    alone = []
    for tokens in prompts:
        table = pool.take(4)
        rows = [decoder.prefill(tokens, 0, table)]
        rows += [decoder.decode([7 + step], [len(tokens) + step], [table]) for step in range(4)]
        alone.append(torch.cat(rows))
    tables = [pool.take(4) for _ in prompts]
    first = [decoder.prefill(tokens, 0, table) for tokens, table in zip(prompts, tables, strict=True)]
    steps = [torch.cat(first)] + [
        decoder.decode([7 + step] * 16, [len(tokens) + step for tokens in prompts], tables) for step in range(4)
    ]
    assert torch.equal(torch.stack(steps, dim=1), torch.stack(alone))


def test_prompts_and_decoding_in_one_call() -> None:
    """Chunked prefill beside decoding: runs of any length, each with the logits it asked for."""
    decoder, pool = decoder_of(model("llama", "int4"))
    long, short = prompt(40), prompt(9, seed=1)
    tables = [pool.take(3) for _ in range(4)]
    expected = [decoder.prefill(long, 0, tables[0], wanted=2), decoder.prefill(short, 0, tables[1])]
    decoder.prefill(long[:25], 0, tables[2], wanted=0)
    decoder.prefill(short[:8], 0, tables[3], wanted=0)
    found = decoder.step([Run(long[25:], 25, tables[2], 2), Run(short[8:], 8, tables[3])])
    assert torch.equal(found, torch.cat(expected))
    assert decoder.prefill([1, 2], 0, tables[0], wanted=0).shape == (0, V)


def test_a_prefix_read_back_gives_the_same_bits() -> None:
    """Blocks are plain memory: bytes written away and brought back into other blocks continue as if never gone."""
    decoder, pool = decoder_of(model("gpt2", "int4"), cache="fp16")
    tokens = prompt(48)
    table = pool.take(4)
    decoder.prefill(tokens[:32], 0, table, wanted=0)
    stored = pool.blocks[table[:2]].numpy().tobytes()
    expected = decoder.prefill(tokens[32:], 32, table)
    again, _ = decoder_of(model("gpt2", "int4"), cache="fp16")
    new_pool = BlockPool(again, 8)
    new_table = new_pool.take(4)
    new_pool.blocks[new_table[:2]] = torch.frombuffer(bytearray(stored), dtype=torch.float16).view(2, -1)
    assert torch.equal(again.prefill(tokens[32:], 32, new_table), expected)


def test_half_precision_keys_and_values_change_little() -> None:
    made = model("llama")
    tokens = prompt(64)
    decoder, pool = decoder_of(made, cache="fp16")
    found = decoder.prefill(tokens, 0, pool.take(4), wanted=64)
    assert 1e-6 < error(found, torch_logits(made, tokens)) < 2e-2
    assert pool.blocks.dtype == torch.float16


def test_quantised_head_replaces_a_tied_embedding() -> None:
    made = model("llama", "int4")
    tokens = prompt(20)
    sizes = {}
    for head, limit in (("fp32", 1e-4), ("int8", 0.2), ("int6", 0.8), ("int4", 2.0)):
        decoder, pool = decoder_of(made, head=head)
        sizes[head] = decoder.weight_bytes
        assert error(decoder.prefill(tokens, 0, pool.take(2), wanted=20), torch_logits(made, tokens)) < limit
    saved = 192 * (V * 4 + 256 * (4 - 1))  # the embedding, and fp32 instead of int8 in a head of whole panels
    assert sizes["fp32"] - sizes["int8"] == pytest.approx(saved, rel=0.01)
    assert sizes["int4"] < sizes["int6"] < sizes["int8"]
    # The twin: the head's rounded weights in both places.
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin.embedding.weight.copy_(quantise_int8_rows(made.embedding.weight))
    decoder, pool = decoder_of(made, head="int8")
    assert error(decoder.prefill(tokens, 0, pool.take(2), wanted=20), torch_logits(twin, tokens)) <= TOLERANCE


def quantise_int8_rows(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


def test_not_a_number_reaches_the_logits() -> None:
    """The engine looks there for a broken model."""
    for activations in ("fp32", "int8"):
        made = model("gpt2", "int4")
        with torch.no_grad():
            dict(made.named_parameters())["norm.weight"][3] = float("nan")
        decoder, pool = decoder_of(made, activations=activations)
        assert not decoder.prefill([1, 2, 3], 0, pool.take(1)).isfinite().any()


def test_what_cannot_be_computed_is_refused() -> None:
    decoder, pool = decoder_of(model("llama"), 8)
    table = pool.take(6)
    for runs, reason in (
        ([], "0 new tokens"),
        ([Run([], 0, table)], "0 tokens"),
        ([Run([1], 96, table)], "max|1 … 96"),
        ([Run([1], -1, table)], "position -1"),
        ([Run([1], 16, table[:1])], "does not reach place 16"),
        ([Run([1], 0, [8])], "block number"),
        ([Run([1], 0, [-1])], "block number"),
        ([Run([V], 0, table)], "token"),
        ([Run([-1], 0, table)], "token"),
        ([Run([1], 0, table, 2)], "wanted = 2"),
        ([Run([1] * 90, 0, table)] * 3, "270 new tokens"),
    ):
        with pytest.raises(UserError, match=reason):
            decoder.step(runs)
    with pytest.raises(UserError, match="3 blocks are asked for, 2 are free"):
        pool.take(3)
    with pytest.raises(UserError, match="at least one"):
        BlockPool(decoder, 0)
    with pytest.raises(UserError, match="no blocks"):
        NativeDecoder(model("llama")).decode([1], [0], [[0]])
    with pytest.raises(UserError, match="hold"):
        NativeDecoder(model("gpt2")).attach(pool)


def test_models_that_are_not_covered() -> None:
    partly = model("llama")
    quantise_model(partly.get_submodule("blocks.1.feed_forward"), "int4")
    assert not_covered(partly) is None
    partly.get_submodule("blocks.1.feed_forward").up = nn.Linear(192, 320, bias=False)
    assert "different formats" in (not_covered(partly) or "")
    assert not_covered(model("llama")) is None
    heads_of_8 = GPT(replace(BASE, d_model=48, n_heads=6, n_kv_heads=6))
    assert "heads of 8" in (not_covered(heads_of_8) or "")
    crossing = GPT(replace(BASE, d_model=96, n_heads=2, n_kv_heads=2))
    quantise_model(crossing, "int4")
    assert "cross rows" in (not_covered(crossing) or "")
    adapted = model("llama")
    adapted.get_submodule("blocks.0.attention").query = Adapted(192, 192)
    assert "Adapted" in (not_covered(adapted) or "")
    other: Any = nn.Linear(2, 2)
    assert "not a GPT" in (not_covered(other) or "")
    with pytest.raises(UserError, match="heads of 8"):
        NativeDecoder(heads_of_8)


class Adapted(nn.Linear):
    """Stands for a layer with an adapter on it."""
