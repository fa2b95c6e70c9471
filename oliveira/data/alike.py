"""Which pictures are copies of each other: identical, resized, saved again with another quality.

    a_i = 1 where a of 8 × 8 is above its mean          average hash, 64 bits in four bands of 16
    copies: one band is the same, and mean (p − q)² ≤ 0.02 · (var p + var q) / 2 + 1, p, q of 16 × 16 in colour

The bands only say what to compare; in one that very many share, each picture is compared with those nearest to it in
brightness. What resembles one picture of a group is of the group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # of the pictures that are compared
_SHARE, _ROUNDING = 0.02, 1.0
_NEAREST = 32  # of a band, in order of brightness


def groups_of(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, SIDE, SIDE, 3) → the number of the first picture of each one's group, (N,)."""
    seen: dict[bytes, int] = {}
    first = np.array([seen.setdefault(picture.tobytes(), place) for place, picture in enumerate(pictures)])
    once = np.unique(first)  # what is identical needs no comparison
    return once[_leaders(pictures[once])][np.searchsorted(once, first)]


def _leaders(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    count = len(pictures)
    rows = pictures.reshape(count, -1).astype(np.float32)
    brightness, variance = rows.mean(axis=1), rows.var(axis=1)
    leader = np.arange(count)

    def root(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = int(leader[place])
        return place

    for band in _bands(pictures).T:
        order = np.lexsort((brightness, band))
        for shift in range(1, _NEAREST + 1):
            left, right = order[:-shift], order[shift:]
            together = band[left] == band[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            for one, other in _alike(rows, variance, left, right):
                first, second = sorted((root(one), root(other)))
                leader[second] = first
    return np.array([root(place) for place in range(count)], dtype=np.int64)


def _bands(pictures: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(N, 4) the average hash in parts."""
    half = SIDE // 8
    grey = pictures.mean(axis=-1).reshape(len(pictures), 8, half, 8, half).mean(axis=(2, 4)).reshape(len(pictures), 64)
    bits = grey > grey.mean(axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint16)


def _alike(
    rows: NDArray[np.float32], variance: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64]
) -> list[tuple[int, int]]:
    found = []
    for part in range(0, len(left), 4096):
        one, other = left[part : part + 4096], right[part : part + 4096]
        distance = ((rows[one] - rows[other]) ** 2).mean(axis=1)
        near = distance <= _SHARE * (variance[one] + variance[other]) / 2 + _ROUNDING
        found += list(zip(one[near].tolist(), other[near].tolist(), strict=True))
    return found
