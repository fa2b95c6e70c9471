"""An engine that was put away comes back when it is asked for; a request for it waits and does not fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest

from oliveira.ledger import Ledger
from oliveira.monitoring.metrics import Metrics
from oliveira.serving.front import fleet
from oliveira.serving.front.client import EngineFailed
from oliveira.serving.front.fleet import Fleet
from oliveira.serving.front.room import Room
from oliveira.serving.protocol import Stats

DIGESTS = ("a" * 64, "b" * 64)


class Engine:
    """`broken`: digests that do not load."""

    broken: tuple[str, ...] = ()
    started: ClassVar[list[str]] = []

    def __init__(self, digest: str) -> None:
        self.digest, self.jobs, self.closed = digest, 0, False
        self.gone = asyncio.Event()
        self.answered = self.failed = 0
        self.ready = None
        self.stats = Stats()
        self.task = None

    @classmethod
    async def start(cls, path: Path, digest: str, options: Any) -> Engine:
        if digest in cls.broken:
            raise EngineFailed("it does not load")
        await asyncio.sleep(0.05)
        cls.started.append(digest)
        return cls(digest)

    def memory_mib(self) -> int:
        return 0 if self.closed else 300

    async def close(self) -> None:
        self.closed = True
        self.gone.set()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(fleet, "EngineProcess", Engine)
    monkeypatch.setattr(Engine, "started", [])
    monkeypatch.setattr(Engine, "broken", ())
    made = Ledger(tmp_path)
    for digest in DIGESTS:
        made.add_artifact(digest, "package", tmp_path / digest, {}, {})
    made.promote(DIGESTS[0], actor="test", numbers={})
    return made


def live(ledger: Ledger, room: Room, work: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async def write(action: Callable[[Ledger], Any]) -> None:
            with Ledger(ledger.home) as other:  # as the front's writer: another connection
                action(other)

        made = Fleet(ledger, write, Metrics(), [], room=room)
        following = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(20):
                await work(made)
        finally:
            following.cancel()
            await made.close()

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_put_away_it_comes_back_for_a_request(ledger: Ledger) -> None:
    async def work(made: Fleet) -> None:
        engine = await made.engine()
        engine.jobs = 1
        made.put_away()
        assert made.alive is None and made.state()["asleep"]
        await asyncio.sleep(0.2)
        assert not engine.closed, "what it was asked before it answers"
        assert Engine.started == [DIGESTS[0]], "nobody asked for another"
        engine.jobs = 0
        await until(lambda: engine.closed)
        again = await asyncio.gather(*(made.engine() for _ in range(5)))
        assert len({id(each) for each in again}) == 1 and again[0] is not engine
        assert Engine.started == [DIGESTS[0]] * 2 and not made.asleep

    live(ledger, Room(), work)
    kinds = [event["kind"] for event in ledger.events()]
    assert kinds == ["swap"], "that it slept is no fault of the model, and fills no history"


def test_a_new_champion_is_tried_although_the_old_one_sleeps(ledger: Ledger) -> None:
    async def work(made: Fleet) -> None:
        await made.engine()
        made.put_away()
        with Ledger(ledger.home) as other:
            other.promote(DIGESTS[1], actor="test", numbers={})
        await until(lambda: made.alive is not None)
        assert made.alive is not None and made.alive.digest == DIGESTS[1]

    live(ledger, Room(), work)


def test_asleep_a_champion_that_does_not_load_gives_way_to_the_one_before(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.promote(DIGESTS[1], actor="test", numbers={})

    async def work(made: Fleet) -> None:
        await made.engine()
        made.put_away()
        monkeypatch.setattr(Engine, "broken", (DIGESTS[1],))
        assert (await made.engine()).digest == DIGESTS[0]

    live(ledger, Room(), work)
    failed = ledger.last_event("swap_failed")
    assert failed is not None and failed["data"]["digest"] == DIGESTS[1]


def test_two_lives_in_the_room_of_one_take_turns_and_nothing_fails(ledger: Ledger, tmp_path: Path) -> None:
    room = Room(500)
    with Ledger(tmp_path / "other") as second:
        second.add_artifact(DIGESTS[1], "package", tmp_path / "other" / "x", {}, {})
        second.promote(DIGESTS[1], actor="test", numbers={})

        async def work(first: Fleet) -> None:
            await first.engine()

            async def write(action: Callable[[Ledger], Any]) -> None:
                action(second)

            other = Fleet(second, write, Metrics(), [], room=room)
            following = asyncio.create_task(other.run())
            try:
                await until(lambda: other.asleep)
                assert first.alive, "who was not asked for waits"
                for each in (other, first, other):
                    engine = await each.engine()
                    assert engine.memory_mib() and sum(tenant.resident() for tenant in room.tenants) <= room.memory
            finally:
                following.cancel()
                await other.close()

        live(ledger, room, work)


def test_one_larger_than_the_room_is_told_once(ledger: Ledger) -> None:
    async def work(made: Fleet) -> None:
        for _ in range(2):
            await made.engine()
            made.put_away()
            await until(lambda: not made.old)

    live(ledger, Room(100), work)
    told = [event for event in ledger.events() if event["kind"] == "too_large"]
    assert [event["data"]["memory"] for event in told] == [100]
