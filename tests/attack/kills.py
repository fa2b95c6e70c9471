"""Processes that die or stand still at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx

from tests.attack.attacks import killing
from tests.attack.house import alive, family, wait_for
from tests.attack.life import RECOVERY, Life


@contextlib.contextmanager
def traffic(life: Life) -> Iterator[list[int]]:
    """Somebody asks all the while: the statuses, 0 where nobody answered."""
    stop, codes = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                codes.append(life.asked().status_code)
            except (httpx.TransportError, OSError, ValueError):  # no front, no front.json
                codes.append(0)
                time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: 200 in codes, 20, "a first answer")
        yield codes
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def _killed(life: Life, name: str) -> str:
    victim = life.pids[name]
    with traffic(life) as codes:
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: not alive(victim), 10, "a dead process")
        wait_for(
            lambda: life.house.processes()[name] not in (0, victim) and alive(life.house.processes()[name]),
            RECOVERY,
            name,
        )
        before = len(codes)
        wait_for(lambda: codes[before + 2 :].count(200) >= 5, RECOVERY, "answers again")
    assert set(codes) <= ({200, 503, 0} if name != "loop" else {200}), sorted(set(codes))
    return ", ".join(f"{codes.count(code)} × {code or 'no answer'}" for code in sorted(set(codes)))


@killing
def engine_killed(life: Life) -> str:
    """kill -9 of the engine under traffic."""
    return _killed(life, "engine")


@killing
def front_killed(life: Life) -> str:
    """kill -9 of the front under traffic: it comes back at its port, and no engine is left behind."""
    port, engine = life.house.address, life.pids["engine"]
    said = _killed(life, "front")
    assert life.house.address == port, "another port"
    wait_for(lambda: not alive(engine), 10, "the end of the engine that was left behind")
    return said


@killing
def loop_killed(life: Life) -> str:
    """kill -9 of the loop under traffic: nobody who asks notices."""
    return _killed(life, "loop")


@killing
def engine_stopped(life: Life) -> str:
    """SIGSTOP of the engine: its silence is noticed, another takes its place."""
    victim = life.pids["engine"]
    os.kill(victim, signal.SIGSTOP)
    try:
        wait_for(lambda: life.house.engines() not in ([], [victim]), RECOVERY, "another engine")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    life.answers(seconds=RECOVERY)
    wait_for(lambda: not alive(victim), 15, "the end of the one that was replaced")
    return "replaced"


@killing
def house_killed(life: Life) -> str:
    """kill -9 of `oliveira up`, then a second start: nobody is left behind, all stages are reused."""
    assert life.house.process is not None
    below = family(life.house.process.pid)
    life.house.process.kill()
    life.house.process.wait()
    wait_for(lambda: not any(map(alive, below)), 15, "the end of what it had started")
    begun = time.monotonic()
    life.house.start().ready()
    return f"serves again in {time.monotonic() - begun:.1f} s"


@killing
def everybody_killed_at_once(life: Life) -> str:
    """kill -9 of all processes in the middle of answers, then a second start."""
    assert life.house.process is not None
    with traffic(life):
        for pid in (life.house.process.pid, *family(life.house.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        life.house.process.wait()
    life.house.start().ready()
    return "serves again"
