"""Duplicates are found and splits do not leak: against brute force and against planted copies."""

from __future__ import annotations

import random

import pytest

from oliveira.data.dedupe import RELATED, Detector, Duplicates, jaccard, shingles
from oliveira.data.documents import Document
from oliveira.data.split import LeakageError, assign, position, refuse_leak, shared_shingles

WORDS = [f"palavra{i}" for i in range(500)]


def _text(seed: int, n: int = 300) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def _changed(text: str, share: float, seed: int) -> str:
    """A share of the text's words, in one run, replaced."""
    words, n = text.split(), round(len(text.split()) * share)
    return " ".join([*words[: len(words) - n], *random.Random(seed).choices(WORDS, k=n)])


def _find(texts: list[str], near: float = 0.8) -> Duplicates:
    detector = Detector()
    for text in texts:
        detector.add(text)
    return detector.find([Document(str(i), text) for i, text in enumerate(texts)], near)


def test_shingles_and_jaccard_are_the_set_definitions() -> None:
    left, right = "a b c d e f g", "b c d e f g h"
    sets = [{tuple(t.split()[i : i + 5]) for i in range(3)} for t in (left, right)]
    assert len(shingles(left)) == len(sets[0])
    assert jaccard(shingles(left), shingles(right)) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert len(shingles("")) == 0
    assert len(shingles("só duas")) == 1


def test_exact_copies_differ_only_in_case_and_punctuation() -> None:
    text = _text(0)
    found = _find([text, _text(1), text.upper() + "!", "😀", "😀 ", ""])
    assert [pair for pair in found.exact if pair[0] == 2] == [(2, 0)]
    assert found.kept[:2] == [0, 1]


def test_near_copies_are_those_of_brute_force() -> None:
    """40 texts with copies at every degree of similarity: the same pairs as comparing all with all."""
    texts = [_text(i) for i in range(20)]
    texts += [
        _changed(texts[i], share, 100 + i) for i, share in enumerate([0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4])
    ]
    sets = [shingles(text) for text in texts]
    for threshold in (0.9, 0.8, 0.5):
        expected = [
            right
            for right in range(len(texts))
            if any(jaccard(sets[left], sets[right]) >= threshold for left in range(right))
        ]
        found = _find(texts, threshold)
        assert [dropped for dropped, _, _ in found.near] == expected
        assert all(share >= threshold for _, _, share in found.near)
    related = [
        (left, right)
        for left in range(len(texts))
        for right in range(left)
        if jaccard(sets[left], sets[right]) >= RELATED
    ]
    groups = _find(texts, 1.0).group
    assert len(related) >= 7
    assert all(groups[left] == groups[right] for left, right in related)
    assert len(set(groups.values())) == len(texts) - len(related)


def test_a_crowd_of_equal_texts_is_not_compared_all_with_all() -> None:
    base = _text(0)
    found = _find([_changed(base, 0.01, seed) for seed in range(300)])
    assert len(found.kept) <= 3


def test_assign_is_by_group_and_stays_when_documents_come() -> None:
    groups = {f"d{i}": f"d{i - i % 2}" for i in range(400)}
    first = assign(groups, seed=0, validation=0.1, test=0.1)
    assert all(first[f"d{i}"] == first[f"d{i - i % 2}"] for i in range(400))
    assert 8 <= sum(side == "validation" for side in first.values()) / 2 <= 35
    more = assign(groups | {f"e{i}": f"e{i}" for i in range(400)}, seed=0, validation=0.1, test=0.1)
    assert {name: more[name] for name in first} == first
    assert assign(groups, seed=1, validation=0.1, test=0.1) != first


@pytest.mark.parametrize("n", [3, 4, 7])
def test_no_split_is_empty_from_three_groups_on(n: int) -> None:
    for seed in range(30):
        sides = assign({str(i): str(i) for i in range(n)}, seed=seed, validation=0.01, test=0.3)
        assert set(sides.values()) == {"train", "validation", "test"}


def test_positions_are_uniform() -> None:
    places = [position(0, str(i)) for i in range(2000)]
    assert min(places) >= 0 and max(places) < 1
    assert sum(place < 0.25 for place in places) == pytest.approx(500, abs=80)


def test_a_planted_document_is_refused() -> None:
    sides = {"train": [_text(0), _text(1)], "validation": [_text(2)], "test": [_text(3)]}
    refuse_leak(sides)
    with pytest.raises(LeakageError, match="train and in test"):
        refuse_leak(sides | {"test": [_text(1)]})


def test_shared_shingles_counts_planted_runs() -> None:
    held_out = _text(0)
    assert shared_shingles([held_out], [_text(1)]) == 0
    assert shared_shingles([held_out], [_text(1), held_out]) == 1
    half = " ".join(held_out.split()[:156])
    assert shared_shingles([held_out], [half, _text(1)]) == pytest.approx(144 / 288)
    assert shared_shingles([], [held_out]) == 0
