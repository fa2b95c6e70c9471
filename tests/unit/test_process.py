"""Who is asked to stop and does not look is interrupted where it stands."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from oliveira.errors import Interrupted
from oliveira.process.stop import Stop


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    waiting = signal.getitimer(signal.ITIMER_REAL)  # pytest-timeout's
    yield
    signal.setitimer(signal.ITIMER_REAL, *waiting)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_first_and_interrupts_then(number: int) -> None:
    stop = Stop(within=0.05)
    assert not stop()
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match="the last checkpoint"):
        signal.pause()
    assert stop()


def test_who_looks_in_time_is_not_interrupted() -> None:
    stop = Stop(within=100.0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert stop() and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_without_a_bound_nothing_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "setitimer", lambda *_: pytest.fail("a bound was set"))
    stop = Stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop()
