"""What is said of the time that is left: from the last minute, with units, and to whatever output there is."""

from __future__ import annotations

import errno
import io

import pytest
from rich.console import Console

from oliveira.process import progress
from oliveira.process.eta import Eta, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def eta_of(steps: list[tuple[float, float]]) -> float | None:
    """The last figure after (seconds since the one before, share done)."""
    clock, found = Clock(), None
    eta = Eta(clock)
    for seconds, share in steps:
        clock.now += seconds
        found = eta.update(share)
    return found


STEADY = [(1.0, step / 800) for step in range(1, 21)]  # a second a step


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ([], "from the start"),
        ([(107.0, 0.0)], "kernels that were built first (it said 190 minutes for 13)"),
        ([(0.5, 0.0001), (600.0, 1 / 1000)], "a pause of ten minutes, an hour ago"),
    ],
)
def test_the_last_minute_counts(before: list[tuple[float, float]], why: str) -> None:
    steady = [(1.0, 0.001 + step / 800) for step in range(1, 121)]
    left = eta_of([*before, *steady])
    assert left == pytest.approx(800 * (1 - 0.001) - 120, rel=0.02), why


def test_a_resumed_run_does_not_count_what_was_done_before() -> None:
    assert eta_of([(1.0, 0.5 + step / 800) for step in range(1, 21)]) == pytest.approx(380, rel=0.01)


def test_nothing_is_said_before_something_was_seen() -> None:
    assert eta_of([(0.0, 0.0)]) is None
    assert eta_of([(0.0, 0.0), (1.0, 0.4)]) is None, "too short a time"
    assert eta_of([(0.0, 0.1), (5.0, 0.1)]) is None, "nothing moved"
    assert eta_of([*STEADY, (1.0, 0.0)]) is None, "another piece of work began"


def test_slow_steps_have_a_figure_too() -> None:
    assert eta_of([(200.0, step / 10) for step in range(1, 6)]) == pytest.approx(1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (41.26, "41.3 s"),
        (59.99, "1 min 00 s"),
        (785, "13 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7650, "2 h 08 min"),
    ],
)
def test_a_duration_has_its_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_plain_line_says_the_moving_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(), io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    with progress.Reporter(console=Console(file=out, soft_wrap=True)) as report:
        report.begin("train")
        report._eta = Eta(clock)
        clock.now += 100  # building kernels
        for step in range(1, 31):
            clock.now += 1
            report.progress(step / 100, "loss 3.000")
    assert out.getvalue().splitlines()[-1] == "train       26% after 2 min 06 s, ETA 1 min 14 s  loss 3.000"


def test_a_full_output_does_not_end_the_work() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with progress.Reporter(console=Console(file=Full())) as report:
        report.begin("train")
        report.say("x")
        report.done("train", 1.0, "digest", reused=False)
        assert report.quiet


def test_a_share_that_is_told_again_is_no_new_beginning() -> None:
    steady = [(1.0, step / 100) for step in range(1, 11)]
    assert eta_of([*steady, (1.0, 0.10)]) is not None
    assert eta_of([*steady, (1.0, 0.05)]) is None
