"""Guesses at the next tokens, checked by the model in one step (Leviathan et al. 2023, arXiv:2211.17192).

Every position is sampled from the model's own logits, with the stream's own chance, as without guesses; a guess only
decides whether the logits of the position after it are of use. So the text is the same, token by token, whatever is
guessed, if the decoder is exact (`Decoder.exact`).

Who guesses: `LookUp`, what followed the last tokens when they last occurred in this very text (prompt look-up, Saxena
2023), or `DraftModel`, a smaller model with the same tokenizer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from oliveira.errors import UserError
from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder, Run

LONGEST, SHORTEST = 4, 2  # tokens that must have occurred before
AT_ONCE = 8  # tokens guessed for a stream and step
AGAIN = 64  # steps without guesses before the next attempt: texts change


class Text(Protocol):
    tokens: list[int]
    guessing: Any  # what the guesser knows of this text


class Guesser(Protocol):
    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        """For each text, up to so many tokens that may follow."""
        ...

    def forget(self, text: Text) -> None: ...


class LookUp:
    """Looks for the last 4, 3 or 2 tokens in the text itself: code, lists, quotations, answers about a document."""

    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        return [self._one(text, n) for text, n in zip(texts, at_most, strict=True)]

    @staticmethod
    def _one(text: Text, n: int) -> list[int]:
        if text.guessing is None:
            text.guessing = ({}, 1)
        ends, known = text.guessing  # n-gram → position after its last occurrence; tokens looked at
        tokens = text.tokens
        for end in range(known, len(tokens)):  # the last token is the question, not the answer
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                ends[tuple(tokens[end - length : end])] = end
        text.guessing = (ends, max(known, len(tokens)))
        for length in range(LONGEST, SHORTEST - 1, -1):
            if (end := ends.get(tuple(tokens[-length:]))) is not None:
                return tokens[end : end + n]
        return []

    def forget(self, text: Text) -> None:
        text.guessing = None


class DraftModel:
    """The most likely continuation by a smaller model, which keeps keys and values of its own."""

    def __init__(self, decoder: Decoder, *, slots: int) -> None:
        self.decoder, self.max_len = decoder, decoder.config.max_len
        self.pool = BlockPool(decoder, slots * -(-self.max_len // POSITIONS))

    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        guesses: list[list[int]] = [[] for _ in texts]
        room = [min(n, self.max_len - len(text.tokens)) for text, n in zip(texts, at_most, strict=True)]
        for step in range(max(room, default=0)):
            who = [i for i, n in enumerate(room) if step < n]
            for i, token in zip(who, self._tokens([texts[i] for i in who], [guesses[i] for i in who]), strict=True):
                guesses[i].append(token)
        for text, guess in zip(texts, guesses, strict=True):
            if guess:  # the guesses may be wrong: they will be read again, from the first on
                text.guessing = (text.guessing[0], len(text.tokens))
        return guesses

    def _tokens(self, texts: list[Text], guesses: list[list[int]]) -> list[int]:
        """One more token for each text; what the model has not read of it yet is read first."""
        runs = []
        for text, guess in zip(texts, guesses, strict=True):
            if text.guessing is None:
                text.guessing = (self.pool.take(-(-self.max_len // POSITIONS)), 0)
            table, position = text.guessing
            new = [*text.tokens, *guess][position:]
            for start in range(0, max(len(new) - MAX_TOKENS, 0), MAX_TOKENS):
                self.decoder.step([Run(new[start : start + MAX_TOKENS], position + start, table, 0)])
            rest = len(new) % MAX_TOKENS or MAX_TOKENS
            runs.append(Run(new[-rest:], position + len(new) - rest, table, 1))
            text.guessing = (table, position + len(new))
        tokens: list[int] = []
        while runs:
            n = 1
            while n < len(runs) and sum(len(run.tokens) for run in runs[: n + 1]) <= MAX_TOKENS:
                n += 1
            tokens += self.decoder.step(runs[:n]).argmax(dim=-1).tolist()
            del runs[:n]
        return tokens

    def forget(self, text: Text) -> None:
        if text.guessing is not None:
            self.pool.give_back(text.guessing[0])
            text.guessing = None


class Speculator:
    """Guesses where it pays, as far as the guesses of late tell, and tries again now and then where it did not.

    `cost`: time of one more token in a step over the fixed time of a step. With S streams a right guess saves its
    stream's share 1/S of a later step; so guesses must be right more often than S · cost / (1 + S · cost).
    """

    def __init__(self, guesser: Guesser, cost: float, *, at_once: int = AT_ONCE) -> None:
        if cost < 0 or at_once < 1:
            raise UserError(f"cost = {cost}, at_once = {at_once}: give a cost of 0 or more and at least one token.")
        self.guesser, self.cost, self.at_once = guesser, cost, at_once
        self.right = 1.0  # share of the guessed tokens that were right, lately; hopeful at first
        self._idle = 0

    def guess(self, texts: Sequence[Text], room: Sequence[int]) -> list[list[int]]:
        """At most `room` tokens for each text; none where guessing does not pay."""
        load = len(texts) * self.cost
        if texts and self.right <= load / (1 + load):
            self._idle += 1
            if self._idle % AGAIN:
                return [[] for _ in texts]
        return self.guesser.guess(texts, [max(0, min(n, self.at_once)) for n in room])

    def learn(self, guessed: int, right: int) -> None:
        """`right` of the `guessed` tokens of one stream were what the model sampled."""
        if guessed:
            self.right += 0.05 * (right / guessed - self.right)


def step_seconds(decoder: Decoder, pool: BlockPool, *lengths: int, rounds: int = 7) -> list[float]:
    """Median seconds of a step with so many tokens of one stream, at most 16, measured in turn."""
    table = pool.take(1)
    spent: list[list[float]] = [[] for _ in lengths]
    try:
        for _ in range(rounds):
            for n, times in zip(lengths, spent, strict=True):
                started = time.perf_counter()
                decoder.step([Run([0] * n, 0, table, n)])
                times.append(time.perf_counter() - started)
    finally:
        pool.give_back(table)
    return [sorted(times)[rounds // 2] for times in spent]


def cost_of_a_guess(decoder: Decoder, pool: BlockPool) -> float:
    """`Speculator.cost`, without what the guessing itself takes."""
    longest = min(1 + AT_ONCE, decoder.config.max_len)
    one, more = step_seconds(decoder, pool, 1, longest)
    each = max(more - one, 0.0) / max(longest - 1, 1)
    return each / max(one - each, 1e-9)
