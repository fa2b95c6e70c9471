"""A draft reads a text in pieces: however long it is, a step waits for 64 of its tokens at most."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from oliveira.kernels.decoder import Decoder, Run
from oliveira.serving.engine.speculation import AT_ONCE, READ_AT_ONCE, DraftModel, Speculator

V = 50


class Counting(Decoder):
    """Says that the next token is one more than the last. Refuses what is not read in order."""

    def __init__(self) -> None:
        self.config: Any = SimpleNamespace(max_len=4096, vocab_size=V + 10)
        self.block_size, self.cache_dtype = 1, torch.float32
        self.there: dict[tuple[int, ...], list[int]] = {}
        self.read = 0

    def step(self, runs: Sequence[Run]) -> Tensor:
        logits = []
        for run in runs:
            known = self.there.setdefault(tuple(run.table), [])
            assert run.position <= len(known)
            known[run.position :] = run.tokens
            self.read += len(run.tokens)
            row = torch.zeros(V + 10)
            row[(run.tokens[-1] + 1) % V] = 1.0
            row[V:] = 9.0  # the tokenizer does not know these
            logits += [row] * run.wanted
        return torch.stack(logits) if logits else torch.empty(0, V + 10)


class Text:
    def __init__(self, length: int) -> None:
        self.tokens, self.guessing = [i % V for i in range(length)], None


def test_a_long_text_is_read_in_pieces_and_then_guessed() -> None:
    decoder = Counting()
    draft = DraftModel(decoder, slots=4, n_tokens=V)
    texts: list[Any] = [Text(1000), Text(3), Text(130), Text(700)]
    began: dict[int, int] = {}
    for step in range(60):
        before = decoder.read
        guesses = draft.guess(texts, [4] * 4)
        assert decoder.read - before <= READ_AT_ONCE + 4 * 4
        for i, guess in enumerate(guesses):
            if guess:
                began.setdefault(i, step)
                assert guess == [(texts[i].tokens[-1] + 1 + j) % V for j in range(4)]
                assert decoder.there[tuple(texts[i].guessing[0])][: len(texts[i].tokens)] == texts[i].tokens
            texts[i].tokens.append((texts[i].tokens[-1] + 1) % V)
    assert began[1] == 0 and began[2] <= 3 and began.keys() == {0, 1, 2, 3}
    for text in texts:
        draft.forget(text)
    assert len(draft.pool.free) == len(draft.pool.blocks)


def test_an_attempt_reads_one_piece() -> None:
    """Where guesses have stopped paying: one text is tried, and reading it takes as many steps as it has pieces."""
    decoder = Counting()
    speculator = Speculator(DraftModel(decoder, slots=4, n_tokens=V), 0.3, draft=0.2)
    speculator.right = 0.0
    texts: list[Any] = [Text(600), Text(300), Text(900)]
    guessed = []
    for step in range(10):
        before = decoder.read
        guesses = speculator.guess(texts, [3000] * 3)
        assert decoder.read - before <= READ_AT_ONCE + AT_ONCE
        guessed += [(step, i) for i, guess in enumerate(guesses) if guess]
        for text in texts:
            text.tokens.append(0)
    assert guessed and guessed[0] == (300 // READ_AT_ONCE, 1)
