"""Counting models against a slow twin written from the equations, compressors against their definition."""

from __future__ import annotations

import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from oliveira.tasks import baselines

V = 7


def _stream(seed: int, n: int) -> np.ndarray:
    """Tokens with some order in them: each often follows its predecessor + 1."""
    random = np.random.default_rng(seed)
    tokens = [0]
    for _ in range(n):
        tokens.append(int((tokens[-1] + 1) % V if random.random() < 0.6 else random.integers(V)))
    return np.array(tokens[1:], dtype=np.uint16)


class Slow:
    """Interpolated Kneser-Ney by dictionaries and recursion, straight from the equations."""

    def __init__(self, tokens: list[int], order: int) -> None:
        padded = [0] * (order - 1) + tokens
        grams = Counter(tuple(padded[i : i + order]) for i in range(len(tokens)))
        self.counts: dict[int, Counter[tuple[int, ...]]] = {order: grams}
        for k in range(order - 1, 0, -1):
            self.counts[k] = Counter(gram[1:] for gram in self.counts[k + 1])
        self.discount = {}
        self.followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for k, counts in self.counts.items():
            n1, n2 = (sum(c == n for c in counts.values()) for n in (1, 2))
            self.discount[k] = n1 / (n1 + 2 * n2) if n1 else 0.5
            for gram, count in counts.items():
                self.followers[gram[:-1] if k > 1 else ()].append(count)

    def p(self, word: int, context: tuple[int, ...]) -> float:
        k = len(context) + 1
        below = self.p(word, context[1:]) if context else 1 / V
        found = self.followers.get(context)
        if not found:
            return below
        d = self.discount[k]
        own = max(self.counts[k][(*context, word)] - d, 0)
        return (own + d * len(found) * below) / sum(found)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 9, 400])
def test_kneser_ney_equals_the_slow_twin(order: int, size: int) -> None:
    train, held_out = _stream(1, size), _stream(2, 60)
    slow = Slow([int(t) for t in train], order)
    padded = [0] * (order - 1) + [int(t) for t in held_out]
    expected = [slow.p(padded[i + order - 1], tuple(padded[i : i + order - 1])) for i in range(len(held_out))]
    np.testing.assert_allclose(baselines.kneser_ney_probabilities(train, held_out, V, order), expected, rtol=1e-12)


def test_kneser_ney_is_a_distribution_after_any_context() -> None:
    train, random = _stream(3, 500), np.random.default_rng(0)
    for _ in range(20):
        context = random.integers(V, size=4).astype(np.uint16)
        p = [baselines.kneser_ney_probabilities(train, np.append(context, np.uint16(w)), V, 5)[-1] for w in range(V)]
        assert min(p) > 0
        assert sum(p) == pytest.approx(1, abs=1e-12)


def test_a_longer_memory_helps_on_text_with_order_and_not_on_noise() -> None:
    train, held_out = _stream(4, 20_000), _stream(5, 2_000)
    bits = [baselines.kneser_ney(train, held_out, len(held_out), V, order=order) for order in (1, 2)]
    assert bits[1] < bits[0] - 0.3
    noise = np.random.default_rng(1).integers(V, size=22_000).astype(np.uint16)
    noise_bits = baselines.kneser_ney(noise[:20_000], noise[20_000:], 2_000, V, order=2)
    assert noise_bits == pytest.approx(math.log2(V), abs=0.05)


def test_held_out_tokens_teach_nothing() -> None:
    train = _stream(6, 300)
    first = baselines.kneser_ney_probabilities(train, _stream(7, 50), V)
    longer = baselines.kneser_ney_probabilities(train, np.concatenate([_stream(7, 50), _stream(7, 50)]), V)
    np.testing.assert_array_equal(first, longer[:50])


def test_unigram_by_hand() -> None:
    train, held_out = np.array([1, 1, 2], dtype=np.uint16), np.array([1, 3], dtype=np.uint16)
    bits = -math.log2(3 / 7) - math.log2(1 / 7)  # V = 4: (2 + 1) / (3 + 4) and (0 + 1) / (3 + 4)
    assert baselines.unigram(train, held_out, 10, 4) == pytest.approx(bits / 10)


def test_large_vocabularies_do_not_overflow() -> None:
    train = np.array([64_999, 64_998, 64_997] * 50, dtype=np.uint16)
    assert baselines.kneser_ney(train, train, 150, 65_000) < 0.2


def test_compressors() -> None:
    random = np.random.default_rng(0)
    train = bytes(random.integers(97, 123, size=20_000, dtype=np.uint8))
    held_out = bytes(random.integers(97, 123, size=4_000, dtype=np.uint8))
    assert baselines.xz(held_out) == 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / 4_000
    assert baselines.conditional_xz(train, held_out) > 4.5, "letters at random cost log2 26 = 4.70 bits"
    assert baselines.conditional_xz(train, train[:4_000]) < 0.5, "what was read before costs next to nothing"
