"""Beam search against every possible answer, and against greedy decoding."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from oliveira.nn.beam import beam_search

START, END, VOCABULARY = 0, 1, 4
Array = Any


def model(seed: int, spread: float = 1.0, fixed: int = 0) -> Any:
    """Logits that hang on the source and on every token so far; `fixed`: the target is padded to so many steps."""

    def logits(source: Array, target: Array) -> Array:
        steps = max(fixed, target.shape[1])
        made = np.zeros((len(target), steps, VOCABULARY))
        for row, (words, prefix) in enumerate(zip(source, target, strict=True)):
            for t in range(steps):
                key = [seed, *words.tolist(), 99, *prefix[: t + 1].tolist(), t]
                made[row, t] = spread * np.random.default_rng(key).normal(size=VOCABULARY)
        return made

    return logits


def log_softmax(row: Array) -> Array:
    return row - np.log(np.exp(row).sum())


def score(run: Any, source: Array, answer: list[int], alpha: float) -> float:
    target = np.array([[START, *answer]])
    rows = run(source[None], target)[0]
    total = sum(log_softmax(row)[token] for row, token in zip(rows, [*answer, END], strict=True))
    return float(total) / (len(answer) + 1) ** alpha


def greedy(run: Any, source: Array, max_len: int) -> list[int]:
    answer: list[int] = []
    for _ in range(max_len):
        token = int(run(source[None], np.array([[START, *answer]]))[0, -1].argmax())
        if token == END:
            break
        answer.append(token)
    return answer


SOURCES = np.array([[5, 6, 7], [7, 6, 5], [5, 5, 5], [1, 2, 3]])


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    run = model(seed)
    expected = [greedy(run, source, 6) for source in SOURCES]
    assert beam_search(run, SOURCES, start=START, end=END, max_len=6, beam=1) == expected


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_answers(seed: int, alpha: float) -> None:
    """Answers of up to 3 tokens over 3 letters, beam wide enough to hold them all."""
    run = model(seed)
    letters = [token for token in range(VOCABULARY) if token != END]
    every = [list(answer) for n in range(4) for answer in itertools.product(letters, repeat=n)]
    got = beam_search(run, SOURCES, start=START, end=END, max_len=4, beam=200, length_penalty=alpha)
    for source, answer in zip(SOURCES, got, strict=True):
        best = max(every, key=lambda candidate: score(run, source, candidate, alpha))
        assert answer == best


def test_a_beam_sees_past_a_greedy_mistake() -> None:
    """First token 2 is a little likelier, but then nothing is; 3 leads to a certain end."""

    def run(source: Array, target: Array) -> Array:
        logits = np.zeros((*target.shape, VOCABULARY))
        logits[:, 0] = [-9.0, -9.0, 1.1, 1.0]
        for row in range(len(target)):
            if target.shape[1] > 1:
                logits[row, 1:] = [-9.0, 9.0, -9.0, -9.0] if target[row, 1] == 3 else [0.0, 0.1, 0.0, 0.0]
        return logits

    one = dict(start=START, end=END, max_len=5)
    assert beam_search(run, SOURCES[:1], **one, beam=1) == [[2]]
    assert beam_search(run, SOURCES[:1], **one, beam=2) == [[3]]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_is_its_rows(beam: int) -> None:
    run = model(11)
    options = dict(start=START, end=END, max_len=7, beam=beam)
    alone = [beam_search(run, SOURCES[row : row + 1], **options)[0] for row in range(len(SOURCES))]
    assert beam_search(run, SOURCES, **options) == alone


def test_run_may_pad_the_target() -> None:
    """An exported graph of fixed length answers as one of free length does."""
    options = dict(start=START, end=END, max_len=6, beam=3)
    free, fixed = model(2), model(2, fixed=6)
    assert beam_search(free, SOURCES, **options) == beam_search(fixed, SOURCES, **options)


def test_an_answer_without_end_is_cut() -> None:
    lengths = []

    def run(source: Array, target: Array) -> Array:
        lengths.append(target.shape[1])
        return np.broadcast_to(np.array([0.0, -50.0, 1.0, 0.0]), (*target.shape, VOCABULARY))

    assert beam_search(run, SOURCES[:1], start=START, end=END, max_len=5, beam=2) == [[2] * 5]
    assert lengths == [1, 2, 3, 4, 5]


def test_length_penalty_by_arithmetic() -> None:
    """`[]` has p = 0.4; `[2]` has p = 0.6 · 0.5 = 0.3: √0.3 > 0.4 > 0.3."""

    def run(source: Array, target: Array) -> Array:
        rows = {1: [1e-9, 0.4, 0.6 - 1e-9, 1e-9], 2: [0.25, 0.5, 0.125, 0.125]}
        logits = np.zeros((*target.shape, VOCABULARY))
        logits[:, -1] = np.log(rows[target.shape[1]])
        return logits

    options = dict(start=START, end=END, max_len=2, beam=2)
    assert math.sqrt(0.3) > 0.4 > 0.3
    assert beam_search(run, SOURCES[:1], **options, length_penalty=0.0) == [[]]
    assert beam_search(run, SOURCES[:1], **options, length_penalty=1.0) == [[2]]


@pytest.mark.parametrize("wrong", [dict(beam=0, max_len=3), dict(beam=2, max_len=0)])
def test_refuses_an_empty_beam(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        beam_search(model(0), SOURCES, start=START, end=END, **wrong)
