"""Who guesses, how much, and when it stops: with a clock that is computed, so every figure is exact."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from oliveira.errors import UserError
from oliveira.serving.engine.speculation import AGAIN, AGAIN_DRAFT, AT_ONCE, LookUp, Speculator, Text


class Some:
    def __init__(self, tokens: Sequence[int] = (1, 2, 3), *, unread: int = 0) -> None:
        self.tokens, self.guessing, self.to_read = list(tokens), None, unread


class Ready:
    """Guesses as many tokens as are allowed, and counts the texts that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[Text] = []

    def guess(self, texts: Sequence[Text], at_most: Sequence[int]) -> list[list[int]]:
        self.asked += [text for text, n in zip(texts, at_most, strict=True) if n]
        return [[0] * n for n in at_most]

    def unread(self, text: Text) -> int:
        return text.to_read  # type: ignore[attr-defined]

    def forget(self, text: Text) -> None:
        pass


def speed(speculator: Speculator, p: float, *, streams: int = 1, cost: float, draft: float, steps: int = 4000) -> float:
    """Tokens per time over those without guesses, if a guess is right with chance p where those before it were."""
    chance, texts = random.Random(0), [Some() for _ in range(streams)]
    tokens, spent = 0, 0.0
    for _ in range(steps):
        guesses = speculator.guess(texts, [AT_ONCE] * streams)
        spent += 1 + cost * (streams + sum(map(len, guesses)))
        spent += draft * (1 + cost * streams) * max(map(len, guesses))
        for guess in guesses:
            right = 0
            while right < len(guess) and chance.random() < p:
                right += 1
            speculator.learn(len(guess), right)
            tokens += 1 + right
    return tokens / spent * (1 + cost * streams) / streams


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("draft", [0.0, 0.15, 0.4, 1.0])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_guesses_do_not_slow_serving(p: float, draft: float, streams: int) -> None:
    assert speed(Speculator(Ready(), 0.5, draft=draft), p, streams=streams, cost=0.5, draft=draft) >= 0.97


@pytest.mark.parametrize(("known", "must"), [(1.0, "keep the speed"), (0.0, "lose")])
def test_a_draft_as_slow_as_the_model_is_not_used(known: float, must: str) -> None:
    """All its guesses are right, and still it cannot pay. Who does not count its steps loses."""
    guesser = Ready()
    found = speed(Speculator(guesser, 0.56, draft=known), 1.0, cost=0.56, draft=1.0)
    if must == "lose":
        assert found < 0.8
    else:
        assert found == pytest.approx(1.0) and not guesser.asked


def test_a_fast_draft_is_used_while_it_is_right() -> None:
    assert speed(Speculator(Ready(), 0.2, draft=0.1), 0.9, cost=0.2, draft=0.1) > 1.7
    # x = 0.2 / 1.2 + 0.1 = 0.27: without the draft's share, 0.17, these guesses would seem to pay
    assert speed(Speculator(Ready(), 0.2, draft=0.1), 0.22, cost=0.2, draft=0.1) >= 0.97


@pytest.mark.parametrize(("draft", "again"), [(0.0, AGAIN), (0.2, AGAIN_DRAFT)])
def test_guessing_stops_where_it_does_not_pay_and_is_tried_again(draft: float, again: int) -> None:
    """On one text of eight: the one with the least to read."""
    guesser = Ready()
    speculator = Speculator(guesser, 0.3, draft=draft)
    texts = [Some(unread=unread) for unread in (9, 8, 3, 7, 6, 5, 9, 9)]
    steps = []
    for step in range(5000):
        guesses = speculator.guess(texts, [100] * len(texts))
        steps += [step] * any(guesses)
        for guess in guesses:
            speculator.learn(len(guess), 0)
    assert len(steps) == 1 + 4999 // (again + 1)
    assert steps[1] - steps[0] == again + 1
    assert {id(text) for text in guesser.asked} == {id(texts[2])}
    for _ in range(again + 20):  # another kind of text: all guesses are right
        for guess in speculator.guess(texts, [100] * len(texts)):
            speculator.learn(len(guess), len(guess))
    assert all(speculator.guess(texts, [100] * len(texts)))


@pytest.mark.parametrize("known", [True, False])
def test_a_text_is_read_by_a_draft_if_what_is_left_repays_it(known: bool) -> None:
    """d l = 1/3 · 1/3, x = 2/3; all right, 8 guesses are 9 tokens in 19/3 of the time: 1 - 1/v = 8/27 for each token.

    So 900 tokens, which take 100 steps to read, are repaid after 338 more.
    """
    speculator = Speculator(Ready(), 0.5, draft=1 / 3)
    if known:
        speculator.right = 1.0
    for room, unread, pays in [(337, 900, False), (338, 900, True), (337, 0, True), (0, 0, False)]:
        assert any(speculator.guess([Some(unread=unread)], [room])) is pays
    two = speculator.guess([Some(unread=10**6), Some(unread=1)], [100, 100]) if known else [[], [0]]
    assert not two[0] and two[1]


def test_a_look_up_reads_nothing() -> None:
    text = Some([1, 2, 3] * 3000)
    assert Speculator(LookUp(), 0.5).guess([text], [1]) == [[1]]


def test_as_many_guesses_as_pay() -> None:
    """At p = 1/2 and x = 1/3 one: 1.5 tokens in 4/3 of the time, against 1.75 in 5/3."""
    speculator = Speculator(Ready(), 0.5)
    assert [len(guess) for guess in speculator.guess([Some()], [AT_ONCE])] == [1]
    numbers = []
    for _ in range(40):
        [guess] = speculator.guess([Some()], [AT_ONCE])
        speculator.learn(len(guess), len(guess))
        numbers.append(len(guess))
    assert numbers == sorted(numbers) and numbers[0] == 1 and numbers[-1] == AT_ONCE
    assert [len(guess) for guess in speculator.guess([Some()], [3])] == [3]


def test_a_fresh_engine_loses_little_on_ordinary_text() -> None:
    """The first hundred tokens, one guess in ten right. It was 0.62 when all guesses were believed at first."""
    assert speed(Speculator(Ready(), 0.5), 0.1, cost=0.5, draft=0.0, steps=100) >= 0.97


def test_a_fresh_engine_soon_copies_with_all_guesses() -> None:
    assert speed(Speculator(Ready(), 0.5), 1.0, cost=0.5, draft=0.0, steps=30) >= 2.0


@pytest.mark.parametrize(
    ("tokens", "follows"),
    [
        ([9, 1, 2, 3, 1, 2, 3], [1, 2, 3, 1, 2, 3, 1, 2]),  # a loop of three
        ([4, 4, 4], [4] * 8),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2], [3, 4, 5, 6, 7, 8, 9, 10]),  # enough was found
        ([1, 2, 3, 4], []),
    ],
)
def test_what_was_found_is_continued_by_the_guess_itself(tokens: list[int], follows: list[int]) -> None:
    [guess] = LookUp().guess([Some(tokens)], [8])
    assert guess == follows
    text, one_by_one = Some(tokens), []
    for _ in follows:  # the same as if each guess were part of the text before the next
        one_by_one += LookUp().guess([Some([*text.tokens, *one_by_one])], [1])[0]
    assert one_by_one == follows


@pytest.mark.parametrize("wrong", [{"cost": -0.1}, {"cost": 0.1, "draft": -1.0}, {"cost": 0.1, "at_once": 0}])
def test_costs_are_not_negative(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give costs"):
        Speculator(Ready(), **wrong)  # type: ignore[arg-type]
