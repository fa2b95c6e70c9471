"""Which documents say the same: exactly, or nearly.

Near duplicates by MinHash with locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive
Datasets, ch. 3): a document is its set of word 5-shingles, P[min-hashes agree] = Jaccard similarity J, and
two documents become candidates when all ROWS min-hashes of one of BANDS bands agree:

    P[candidate | J] = 1 - (1 - J^ROWS)^BANDS                  (0.9976 at J = 0.3, 1 - 1e-28 at 0.8)

A candidate is dropped when the share of min-hashes that agree, an unbiased estimate of J with standard
deviation ≤ 0.045, is more than SLACK below what is looked for; the rest are verified by their exact J.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np

from oliveira.data.documents import Document

SHINGLE = 5  # words
BANDS, ROWS = 64, 2
RELATED = 0.3  # from this similarity on, two documents stay on one side of the split
SLACK = 0.15
_CHUNK = 1 << 14
_FULL_BUCKET = 32  # larger buckets are not compared all with all
_WORDS = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Duplicates:
    """`kept` in the order of the input; `group[i]` is equal for kept documents that must not be parted."""

    kept: list[int]
    group: dict[int, int]
    exact: list[tuple[int, int]]  # (dropped, kept)
    near: list[tuple[int, int, float]]  # (dropped, kept, Jaccard similarity)


def words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def shingles(text: str, size: int = SHINGLE) -> np.ndarray:
    """Sorted distinct 64-bit hashes of all runs of `size` words (of the whole text where it has fewer)."""
    hashes = np.array([_word_hash(word) for word in words(text)], dtype=np.uint64)
    if not len(hashes):
        return hashes
    size = min(size, len(hashes))
    rolled = np.zeros(len(hashes) - size + 1, dtype=np.uint64)
    for offset in range(size):
        rolled = _mix(rolled * _MULTIPLIER + hashes[offset : offset + len(rolled)])
    return np.unique(rolled)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def min_hashes(shingled: np.ndarray) -> np.ndarray:
    """(BANDS · ROWS,) uint32: for each of as many random orders, the first of the set."""
    random = np.random.default_rng(5)
    factors = random.integers(0, 1 << 63, size=BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    first = np.full(BANDS * ROWS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(shingled), _CHUNK):  # bounded memory: 16 MB
        ordered = (shingled[None, start : start + _CHUNK] * factors[:, None]) >> np.uint64(32)
        first = np.minimum(first, ordered.min(axis=1).astype(np.uint32))
    return first


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of sorted sets."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


class Detector:
    """Fed every document once, in order; keeps a few hundred bytes of each."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._signatures: list[np.ndarray] = []

    def add(self, text: str) -> None:
        normal = " ".join(words(text)) or text
        self._digests.append(hashlib.sha256(normal.encode()).digest())
        self._signatures.append(min_hashes(shingles(text)))

    def find(self, documents: Sequence[Document], near_duplicate: float) -> Duplicates:
        """`documents[i].text` must be the text of the i-th `add`."""
        first_with: dict[bytes, int] = {}
        exact: list[tuple[int, int]] = []
        unique: list[int] = []
        for index, digest in enumerate(self._digests):
            if digest in first_with:
                exact.append((index, first_with[digest]))
            else:
                first_with[digest] = index
                unique.append(index)
        looked_for = min(RELATED, near_duplicate)
        dropped: dict[int, tuple[int, float]] = {}
        links: list[tuple[int, int]] = []

        @lru_cache(maxsize=256)
        def shingled(index: int) -> np.ndarray:
            return shingles(documents[index].text)

        for left, right in self._candidates(unique):
            if np.mean(self._signatures[left] == self._signatures[right]) < looked_for - SLACK:
                continue
            similarity = jaccard(shingled(left), shingled(right))
            if similarity >= looked_for:
                links.append((left, right))
            if similarity >= near_duplicate and left not in dropped and right not in dropped:
                dropped[right] = (left, similarity)
        kept = [index for index in unique if index not in dropped]
        near = [(index, *dropped[index]) for index in sorted(dropped)]
        return Duplicates(kept, _groups(unique, links), exact, near)

    def _candidates(self, unique: list[int]) -> list[tuple[int, int]]:
        """Pairs (smaller, larger) in order. In a crowded bucket each meets only its predecessor and the
        first.
        """
        pairs: set[tuple[int, int]] = set()
        for band in range(BANDS):
            buckets: dict[bytes, list[int]] = defaultdict(list)
            for index in unique:
                buckets[self._signatures[index][band * ROWS : (band + 1) * ROWS].tobytes()].append(index)
            for members in buckets.values():
                if len(members) <= _FULL_BUCKET:
                    pairs.update(combinations(members, 2))
                else:
                    pairs.update(pairwise(members))
                    pairs.update((members[0], other) for other in members[1:])
        return sorted(pairs)


def _groups(members: Iterable[int], links: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Connected components: member → smallest member of its component."""
    parent = {index: index for index in members}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for left, right in links:
        a, b = sorted((root(left), root(right)))
        parent[b] = a
    return {index: root(index) for index in parent}
