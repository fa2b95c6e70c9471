"""Which engines are in memory: who starts, who makes room, who is never put away."""

from __future__ import annotations

import pytest

from oliveira.serving.front.room import PATIENCE, Room


class Life:
    """`size` MiB while its engine is there; one that is busy holds its memory until `end`."""

    def __init__(self, size: int, *, awake: bool = False, used: float = 0.0, busy: bool = False) -> None:
        self.size, self.awake, self.used, self.busy = size, awake, used, busy
        self.called: float | None = None
        self.left = 0

    def resident(self) -> int:
        return self.size * self.awake + self.left

    def ending(self) -> int:
        return self.left

    def put_away(self) -> None:
        self.awake, self.left = False, self.size

    def end(self) -> None:
        self.left = 0


def room(memory: int, *lives: Life, idle: float = 0.0, now: float = 100.0) -> Room:
    made = Room(memory, idle, lambda: now)
    made.tenants += lives
    return made


def test_without_a_bound_everything_starts() -> None:
    lives = [Life(1000, awake=True) for _ in range(9)]
    assert room(0, *lives).make(lives[0], 10_000, asked=False)


def test_who_was_not_asked_for_puts_nobody_away() -> None:
    there, new = Life(300, awake=True), Life(300)
    assert room(700, there, new).make(new, 300, asked=False)
    assert not room(500, there, new).make(new, 300, asked=False)
    assert there.awake


def test_the_longest_unused_makes_room_and_no_more_than_it_takes() -> None:
    lives = [Life(300, awake=True, used=used) for used in (3.0, 1.0, 2.0)]
    new = Life(250)
    new.called = 100.0
    place = room(1000, *lives, new)
    assert not place.make(new, 250, asked=True), "not before the other has ended"
    assert [life.awake for life in lives] == [True, False, True]
    assert not place.make(new, 250, asked=True)
    assert [life.awake for life in lives] == [True, False, True], "one that ends already is enough"
    lives[1].end()
    assert place.make(new, 250, asked=True)


def test_a_busy_one_is_left_alone_until_who_waits_has_waited_long() -> None:
    busy, new = Life(300, awake=True, busy=True), Life(300)
    new.called = 100.0
    assert not room(500, busy, new, now=100 + PATIENCE / 2).make(new, 300, asked=True)
    assert busy.awake
    place = room(500, busy, new, now=100 + PATIENCE)
    assert not place.make(new, 300, asked=True) and not busy.awake
    assert not place.make(new, 300, asked=True), "its requests end first"
    busy.end()
    assert place.make(new, 300, asked=True)


def test_who_has_waited_longest_comes_first() -> None:
    first, second = Life(300), Life(300)
    first.called, second.called = 50.0, 60.0
    place = room(500, first, second)
    assert not place.make(second, 300, asked=True) and place.make(first, 300, asked=True)


def test_one_that_is_too_large_is_served_alone() -> None:
    large, other = Life(900), Life(100, awake=True)
    large.called = 100.0
    place = room(500, large, other)
    assert not place.make(large, 900, asked=True) and not other.awake
    other.end()
    assert place.make(large, 900, asked=True)


@pytest.mark.parametrize(("idle", "awake"), [(0.0, [True, True, True]), (30.0, [False, True, True])])
def test_what_nobody_uses_goes_after_a_while(idle: float, awake: list[bool]) -> None:
    lives = [Life(1, awake=True, used=60.0), Life(1, awake=True, used=90.0), Life(1, awake=True, used=0.0, busy=True)]
    room(0, *lives, idle=idle).tidy()
    assert [life.awake for life in lives] == awake


def test_engines_that_have_grown_make_room_again_but_never_the_last() -> None:
    lives = [Life(300, awake=True, used=1.0), Life(300, awake=True, used=2.0)]
    room(500, *lives).tidy()
    assert [life.awake for life in lives] == [False, True]
    alone = Life(900, awake=True)
    room(500, alone).tidy()
    assert alone.awake


def test_a_request_that_takes_long_is_use_until_its_end() -> None:
    now = [100.0]
    life = Life(300, awake=True, used=100.0, busy=True)
    place = Room(0, 4.0, lambda: now[0])
    place.tenants.append(life)
    now[0] = 110.0
    place.tidy()
    life.busy, now[0] = False, 113.0
    place.tidy()
    assert life.awake, "asked three seconds ago, though the request began thirteen ago"
    now[0] = 114.0
    place.tidy()
    assert not life.awake
