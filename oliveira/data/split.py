"""Which documents are learnt from, which ones judge while learning and which one judges at the end.

Whole documents, by a hash of seed and name: a document keeps its side when others come or go. Documents that
resemble each other (`dedupe.RELATED`) take the side of the first of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from oliveira.data.dedupe import shingles
from oliveira.errors import OliveiraError

SPLITS = ("train", "validation", "test")
LEAK_SHINGLE = 13  # words, as in Brown et al. 2020 (GPT-3), appendix C
LEAK_FLAG = 0.05  # a larger share of known 13-word runs is pointed out in the report


class LeakageError(OliveiraError):
    """A document is on two sides of the split: every number measured on it would be a lie."""


def position(seed: int, name: str) -> float:
    """A fixed pseudo-random place in [0, 1) for a document."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "little") / (1 << 56)


def assign(groups: Mapping[str, str], *, seed: int, validation: float, test: float) -> dict[str, str]:
    """Name → split, for `groups` of name → name of its group.

    A group whose position is below `validation` is validation, below `validation + test` test, else train.
    With at least three groups no split stays empty: the next group in order of position is taken instead.
    """
    order = sorted(set(groups.values()), key=lambda group: (position(seed, group), group))
    places = [position(seed, group) for group in order]
    n_validation = sum(place < validation for place in places)
    n_test = sum(validation <= place < validation + test for place in places)
    if len(order) >= 3:
        n_validation = min(max(n_validation, 1), len(order) - 2)
        n_test = min(max(n_test, 1), len(order) - 1 - n_validation)
    of_group = {
        group: "validation" if rank < n_validation else "test" if rank < n_validation + n_test else "train"
        for rank, group in enumerate(order)
    }
    return {name: of_group[group] for name, group in groups.items()}


def assign_within(
    labels: Mapping[str, str], groups: Mapping[str, str], *, seed: int, validation: float, test: float
) -> dict[str, str]:
    """Name → split as `assign` does, of each label apart: it has about the same shares in every split.

    A group with several labels goes where that of its first name sends it.
    """
    label_of: dict[str, str] = {}
    for name, group in groups.items():
        label_of.setdefault(group, labels[name])
    split_of: dict[str, str] = {}
    for label in sorted(set(label_of.values())):
        members = {name: group for name, group in groups.items() if label_of[group] == label}
        split_of |= assign(members, seed=seed, validation=validation, test=test)
    return split_of


def refuse_leak(texts: Mapping[str, Iterable[str]]) -> None:
    """Raises `LeakageError` when one text is in two splits. `texts`: split → its texts."""
    side: dict[bytes, str] = {}
    for split, members in texts.items():
        for text in members:
            digest = hashlib.sha256(text.encode()).digest()
            if side.setdefault(digest, split) != split:
                raise LeakageError(f"a document is in {side[digest]} and in {split}: {text[:60]!r}")


def shared_shingles(held_out: Iterable[str], train: Iterable[str]) -> float:
    """Share of the 13-word runs of `held_out` that occur in `train` (a run counts once in each document).

    Memory: 17 bytes for each run of `held_out`.
    """
    runs = [shingles(text, LEAK_SHINGLE) for text in held_out]
    wanted, times = np.unique(np.concatenate([*runs, np.empty(0, dtype=np.uint64)]), return_counts=True)
    if not len(wanted):
        return 0.0
    known = np.zeros(len(wanted), dtype=bool)
    for text in train:
        found = shingles(text, LEAK_SHINGLE)
        place = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
        known[place[wanted[place] == found]] = True
    return float(np.average(known, weights=times))
