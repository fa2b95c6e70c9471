"""The gate: each number alone can refuse; a good challenger passes; everything is written down."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from oliveira.lifecycle.gate import Measured, judge
from oliveira.world import GateSection

GATE = GateSection(min_gain=0.05, max_forgetting=0.02, max_latency=1.25)
GOOD = Measured(
    base_before=2.0,
    base_after=2.01,
    new_before=3.0,
    new_after=2.5,
    champion_latency=0.01,
    challenger_latency=0.011,
    smoke=True,
)


def test_a_better_challenger_passes() -> None:
    passed, numbers = judge(GOOD, GATE)
    assert passed and numbers["gain"] == pytest.approx(0.5) and numbers["forgetting"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"new_after": 2.99}, "gain"),
        ({"new_after": 3.5}, "gain"),
        ({"base_after": 2.1}, "forgetting"),
        ({"challenger_latency": 0.02}, "latency"),
        ({"smoke": False}, "smoke"),
        ({"new_after": math.nan}, "finite"),
        ({"base_after": math.inf}, "finite"),
    ],
)
def test_each_number_alone_refuses(change: dict[str, float], reason: str) -> None:
    passed, numbers = judge(dataclasses.replace(GOOD, **change), GATE)
    assert not passed and any(reason in text for text in numbers["reasons"])
    json.dumps(numbers, allow_nan=False)
