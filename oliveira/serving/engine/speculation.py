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

READ_AT_ONCE = 64  # tokens that a draft reads in a step before it guesses: the streams wait for it
LONGEST, SHORTEST = 4, 2  # tokens that must have occurred before
AT_ONCE = 8  # tokens guessed for a stream and step, at most
AGAIN, AGAIN_DRAFT = 64, 1024  # steps without guesses before the next attempt: texts change; a draft must read first
LATELY = 0.1  # weight of the last guess in what is known of the guesses


class Text(Protocol):
    tokens: list[int]
    guessing: Any  # what the guesser knows of this text


class Guesser(Protocol):
    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        """For each text, up to so many tokens that may follow."""
        ...

    def unread(self, text: Text) -> int:
        """Tokens of the text that cost a draft time before it can guess."""
        ...

    def forget(self, text: Text) -> None: ...


class LookUp:
    """Looks for the last 4, 3 or 2 tokens in the text itself: code, lists, quotations, answers about a document.

    What was found may run into the end of the text: the guess itself comes next, so a loop is guessed round and round.
    """

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
                return [tokens[end + i % (len(tokens) - end)] for i in range(n)]
        return []

    def unread(self, text: Text) -> int:
        return 0

    def forget(self, text: Text) -> None:
        text.guessing = None


class DraftModel:
    """The most likely continuation by a smaller model, which keeps keys and values of its own.

    It reads a text in pieces, one in a step for all texts, and guesses nothing for those that it has not read.
    """

    def __init__(self, decoder: Decoder, *, slots: int, n_tokens: int | None = None) -> None:
        """`n_tokens`: what the tokenizer knows, if the draft's vocabulary is larger."""
        self.decoder, self.max_len = decoder, decoder.config.max_len
        self.n_tokens = n_tokens or decoder.config.vocab_size
        self.pool = BlockPool(decoder, slots * -(-self.max_len // POSITIONS))

    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        guesses: list[list[int]] = [[] for _ in texts]
        room = [min(n, self.max_len - len(text.tokens)) for text, n in zip(texts, at_most, strict=True)]
        left = READ_AT_ONCE
        for i in sorted((i for i, n in enumerate(room) if n > 0), key=lambda i: self.unread(texts[i])):
            unread = self.unread(texts[i])
            if unread > left:  # later: this much of it now
                room[i] = 0
                self._read(texts[i], left)
            left -= min(left, unread)
        for step in range(max(room, default=0)):
            who = [i for i, n in enumerate(room) if step < n]
            for i, token in zip(who, self._tokens([texts[i] for i in who], [guesses[i] for i in who]), strict=True):
                guesses[i].append(token)
        for text, guess in zip(texts, guesses, strict=True):
            if guess:  # the guesses may be wrong: they will be read again, from the first on
                text.guessing = (text.guessing[0], len(text.tokens))
        return guesses

    def _table(self, text: Text) -> tuple[list[int], int]:
        """Its blocks, and how much of it is in them."""
        if text.guessing is None:
            text.guessing = (self.pool.take(-(-self.max_len // POSITIONS)), 0)
        table, position = text.guessing
        return table, position

    def _read(self, text: Text, n: int) -> None:
        if n > 0:
            table, position = self._table(text)
            self.decoder.step([Run(text.tokens[position : position + n], position, table, 0)])
            text.guessing = (table, position + n)

    def _tokens(self, texts: list[Text], guesses: list[list[int]]) -> list[int]:
        """One more token for each text; what the model has not read of it yet, a piece at most, is read first."""
        runs = []
        for text, guess in zip(texts, guesses, strict=True):
            table, position = self._table(text)
            new = [*text.tokens, *guess][position:]
            runs.append(Run(new, position, table, 1))
            text.guessing = (table, position + len(new))
        tokens: list[int] = []
        while runs:
            n = 1
            while n < len(runs) and sum(len(run.tokens) for run in runs[: n + 1]) <= MAX_TOKENS:
                n += 1
            tokens += self.decoder.step(runs[:n])[:, : self.n_tokens].argmax(dim=-1).tolist()
            del runs[:n]
        return tokens

    def unread(self, text: Text) -> int:
        return len(text.tokens) - (text.guessing[1] if text.guessing else 0)

    def forget(self, text: Text) -> None:
        if text.guessing is not None:
            self.pool.give_back(text.guessing[0])
            text.guessing = None


class Speculator:
    """Guesses as many tokens as pay, as far as the guesses of late tell, and tries again now and then where none does.

    `cost` c: time of one more token in a step, over the fixed time of a step; `draft` d: time of a step of the draft,
    over a step of the model (0: a look-up). With S streams a step without guesses takes 1 + S c and gives a token to
    each. If a guess is right with probability p where those before it were, n guesses for each stream give it

        1 + p + … + p^n  tokens  in  (1 + S c) (1 + n x)  of time,    x = l + d,    l = S c / (1 + S c),

    so x is what one more guess for every stream costs, in steps without guesses (the draft is taken to slow down with
    more tokens as the model does). The n with the most tokens per time is chosen. It is 0 if p ≤ x: the first guess is
    the likeliest, and brings p for x. Where x ≥ 1 nothing could pay, and nothing is tried.

    A draft reads a text before it guesses: d l / S steps for each token. Where guesses make streams v times as fast,
    each token still to come saves its share, (1 - 1/v) / S of a step. So a text is guessed if

        unread · d l ≤ room · (1 - 1/v).

    An attempt guesses S tokens of one text, the least to read, until a guess is wrong. If the first is wrong, it has
    cost about x steps with a look-up, and S steps of the draft with one.
    """

    def __init__(self, guesser: Guesser, cost: float, *, draft: float = 0.0, at_once: int = AT_ONCE) -> None:
        if cost < 0 or draft < 0 or at_once < 1:
            raise UserError(
                f"cost = {cost}, draft = {draft}, at_once = {at_once}: give costs of 0 or more and at least one token."
            )
        self.guesser, self.cost, self.draft, self.at_once = guesser, cost, draft, at_once
        self.right = 0.5  # p, of late; nothing is known at first
        self._again = AGAIN_DRAFT if draft else AGAIN
        self._idle = self._again  # steps without guesses since one was wrong: the first attempt is made at once

    def guess(self, texts: Sequence[Text], room: Sequence[int]) -> list[list[int]]:
        """Tokens that may follow each text, none where they do not pay; `room`: how many it may still become longer."""
        price = self.price(len(texts))
        n, speed = self._best(price, self.right)
        if n:
            worth = self._worth(texts, room, price, speed)
            return self.guesser.guess(
                texts, [min(n, most) if pays else 0 for most, pays in zip(room, worth, strict=True)]
            )
        self._idle += 1
        guesses: list[list[int]] = [[] for _ in texts]
        if self._idle > self._again and price < 1:
            worth = self._worth(texts, room, price, self._best(price, 1.0)[1])  # if all were right
            who = [i for i, pays in enumerate(worth) if pays]
            for i in sorted(who, key=lambda i: self.guesser.unread(texts[i])):
                unread = self.guesser.unread(texts[i])
                [guesses[i]] = self.guesser.guess([texts[i]], [min(len(texts), self.at_once, room[i])])
                # Else nothing was found in it, or the draft cannot hold it. A draft that reads goes on next time.
                if guesses[i] or self.guesser.unread(texts[i]) < unread:
                    break
        return guesses

    def price(self, streams: int) -> float:
        """x: what one more guess for every stream costs, in steps without guesses. From 1 on nothing can pay."""
        load = streams * self.cost
        return load / (1 + load) + self.draft

    def _best(self, price: float, right: float) -> tuple[int, float]:
        """How many guesses to make, and how many times as fast a text then is."""
        best, fastest, tokens = 0, 1.0, 1.0
        for n in range(1, self.at_once + 1):
            tokens += right**n
            if (speed := tokens / (1 + n * price)) > fastest:
                best, fastest = n, speed
        return best, fastest

    def _worth(self, texts: Sequence[Text], room: Sequence[int], price: float, speed: float) -> list[bool]:
        """Whether what is left of a text repays reading it."""
        read = self.draft * (price - self.draft)  # d l
        return [
            most > 0 and self.guesser.unread(text) * read <= most * (1 - 1 / speed)
            for text, most in zip(texts, room, strict=True)
        ]

    def learn(self, guessed: int, right: int) -> None:
        """The first `right` of the `guessed` tokens of one stream were what the model sampled."""
        for _ in range(right):
            self.right += LATELY * (1 - self.right)
        if right < guessed:  # what follows a wrong one tells nothing
            self.right -= LATELY * self.right
            self._idle = 0


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
