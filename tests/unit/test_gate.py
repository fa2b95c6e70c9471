"""The gate: each number alone can refuse; a good challenger passes; everything is written down."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable

import pytest

from oliveira.lifecycle.gate import Measured, Scores, judge
from oliveira.lifecycle.latency import Latency, compare
from oliveira.world import GateSection

GATE = GateSection(min_gain=0.05, max_forgetting=0.02, max_latency=1.25)
GOOD = Measured(
    base=Scores(2.0, 2.01),
    new=Scores(3.0, 2.5),
    latency=Latency(champion=0.01, challenger=0.011, ratio=1.1, low=1.05, high=1.15),
    smoke=True,
)


class Machine:
    """A clock that only work moves: each call takes its time, times the noise of the moment."""

    def __init__(self, seed: int, noise: float) -> None:
        self.now, self.noise, self.random, self.calls = 0.0, noise, random.Random(seed), 0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            burst = 10.0 if self.random.random() < 0.1 else 1.0  # somebody else's turn on the processor
            drift = 1.0 + self.calls / 40  # the machine gets busier
            self.now += seconds * drift * burst * math.exp(self.random.gauss(0, self.noise))

        return run


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_identical_artifacts_are_never_rejected_for_latency(noise: float) -> None:
    for seed in range(200):
        machine = Machine(seed, noise)
        latency = compare(machine.work(0.01), machine.work(0.01), clock=machine)
        passed, numbers = judge(dataclasses.replace(GOOD, latency=latency), GATE)
        assert passed, numbers["reasons"]
        assert latency.low <= latency.ratio <= latency.high


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
def test_one_of_half_the_speed_is_always_rejected(noise: float) -> None:
    for seed in range(200):
        machine = Machine(seed, noise)
        latency = compare(machine.work(0.01), machine.work(0.02), clock=machine)
        passed, _ = judge(dataclasses.replace(GOOD, latency=latency), GATE)
        assert not passed, latency


def test_a_slow_ratio_alone_is_no_reason() -> None:
    """× 1.29 was measured of a model against itself."""
    noisy = Latency(champion=0.01, challenger=0.0129, ratio=1.29, low=0.8, high=2.1)
    passed, numbers = judge(dataclasses.replace(GOOD, latency=noisy), GATE)
    assert passed and numbers["latency_interval"] == [0.8, 2.1]


def test_both_are_timed_in_turn_and_per_token() -> None:
    machine, order = Machine(0, 0.0), []
    latency = compare(lambda: order.append("a"), lambda: order.append("b"), rounds=4)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"
    latency = compare(machine.work(0.16), machine.work(0.16), each=16, rounds=1, clock=machine)
    assert latency.low == latency.ratio == latency.high


def test_a_better_challenger_passes() -> None:
    passed, numbers = judge(GOOD, GATE)
    assert passed and numbers["gain"] == pytest.approx(0.5) and numbers["forgetting"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"new": Scores(3.0, 2.99)}, "gain"),
        ({"new": Scores(3.0, 3.5)}, "gain"),
        ({"base": Scores(2.0, 2.1)}, "forgetting"),
        ({"latency": Latency(0.01, 0.02, 2.0, 1.9, 2.1)}, "latency 2.00 × the champion's (1.90 to 2.10)"),
        ({"smoke": False}, "smoke"),
        ({"new": Scores(3.0, math.nan)}, "finite"),
        ({"base": Scores(2.0, math.inf)}, "finite"),
    ],
)
def test_each_number_alone_refuses(change: dict[str, float], reason: str) -> None:
    passed, numbers = judge(dataclasses.replace(GOOD, **change), GATE)
    assert not passed and any(reason in text for text in numbers["reasons"])
    json.dumps(numbers, allow_nan=False)


def test_exactly_at_a_threshold_passes() -> None:
    at = dataclasses.replace(GOOD, base=Scores(2.0, 2.02))
    exact = (2.02 - 2.0) / 2.0
    assert judge(at, GATE.model_copy(update={"max_forgetting": exact}))[0]
    assert not judge(at, GATE.model_copy(update={"max_forgetting": exact * 0.999}))[0]
