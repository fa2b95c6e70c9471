"""The next token of many streams in one C call: the oracle's, alone and in any company."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from oliveira.kernels import build
from oliveira.serving.engine import sampling as module
from oliveira.serving.engine.sampling import Choice, Mask, Sampler, Sampling, adjusted, choose, distribution

native = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

SIZES = (1, 15, 63, 65, 1000, 1025, 4099)
OPTIONS = [
    {"temperature": t, "top_k": k, "top_p": p, "min_p": m}
    for t, k, p, m in itertools.product((0.7, 1.0, 1e6), (0, 1, 7, 900), (1.0, 0.9, 0.3), (0.0, 0.02))
]
PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.25, "presence_penalty": -0.5}


def allow(n: int, tokens: list[int]) -> Mask:
    words = np.zeros(-(-n // 32), dtype=np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


def logits(n: int, seed: int) -> Tensor:
    """A few likely tokens, many unlikely ones, some exactly alike."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, generator=generator) * 2
    z[torch.randint(0, n, (n // 20 + 1,), generator=generator)] += 6
    z[torch.randint(0, n, (n // 10 + 1,), generator=generator)] = 1.5
    return z


def at(sampler: Sampler, number: float) -> Sampler:
    sampler._number = number
    return sampler


def agrees(sampler: Sampler, z: Tensor, numbers: list[float], mask: Mask | None) -> None:
    """The kernel's token at each number is one where the oracle's cumulated p passes it, to 1e-6; or, where top_p falls
    on the edge of two tokens, that of one of both."""
    s = sampler.sampling
    seen = dict(zip(sampler.seen, sampler.counts, strict=True))
    own = adjusted(z, s, seen, mask)
    edges = [s.top_p] if s.top_p == 1 else [s.top_p - 1e-6, s.top_p + 1e-6]
    cumulated = [distribution(own, Sampling(**{**vars_of(s), "top_p": edge})).cumsum(0) for edge in edges]
    for number in numbers:
        token = choose([at(sampler, number)], [z], [None], [mask])[0].token
        assert any(
            (float(c[token - 1]) if token else 0.0) - 1e-6 <= number <= float(c[token]) + 1e-6
            and float(c[token]) > (float(c[token - 1]) if token else 0.0)
            for c in cumulated
        ), (number, token, s)


def vars_of(s: Sampling) -> dict[str, object]:
    return {name: getattr(s, name) for name in s.__dataclass_fields__}


@native
@pytest.mark.parametrize("n", SIZES)
def test_every_combination_draws_from_the_oracles_distribution(n: int) -> None:
    chance = random.Random(n)
    numbers = [0.0, 1 - 2**-53, *(chance.random() for _ in range(12))]
    for place, options in enumerate(OPTIONS):
        bias = {token: chance.uniform(-9, 9) for token in chance.sample(range(n), min(n, 5))}
        more = {**PENALTIES, "logit_bias": tuple(bias.items())} if place % 2 else {}
        mask = allow(n, chance.sample(range(n), max(1, n // 3))) if place % 3 == 0 else None
        sampler = Sampler(Sampling(**options, **more), 0, chance.choices(range(n), k=30))
        for token in chance.choices(range(n), k=20):
            sampler.took(token)
        agrees(sampler, logits(n, place), numbers, mask)


@native
def test_one_that_is_allowed_is_taken_and_of_none_there_is_none() -> None:
    z = logits(1001, 0)
    for s in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.5), Sampling(top_k=3, min_p=0.5)):
        for token in (0, 500, 1000):
            assert choose([Sampler(s, 1)], [z], [None], [allow(1001, [token])])[0].token == token
        assert choose([Sampler(s, 1)], [z], [None], [allow(1001, [])])[0].token == -1


@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_logits_that_are_not_finite_are_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr(module, "unavailable", lambda: "no compiler")
    z = logits(100, 0)
    for place, (value, token) in enumerate(((-math.inf, None), (math.nan, -1), (math.inf, -1)), 17):
        spoilt = z.clone()
        spoilt[place] = value
        for s in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.7)):
            found = choose([Sampler(s, 1)], [spoilt], [None], [None])[0]
            assert not found.finite and (token is None or found.token == token) and found.token != place
        assert choose([Sampler(Sampling(), 1)], [z], [None], [None])[0].finite


@native
def test_a_stream_has_the_same_token_alone_in_a_batch_and_on_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [Sampling(**options, **(PENALTIES if i % 2 else {})) for i, options in enumerate(OPTIONS)]
    rows = [logits(5001, i) for i in range(len(settings))]

    def made() -> list[Sampler]:
        return [Sampler(s, i, range(50)) for i, s in enumerate(settings)]

    alone = [choose([one], [row], [3], [None])[0] for one, row in zip(made(), rows, strict=True)]
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert choose(made(), rows, [3] * len(rows), [None] * len(rows)) == alone
        assert choose(made()[::-1], rows[::-1], [3] * len(rows), [None] * len(rows)) == alone[::-1]


@native
def test_log_probabilities_are_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever mask, bias and temperature do; those that are alike stand in the order of their numbers."""
    for n, top in itertools.product((1, 65, 4099), (0, 1, 5, 20)):
        z = logits(n, top)
        samplers = [Sampler(Sampling(temperature=0.3, top_p=0.5, logit_bias=((0, 50.0),)), 1) for _ in range(2)]
        found = choose(samplers[:1], [z], [top], [None])[0]
        with monkeypatch.context() as patch:
            patch.setattr(module, "unavailable", lambda: "no compiler")
            expected = choose(samplers[1:], [z], [top], [None])[0]
        assert found.token == expected.token == 0 and [t for t, _ in found.top] == [t for t, _ in expected.top]
        pairs = zip([found.logprob, *(p for _, p in found.top)], [expected.logprob, *(p for _, p in expected.top)])  # noqa: B905
        assert all(ours == pytest.approx(theirs, abs=1e-5) for ours, theirs in pairs)


def test_penalties_see_the_answer_and_repetition_the_prompt_too() -> None:
    z, answer = torch.tensor([2.0, -1.0, 0.5, 0.0]), [2, 2, 3]
    s = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    sampler = Sampler(s, 0, [0, 1, 1])
    for token in answer:
        sampler.took(token)
    seen = dict(zip(sampler.seen, sampler.counts, strict=True))
    assert seen == {0: 0, 1: 0, 2: 2, 3: 1}
    assert adjusted(z, s, seen, None).tolist() == [1.0, -2.0, 0.25 - 1.25, -0.75]


def test_asked_again_it_gives_the_same_token_until_one_is_taken() -> None:
    sampler, z = Sampler(Sampling(), 3), logits(50, 0)

    def ask() -> Choice:
        return choose([sampler], [z], [None], [None])[0]

    first = ask()
    assert ask() == first
    drawn = set()
    for _ in range(20):
        sampler.took(0)
        drawn.add(ask().token)
    assert len(drawn) > 3, "each token has a number of its own"
