"""Hundreds of open streams through the real front: every token once and in order, little memory, nobody left behind.

The engine is a stub that speaks the protocol (`benchmarks/streams.py`, which measures a thousand of them).
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are not installed

from benchmarks.streams import Front, Seen, Stream, read_streams, unread, vanish

STREAMS = 200
MEMORY = 400.0  # MiB of the front, as for a thousand streams
LEAVE = 5.0  # seconds until the engine is rid of streams that nobody reads


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with Front(tmp_path / "home", streams=STREAMS, seconds=3.0) as running:
        yield running


def running(front: Front) -> int:
    return int(front.state()["running"])


def answered(clients: list[socket.socket]) -> int:
    """How many have something to read, which they leave where it is."""
    return len(select.select(clients, [], [], 0)[0])


def test_every_token_comes_once_and_in_order(front: Front) -> None:
    seen = asyncio.run(read_streams(front, STREAMS))
    assert [one.error for one in seen if one.error] == []
    assert all(one.whole for one in seen)
    assert min(one.tokens for one in seen) >= 2
    # All were open at once: the last to begin had a token before the first to end had its last.
    assert max(one.times[0] for one in seen) < min(one.times[-1] for one in seen)
    assert 30 < front.memory() < MEMORY
    front.wait(lambda: running(front) == 0, LEAVE)


def test_as_many_tokens_as_were_asked_for(front: Front) -> None:
    seen = asyncio.run(read_streams(front, 20, prompt="count", max_tokens=7))
    assert [(one.tokens, one.whole, one.error) for one in seen] == [(7, True, "")] * 20


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_vanish_are_cancelled_at_the_engine(front: Front, reset: bool) -> None:
    idle = front.files()
    with unread(front, 100, "endless") as clients:
        front.wait(lambda: running(front) == 100, 60)
        for client in clients[:60]:
            vanish(client, reset=reset)
        front.wait(lambda: running(front) == 40, LEAVE)
        for client in clients[60:]:
            vanish(client, reset=reset)
        front.wait(lambda: running(front) == 0, LEAVE)
    front.wait(lambda: front.files() <= idle + 1, LEAVE)


def test_slow_readers_free_the_engine_and_hold_up_nobody(front: Front) -> None:
    """They read nothing while 64 KiB come every 20 ms: what nobody takes must not pile up in the front."""
    idle = front.memory()
    with unread(front, 20, "wide") as clients:
        front.wait(lambda: answered(clients) == 20, 60)
        seen = asyncio.run(read_streams(front, 30, prompt="count", max_tokens=5))
        assert [(one.tokens, one.whole, one.error) for one in seen] == [(5, True, "")] * 30
        front.wait(lambda: running(front) == 0, LEAVE)  # long before the deadline of two minutes
        grown = front.memory() - idle
    assert grown < 20 * 8  # MiB: a second of it, what is in the connection's own buffers, and Python's share


def test_an_answer_that_is_never_read_holds_its_slot_no_longer_than_one_that_is(front: Front) -> None:
    with unread(front, 20, "count", max_tokens=5) as clients:
        front.wait(lambda: answered(clients) == 20, 60)
        front.wait(lambda: running(front) == 0, LEAVE)


def test_what_is_not_the_next_token_is_an_error() -> None:
    """The client itself can fail: a token left out, doubled, an error line, an end without [DONE]."""

    class Wire:
        def abort(self) -> None: ...

    async def read(*lines: str) -> str:
        seen, ended = Seen(), asyncio.get_running_loop().create_future()
        stream = Stream(b"", seen, ended)
        stream.transport = Wire()  # type: ignore[assignment]
        stream.data_received("\n".join(["HTTP/1.1 200 OK", *lines, ""]).encode())
        stream.connection_lost(None)
        return seen.error

    def token(number: int) -> str:
        return f'data: {{"choices": [{{"text": "{number} "}}]}}'

    assert asyncio.run(read(token(0), token(1), "data: [DONE]")) == ""
    assert asyncio.run(read(token(0), token(2), "data: [DONE]")) == "token 2 came where 1 was due"
    assert asyncio.run(read(token(0), token(0), "data: [DONE]")) == "token 0 came where 1 was due"
    assert "stopped" in asyncio.run(read(token(0), 'data: {"error": {"message": "stopped"}}'))
    assert asyncio.run(read(token(0))) == "the connection ended: None"
