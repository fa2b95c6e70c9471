"""How the examples of each probe are made: `make(random, count)` gives `count` of them, and nothing is stored.

A target of `IGNORED` asks nothing at that step. Checked against: a slow reading of each rule, in tests/unit.
"""

from __future__ import annotations

import random as python_random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oliveira.training.loss import IGNORED

Array = NDArray[Any]


class Examples(NamedTuple):
    inputs: tuple[Array, ...]  # a model's arguments, in order
    targets: Array  # int64 classes, or float32 numbers


Make = Callable[[np.random.Generator, int], Examples]

ADDING_STEPS = 100


def adding(random: np.random.Generator, count: int) -> Examples:
    """Hochreiter & Schmidhuber 1997, in the form of Le et al. 2015, arXiv:1504.00941: the sum of two marked numbers.

    Column 0 holds uniform numbers of [0, 1), column 1 a 1 at one step of each half. x (B, 100, 2) → (B, 1).
    """
    x = np.zeros((count, ADDING_STEPS, 2), dtype=np.float32)
    x[:, :, 0] = random.random((count, ADDING_STEPS))
    half, rows = ADDING_STEPS // 2, np.arange(count)
    places = random.integers(0, half, size=(count, 2)) + half * np.arange(2)
    x[rows[:, None], places, 1] = 1
    return Examples((x,), (x[:, :, 0] * x[:, :, 1]).sum(axis=1, keepdims=True))


WALK_STEPS, WALK_SYMBOLS = 32, 96


def next_larger(random: np.random.Generator, count: int) -> Examples:
    """Is the next symbol larger? The symbols are a walk of steps ±1 that never meets an edge, so that what came before
    says nothing of what comes: 1/2 is the best that a model without a look ahead can do. (B, 32) → (B, 32) of 0 and 1.
    """
    up = random.integers(0, 2, size=(count, WALK_STEPS - 1))
    first = random.integers(WALK_STEPS, WALK_SYMBOLS - WALK_STEPS, size=(count, 1))
    tokens = np.concatenate([first, first + (2 * up - 1).cumsum(axis=1)], axis=1)
    return Examples((tokens,), np.pad(up, ((0, 0), (0, 1)), constant_values=IGNORED))


PADDING, BEGIN, END, FIRST_LETTER, LETTERS = 0, 1, 2, 3, 26
SHORTEST, LONGEST = 10, 20


def reverse(random: np.random.Generator, count: int) -> Examples:
    """Strings of 10 to 20 letters, to be written backwards: the alignment of Bahdanau et al. 2015 is the anti-diagonal.

    source (B, S), target (B, S + 1) after `BEGIN`, mask (B, S) → targets (B, S + 1) closed by `END`.
    """
    lengths = random.integers(SHORTEST, LONGEST + 1, size=count)
    letters = random.integers(FIRST_LETTER, FIRST_LETTER + LETTERS, size=(count, lengths.max()))
    place = np.arange(lengths.max() + 1)
    mask = place[:-1] < lengths[:, None]
    source = np.where(mask, letters, PADDING)
    from_end = np.clip(lengths[:, None] - 1 - place, 0, None)
    turned = np.take_along_axis(source, from_end, axis=1)  # (B, S + 1), right up to each length
    written = place < lengths[:, None]
    targets = np.where(written, turned, np.where(place == lengths[:, None], END, IGNORED))
    target = np.concatenate([np.full((count, 1), BEGIN), np.where(written, turned, PADDING)[:, :-1]], axis=1)
    return Examples((source, target, mask), targets)


COPY_STEPS, COPY_COUNT, COPY_SYMBOLS = 64, 8, 16
NOISE, SLOT = 0, 1


def selective_copying(random: np.random.Generator, count: int) -> Examples:
    """Gu & Dao 2023, arXiv:2312.00752 §4.1.1: 8 letters lie scattered in 64 steps of noise.

    8 slots at the end ask for them in order. (B, 72) → (B, 72), asked at the last 8 steps.
    """
    letters = random.integers(SLOT + 1, COPY_SYMBOLS, size=(count, COPY_COUNT))
    tokens = np.full((count, COPY_STEPS + COPY_COUNT), SLOT)
    tokens[:, :COPY_STEPS] = NOISE
    np.put_along_axis(tokens, _places(random, count, COPY_COUNT, COPY_STEPS), letters, axis=1)
    targets = np.full_like(tokens, IGNORED)
    targets[:, COPY_STEPS:] = letters
    return Examples((tokens,), targets)


INDUCTION_STEPS, INDUCTION_SYMBOLS = 64, 16
KEY = 0


def induction(random: np.random.Generator, count: int) -> Examples:
    """Olsson et al. 2022, arXiv:2209.11895, as posed by Gu & Dao 2023 §4.1.2: what followed the key?

    It stands once at a random place and again at the end. (B, 64) → (B, 64), asked at the last step.
    """
    tokens = random.integers(KEY + 1, INDUCTION_SYMBOLS, size=(count, INDUCTION_STEPS))
    places, rows = random.integers(0, INDUCTION_STEPS - 2, size=count), np.arange(count)
    tokens[rows, places] = KEY
    tokens[:, -1] = KEY
    targets = np.full_like(tokens, IGNORED)
    targets[:, -1] = tokens[rows, places + 1]
    return Examples((tokens,), targets)


WORD, WORD_SYMBOLS = 31, 64


def duplication(random: np.random.Generator, count: int) -> Examples:
    """Kitaev et al. 2020, arXiv:2001.04451 §5: 0w0w, the second w to be foretold; w is 31 symbols of 1 … 63.

    (B, 64) → (B, 64), asked from the second 0 on.
    """
    half = np.concatenate(
        [np.zeros((count, 1), dtype=np.int64), random.integers(1, WORD_SYMBOLS, (count, WORD))], axis=1
    )
    targets = np.full((count, 2 * WORD + 2), IGNORED)
    targets[:, WORD + 1 : -1] = half[:, 1:]
    return Examples((np.tile(half, (1, 2)),), targets)


LISTOPS = ("padding", *"0123456789", "[MAX", "[MIN", "[MED", "[SM", "]")
LISTOPS_LENGTHS, LISTOPS_DEPTH = (10, 100), 4
_DIGIT, _CLOSE = 1, LISTOPS.index("]")
_OPERATORS: dict[int, Callable[[list[int]], int]] = {
    LISTOPS.index("[MAX"): max,
    LISTOPS.index("[MIN"): min,
    LISTOPS.index("[MED"): lambda values: int(np.median(values)),  # the lower whole number of an even count's mean
    LISTOPS.index("[SM"): lambda values: sum(values) % 10,
}


def listops(random: np.random.Generator, count: int) -> Examples:
    """Nangia & Bowman 2018, arXiv:1804.06028, short: [MAX 2 9 [MIN 4 7 ] 0 ] is 9. 10 to 100 tokens, depth up to 4.

    tokens (B, T), mask (B, T) → (B,) of 0 … 9.
    """
    dice = python_random.Random(int(random.integers(1 << 62)))
    rows: list[list[int]] = []
    values: list[int] = []
    while len(rows) < count:
        tokens: list[int] = []
        value = _expression(dice, LISTOPS_DEPTH, tokens)
        if LISTOPS_LENGTHS[0] <= len(tokens) <= LISTOPS_LENGTHS[1]:
            rows.append(tokens)
            values.append(value)
    padded = np.zeros((count, max(map(len, rows))), dtype=np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    return Examples((padded, padded != 0), np.array(values))


def _expression(dice: python_random.Random, depth: int, tokens: list[int]) -> int:
    """Appends one operation of at most `depth` levels to `tokens`; its value."""
    operator = dice.choice(list(_OPERATORS))
    tokens.append(operator)
    values: list[int] = []
    for _ in range(dice.randint(2, 5)):
        if depth > 1 and dice.random() < 0.4:
            values.append(_expression(dice, depth - 1, tokens))
        else:
            values.append(dice.randrange(10))
            tokens.append(_DIGIT + values[-1])
    tokens.append(_CLOSE)
    return _OPERATORS[operator](values)


NEEDLE_STEPS, NEEDLE_NEAREST, NEEDLES, HAY = 1000, 250, 4, 16
NEEDLE_SYMBOLS = HAY + NEEDLES + NEEDLES**2


def needle(random: np.random.Generator, count: int) -> Examples:
    """Step 0 asks for one of 4 keys; the 4 needles (key, value), each value once, lie 250 to 999 steps away.

    Tokens: 0 … 15 hay, 16 + k the question for key k, 20 + 4 k + v the needle (k, v). The class is the v of the key
    asked for. Question and needles must meet inside the model: a mean over steps that have not met says nothing (1/4).
    (B, 1000) → (B,) of 0 … 3.
    """
    tokens = random.integers(0, HAY, size=(count, NEEDLE_STEPS))
    asked = random.integers(0, NEEDLES, size=count)
    values = random.random((count, NEEDLES)).argsort(axis=1)  # value of each key
    needles = HAY + NEEDLES + NEEDLES * np.arange(NEEDLES) + values
    tokens[:, 0] = HAY + asked
    places = _places(random, count, NEEDLES, NEEDLE_STEPS - NEEDLE_NEAREST) + NEEDLE_NEAREST
    np.put_along_axis(tokens, random.permuted(places, axis=1), needles, axis=1)
    return Examples((tokens,), values[np.arange(count), asked])


FUNCTIONS = 8
_ANGLE = 2 * np.pi * np.arange(FUNCTIONS) / FUNCTIONS
_CENTRES = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], axis=1)
_FREQUENCIES = np.pi * np.array([1, 3, 2, 4, 1.5, 3.5, 2.5, 4.5])
_PHASES = np.array([0.0, 1.1, 2.3, 0.4, 1.7, 2.9, 0.8, 2.0])


def functions(random: np.random.Generator, count: int) -> Examples:
    """Eight sine waves of s, one a region of the plane: x = (place, s), place near one of 8 points of the unit circle.

    What a mixture of experts is for: choose by place, compute from s. x (B, 1, 3) → (B, 1).
    """
    which = random.integers(0, FUNCTIONS, size=count)
    s = random.uniform(-1, 1, size=count)
    place = _CENTRES[which] + random.normal(0, 0.1, size=(count, 2))
    x = np.concatenate([place, s[:, None]], axis=1)[:, None].astype(np.float32)
    y = np.sin(_FREQUENCIES[which] * s + _PHASES[which])
    return Examples((x,), y[:, None].astype(np.float32))


def _places(random: np.random.Generator, count: int, places: int, steps: int) -> Array:
    """(count, places) different steps of range(steps), in order."""
    return np.sort(random.random((count, steps)).argsort(axis=1)[:, :places], axis=1)
