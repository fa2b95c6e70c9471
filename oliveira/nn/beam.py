"""Beam search: the most likely answers of a model that writes one token after another. No torch in it.

Papers: Graves 2012, arXiv:1211.3711 (§2.5); a beam that narrows as answers end: Sutskever et al. 2014, arXiv:1409.3215.

    score(y) = Σ_t log p(y_t | y_<t, source) / |y|^α                                     (|y| counts the end token)

Each step keeps the best `beam` continuations of a source; one that ends leaves the beam, which narrows by one. The best
score of those that ended is the answer. `beam = 1` is greedy decoding, token for token.

Shapes: source (B, S) int64; run(source (N, S), target (N, T)) → logits (N, T or more, V), N live hypotheses.
Complexity: at most max_len calls of `run`, each on up to B·beam rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def beam_search(
    run: Callable[[Array, Array], Array],
    source: Array,
    *,
    start: int,
    end: int,
    max_len: int,
    beam: int = 4,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """One answer a source, without its `start` and `end` tokens.

    `run` gives the logits of the token after each target step; step t counts only the target up to t, so it may pad
    the target to a fixed length and return more steps than it was given. It never gets more than `max_len` steps.
    An answer that has not ended after `max_len` tokens is cut there, and is returned only if no other one ended.
    `length_penalty` is α: 0 compares plain probabilities, which favours short answers.
    """
    if beam < 1 or max_len < 1:
        raise ValueError(f"beam = {beam} and max_len = {max_len}: both must be at least 1.")
    count = len(source)
    room = np.full(count, beam)  # hypotheses that a source may still keep alive
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    rows = np.arange(count)  # (N,) the source of each live hypothesis, in order
    scores = np.zeros(count)  # (N,) Σ log p
    target = np.full((count, 1), start, dtype=np.int64)  # (N, T)
    for length in range(1, max_len + 1):
        if not len(rows):
            break
        logits = run(source[rows], target)[:, length - 1].astype(np.float64)  # (N, V)
        totals = scores[:, None] + _log_softmax(logits)
        parents, tokens, kept = [], [], []
        for row in np.unique(rows):
            mine = np.flatnonzero(rows == row)
            flat = totals[mine].ravel()
            for place in _best(flat, room[row]):
                parent, token = mine[place // logits.shape[1]], int(place % logits.shape[1])
                if token == end:
                    ended[row].append((flat[place] / length**length_penalty, target[parent, 1:].tolist()))
                    room[row] -= 1
                else:
                    parents.append(parent)
                    tokens.append(token)
                    kept.append(flat[place])
        chosen = np.array(parents, dtype=np.int64)
        rows, scores = rows[chosen], np.array(kept)
        target = np.concatenate([target[chosen], np.array(tokens, dtype=np.int64)[:, None]], axis=1)
    for row in range(count):
        if not ended[row]:
            ended[row] = [(scores[n], target[n, 1:].tolist()) for n in np.flatnonzero(rows == row)]
    return [max(answers, key=lambda answer: answer[0])[1] for answers in ended]


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _best(values: Array, count: int) -> Array:
    """Places of the `count` largest values, best first; of equal ones the first."""
    count = min(count, len(values))
    if count == 1:
        return np.array([values.argmax()])
    near = np.argpartition(-values, count - 1)[:count]
    return near[np.lexsort((near, -values[near]))]
