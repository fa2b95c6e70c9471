"""Hashed attention: a loop over steps says the same, one bucket is full attention, near vectors hash alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from memory_helpers import exponent, peak_bytes
from torch import Tensor

from oliveira.errors import UserError
from oliveira.nn.lsh import (
    LSHAttention,
    chunked_attention,
    hash_buckets,
    shared_qk_attention,
    sort_by_bucket,
    unit,
)
from oliveira.nn.reversible import ordinary
from oliveira.registry import create


def qkv(length: int, batch: int = 2, heads: int = 2, width: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(length)
    return torch.randn(batch, heads, length, width), torch.randn(batch, heads, length, width)


def by_loops(
    qk: Tensor, v: Tensor, order: Tensor, real: Tensor, size: int, across: bool, buckets: Tensor | None = None
) -> Tensor:
    """Equations 3 to 6, step by step: for each round the chunk of i and the one before, then one softmax over all.
    With `buckets`, of each step, the nearest `size` steps before i of its own bucket instead.
    """
    out, keys = torch.zeros_like(v), unit(qk)
    n_rounds, length = order.shape[2:]
    for b in range(qk.shape[0]):
        for h in range(qk.shape[1]):
            sequence = order[b, h].flatten().tolist()  # round after round
            chunks = [sequence[start : start + size] for start in range(0, len(sequence), size)]
            for i in range(length):
                found: list[int] = []
                for r in range(n_rounds):
                    if buckets is not None:
                        mates = [j for j in range(i) if buckets[b, h, r, j] == buckets[b, h, r, i]]
                        found += [j for j in mates if real[min(b, len(real) - 1), j]][-size:]
                        continue
                    number = next(n for n in range(r * length // size, (r + 1) * length // size) if i in chunks[n])
                    looks_back = across or number % (length // size) > 0
                    found += (chunks[number - 1] if looks_back else []) + chunks[number]
                past = [j for j in found if j < i and real[min(b, len(real) - 1), j]] or [i]
                weights = torch.softmax(keys[b, h, past] @ qk[b, h, i], dim=0)
                out[b, h, i] = weights @ v[b, h, past]
    return out


@pytest.mark.parametrize("kind", ["chunks", "across", "strict"])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n_buckets", [2, 6])
def test_is_the_loop_over_steps(rounds: int, kind: str, padded: bool, n_buckets: int) -> None:
    (qk, v), size = qkv(16), 4
    real = torch.arange(16) < torch.tensor([[16], [11]]) if padded else torch.ones(1, 16, dtype=torch.bool)
    buckets = hash_buckets(qk, torch.randn(rounds, 2, 4, n_buckets // 2))
    order, within = sort_by_bucket(buckets, real, n_buckets)
    strict = kind == "strict"
    got = chunked_attention(qk, v, order, real, size, kind == "across", within if strict else None)
    expected = by_loops(qk, v, order, real, size, kind == "across", buckets if strict else None)
    rows = real[:, None, :, None].expand(2, 2, 16, 4)
    torch.testing.assert_close(got[rows], expected[rows], atol=1e-6, rtol=1e-5)


def test_the_order_is_by_bucket_then_place() -> None:
    buckets = torch.tensor([[[[1, 0, 1, 0, 2, 0]]]])
    real = torch.tensor([[True, True, True, False, True, True]])
    order, within = sort_by_bucket(buckets, real, 3)
    assert order.tolist() == [[[[1, 5, 0, 2, 4, 3]]]] and within.tolist() == [[[[0, 0, 1, 1, 2, 3]]]]


@pytest.mark.parametrize("rounds", [1, 4])
def test_one_bucket_in_one_chunk_is_full_attention(rounds: int) -> None:
    qk, v = qkv(12)
    real = torch.ones(1, 12, dtype=torch.bool)
    order, _ = sort_by_bucket(torch.zeros(2, 2, rounds, 12, dtype=torch.int64), real, 2)
    expected = shared_qk_attention(qk, v)
    torch.testing.assert_close(chunked_attention(qk, v, order, real, 12), expected, atol=1e-6, rtol=1e-5)
    # In chunks, one bucket means: the neighbours. The last chunk but one of six is no longer seen by the last.
    assert not torch.allclose(chunked_attention(qk, v, order, real, 2), expected, atol=1e-3)
    assert torch.allclose(chunked_attention(qk, v, order, real, 6), expected, atol=1e-6), "a chunk and the one before"


def test_more_rounds_come_nearer_to_full_attention() -> None:
    """The paper's curve, without any training."""
    torch.manual_seed(0)
    qk, v = torch.randn(1, 2, 256, 16), torch.randn(1, 2, 256, 16)
    qk = 4 * qk  # attention that knows what it wants
    real, expected = torch.ones(1, 256, dtype=torch.bool), shared_qk_attention(qk, v)
    rotations = torch.randn(16, 2, 16, 8)
    errors = []
    for rounds in (1, 2, 4, 8, 16):
        order, _ = sort_by_bucket(hash_buckets(qk, rotations[:rounds]), real, 16)
        errors.append(float((chunked_attention(qk, v, order, real, 16) - expected).norm() / expected.norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0], errors


def test_near_vectors_share_a_bucket_and_opposite_ones_never() -> None:
    torch.manual_seed(0)
    angles = torch.tensor([0.0, 5.0, 45.0, 90.0, 180.0]) * math.pi / 180
    vectors = torch.stack([angles.cos(), angles.sin()], dim=-1)[None, None]
    buckets = hash_buckets(vectors, torch.randn(2000, 1, 2, 4))
    together = [float((buckets[..., i] == buckets[..., 0]).float().mean()) for i in range(5)]
    assert together == sorted(together, reverse=True) and together[1] > 0.8 and together[4] == 0


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = dict(d_model=16, n_layers=2, n_heads=2, d_ff=32, max_len=64, chunk_len=4, n_hashes=2)
    return create("reformer", vocab_size=11, d_out=11, **{**sizes, **changes}).eval()


@pytest.mark.parametrize("attention", ["lsh", "local", "local-lsh"])
def test_later_tokens_change_no_bit_in_one_chunk(attention: str) -> None:
    """The registered exception of the contract is about several chunks; local attention needs none."""
    ours = model(attention=attention, chunk_len=4 if attention == "local" else 16)
    tokens = torch.randint(11, (2, 16))
    before = ours(tokens)
    for place in range(1, 16):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % 11
        after = ours(changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place:], before[:, place:])


def test_only_the_choice_of_chunks_looks_ahead() -> None:
    """Sorted in the same order, later steps change no bit of earlier ones."""
    (qk, v), place = qkv(32), 20
    real = torch.ones(1, 32, dtype=torch.bool)
    order, _ = sort_by_bucket(hash_buckets(qk, torch.randn(2, 2, 4, 4)), real, 8)
    before = chunked_attention(qk, v, order, real, 4)
    qk[:, :, place:], v[:, :, place:] = torch.randn(2, 2, 12, 4), torch.randn(2, 2, 12, 4)
    after = chunked_attention(qk, v, order, real, 4)
    assert torch.equal(after[:, :, :place], before[:, :, :place])


@pytest.mark.parametrize(("strict", "must"), [(True, "keep"), (False, "change")])
def test_what_comes_later_changes_nothing_where_hashing_is_strict(strict: bool, must: str) -> None:
    """Likelihoods multiply only if each is of the past alone. The paper's chunks are the twin that must fail."""
    ours = model(strict=strict, n_layers=3, n_heads=4, attention="local-lsh").double()
    tokens = torch.randint(11, (4, 64))
    before, moved = ours(tokens), 0.0
    for place in range(1, 64, 7):
        changed = tokens.clone()
        changed[:, place:] = torch.randint(11, (4, 64 - place))
        moved = max(moved, (ours(changed) - before)[:, :place].abs().max().item())
    assert moved < 1e-12 if must == "keep" else moved > 1e-3, moved


@pytest.mark.parametrize("strict", [True, False])
def test_padding_is_invisible_at_any_length(strict: bool) -> None:
    ours, tokens = model(strict=strict), torch.randint(11, (1, 61))
    mask = (torch.arange(61) < 23)[None]
    torch.testing.assert_close(ours(tokens, mask)[:, :23], ours(tokens[:, :23]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strict", [True, False])
def test_the_reversible_stack_is_the_ordinary_one(strict: bool) -> None:
    """Hashing included: the order of the first run is used again in the backward pass."""
    ours, tokens = model(strict=strict, n_layers=6, n_heads=4).double().train(), torch.randint(11, (2, 61))
    direction = torch.randn(2, 61, 11, dtype=torch.float64)
    gradients = []
    for run in (None, ordinary):
        ours.zero_grad()
        if run is None:
            y = ours(tokens)
        else:
            h = ours.input(tokens) + ours.positions(torch.arange(61))
            y = ours.output(ours.norm(torch.cat(run(ours.blocks, h, h), dim=-1)))
        (y * direction).sum().backward()
        gradients.append([p.grad.clone() for p in ours.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)), rtol=1e-4)


def test_memory_of_training_is_flat_in_depth_and_near_linear_in_length() -> None:
    def peak(length: int, depth: int) -> int:
        ours = model(n_layers=depth, d_model=32, d_ff=64, chunk_len=16, max_len=length).train()
        tokens = torch.randint(11, (1, length))
        ours(tokens).sum().backward()
        return peak_bytes(lambda: ours(tokens).sum().backward())

    depths, lengths = [2, 4, 8], [256, 512, 1024]
    assert exponent(depths, [peak(512, depth) for depth in depths]) < 0.15
    assert exponent(lengths, [peak(length, 1) for length in lengths]) < 1.2


def test_more_hashes_begin_with_the_same_ones() -> None:
    ours = model()
    more = ours.with_hashes(5)
    few, many = (m.blocks[1].f.attention.rotations for m in (ours, more))
    assert many.shape[0] == 5 and torch.equal(many[:2], few)
    assert torch.equal(more.with_hashes(2).blocks[1].f.attention.rotations, few)
    tokens = torch.randint(11, (1, 40))
    assert torch.equal(more.with_hashes(2)(tokens), ours(tokens)) and not torch.equal(more(tokens), ours(tokens))


@pytest.mark.parametrize("changes", [{"n_buckets": 3}, {"chunk_len": 0}, {"n_hashes": 0}, {"n_heads": 3}], ids=str)
def test_bad_sizes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        model(**changes)


def test_an_order_is_kept_small() -> None:
    for strict, shape in ((False, (1, 2, 2, 12)), (True, (2, 1, 2, 2, 12))):
        layer = LSHAttention(16, 2, 4, 2, 4, seed=0, across_rounds=False, strict=strict)
        _, plan = layer(torch.randn(1, 10, 16), None, None)
        assert plan.dtype == torch.int16 and plan.shape == shape
