"""Processes die, clients leave, models are broken: the server goes on, and says what happened."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serving_helpers import Home, Server, wait_for

from oliveira.kernels.build import unavailable
from oliveira.serving.front import stream as sse
from oliveira.serving.front.shapes import CompletionShape
from oliveira.serving.protocol import Done, Token

LONG = {"model": "oliveira", "prompt": "a", "max_tokens": 250, "stream": True, "stop": "\0\0"}


class Reader(threading.Thread):
    """Reads one stream to its end, and notes when what came."""

    def __init__(self, server: Server, body: dict[str, Any], path: str = "/v1/completions") -> None:
        super().__init__(daemon=True)
        self.server, self.body, self.path = server, body, path
        self.frames: list[str] = []
        self.status, self.ended, self.failure = 0, 0.0, ""
        self.start()

    def run(self) -> None:
        try:
            with self.server.http() as http, http.stream("POST", self.path, json=self.body) as response:
                self.status = response.status_code
                for line in response.iter_lines():
                    if line:
                        self.frames.append(line.removeprefix("data: "))
        except httpx.TransportError as error:
            self.failure = repr(error)
        self.ended = time.monotonic()

    @property
    def last(self) -> Any:
        return self.frames[-1] if self.frames[-1] == "[DONE]" else json.loads(self.frames[-1])


@pytest.fixture(autouse=True)
def _torch_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native step writes 250 tokens in 30 ms: no stream would be open long enough to be caught."""
    monkeypatch.setenv("OLIVEIRA_KERNEL", "off")


@pytest.fixture
def running(make_home: Callable[..., Home]) -> Iterator[Server]:
    home = make_home(slots=4)
    home.promote(home.make())
    with Server(home) as server:
        server.ready()
        yield server


def pause(pid: int) -> None:
    """Stops an engine for a moment, so that streams are surely open when it dies."""
    os.kill(pid, signal.SIGSTOP)


def test_engine_killed_under_streams(running: Server) -> None:
    """Each stream is told within 2 s, what had not begun is answered by the next engine, which is there within 10 s."""
    limit = 10.0
    streams = [Reader(running, LONG) for _ in range(4)]
    wait_for(lambda: all(len(stream.frames) >= 2 for stream in streams))
    [engine] = running.engines()
    pause(engine)
    waiting = [Reader(running, {**LONG, "max_tokens": 3}) for _ in range(3)]
    wait_for(lambda: admitted(running) >= 7)
    killed = time.monotonic()
    os.kill(engine, signal.SIGKILL)
    arriving = Reader(running, {**LONG, "max_tokens": 3})
    for stream in streams:
        stream.join(5)
        assert stream.ended - killed < 2
        assert stream.last["error"]["code"] == "engine_stopped" and not stream.failure
    running.ready(seconds=limit)
    assert time.monotonic() - killed < limit
    for stream in [*waiting, arriving]:
        stream.join(limit)
        assert stream.status == 200 and stream.last == "[DONE]", (stream.status, stream.frames)
    assert running.engines() not in ([], [engine])
    # Noted behind the answers: a busy ledger must not delay them.
    wanted = {"engine_died", "engine_restarted"}
    wait_for(lambda: wanted <= {event["kind"] for event in running.home.ledger.events()}, 5)


@pytest.mark.skipif(unavailable() is not None, reason="no compiler: torch decodes")
def test_engine_killed_under_streams_of_the_native_step(
    make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of its work, not paused: a window lets texts go on for a second, and clients ask until it is dead.

    What a client has begun to read is whole or ends with an error within 2 s; an answer comes within 10 s.
    """
    limit = 10.0
    monkeypatch.delenv("OLIVEIRA_KERNEL")
    home = make_home(slots=4, window=128)
    home.promote(home.make())
    streams: list[Reader] = []
    dead = threading.Event()

    def ask_until_dead(server: Server) -> None:
        failure = ""
        while not dead.is_set() and not failure:
            stream = Reader(server, {**LONG, "max_tokens": 4000})
            streams.append(stream)
            stream.join()
            failure = stream.failure

    with Server(home) as server:
        server.ready()
        clients = [threading.Thread(target=ask_until_dead, args=(server,), daemon=True) for _ in range(6)]
        for client in clients:
            client.start()
        begun = wait_for(
            lambda: len(found := [s for s in streams if len(s.frames) > 100 and not s.ended]) >= 4 and found
        )
        [engine] = server.engines()
        killed = time.monotonic()
        os.kill(engine, signal.SIGKILL)
        dead.set()
        for stream in begun:
            stream.join(5)
            assert stream.ended - killed < 2
        server.ready(seconds=limit)
        with server.http() as http:
            assert http.post("/v1/completions", json={**LONG, "max_tokens": 3, "stream": False}).status_code == 200
        assert time.monotonic() - killed < limit
        for client in clients:
            client.join(30)
        assert not any(stream.failure for stream in streams)
        ends = [stream.last if stream.last == "[DONE]" else stream.last["error"]["code"] for stream in streams]
        assert set(ends) == {"[DONE]", "engine_stopped"}, ends
        assert b"decoding with torch" not in server.log.read_bytes()


def admitted(server: Server) -> int:
    """Requests that have reached the front and are not answered yet."""
    return int(server.state()["requests"]) - 1


def test_disconnecting_clients_free_their_slots(running: Server) -> None:
    """Half of them leave in the middle of a stream, half before anything came: slots and queue are empty at once."""
    body = json.dumps({**LONG, "n": 4})
    plain = json.dumps({**LONG, "n": 4, "stream": False})
    host, port = running.url.removeprefix("http://").split(":")
    sockets = []
    for data in [body, plain] * 6:
        connection = socket.create_connection((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.home.use}\r\n"
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode()
        )
        sockets.append(connection)
    wait_for(lambda: running.state()["running"] == 4 and running.state()["waiting"] > 0)
    [engine] = running.engines()
    pause(engine)  # 48 answers of 250 tokens are far from done when it goes on
    for connection in sockets:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
        connection.close()
    wait_for(lambda: running.state()["requests"] == 1, 2)  # only the one that asks
    os.kill(engine, signal.SIGCONT)
    wait_for(lambda: running.state()["running"] == running.state()["waiting"] == 0, 1)
    with running.http() as http:
        body_out = {"model": "oliveira", "prompt": "a", "max_tokens": 2}
        assert http.post("/v1/completions", json=body_out).status_code == 200


def test_sigterm_lets_streams_end(running: Server) -> None:
    stream = Reader(running, LONG)
    wait_for(lambda: len(stream.frames) >= 2)
    [engine] = running.engines()
    pause(engine)  # the stream is surely open when the signal comes
    running.process.send_signal(signal.SIGTERM)
    with running.http() as http:
        wait_for(lambda: http.get("/ready").status_code == 503)
        refused = http.post("/v1/completions", json={**LONG, "stream": False})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/health").status_code == 200
    os.kill(engine, signal.SIGCONT)
    stream.join(10)
    assert stream.last == "[DONE]" and len(stream.frames) > 100
    assert running.process.wait(10) == 0
    assert not (running.home.path / "front.json").exists()
    wait_for(lambda: not _alive(engine), 5)


def test_sigterm_tells_streams_that_take_too_long(make_home: Callable[..., Home]) -> None:
    home = make_home(drain=0.3)
    home.promote(home.make())
    with Server(home) as server:
        server.ready()
        stream = Reader(server, LONG)
        wait_for(lambda: len(stream.frames) >= 2)
        [engine] = server.engines()
        pause(engine)
        whole = Reader(server, {**LONG, "stream": False})
        wait_for(lambda: admitted(server) >= 2)
        server.process.send_signal(signal.SIGTERM)
        for reader in (stream, whole):
            reader.join(8)
            assert reader.last["error"]["code"] == "draining" and not reader.failure
        assert whole.status == 503
        os.kill(engine, signal.SIGCONT)
        assert server.process.wait(10) == 0


def test_the_front_ends_with_its_parent_and_the_engine_with_the_front(make_home: Callable[..., Home]) -> None:
    home = make_home()
    home.promote(home.make())
    with Server(home, "--die-with-parent") as server:
        server.ready()
        [engine] = server.engines()
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(10) == 0
        wait_for(lambda: not _alive(engine), 5)
    with Server(home) as server:
        server.ready()
        [engine] = server.engines()
        server.process.kill()
        wait_for(lambda: not _alive(engine), 5)


def test_without_a_model_the_server_waits_for_one(make_home: Callable[..., Home]) -> None:
    home = make_home()
    body = {"model": "oliveira", "prompt": "a", "max_tokens": 2}
    with Server(home) as server, server.http() as http:
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert http.get("/ready").status_code == 503 and http.get("/health").status_code == 200
        assert home.ledger.setting("serving")["digest"] is None
        made = home.make()
        home.promote(made)
        server.ready(made.digest)
        assert http.post("/v1/completions", json=body).status_code == 200
        wait_for(lambda: home.ledger.setting("serving")["digest"] == made.digest, 2)


def test_a_broken_champion_at_the_start_leaves_the_previous_serving(make_home: Callable[..., Home]) -> None:
    home = make_home()
    good, bad = home.make(seed=1), home.make(seed=2)
    home.promote(good)
    home.promote(bad)
    flip_bit(bad.path / "model.safetensors")
    with Server(home) as server:
        state = server.ready(good.digest)
        assert "safetensors" in state["failure"]
        [failed] = wait_for(lambda: [e for e in home.ledger.events() if e["kind"] == "swap_failed"], 5)
        assert failed["data"]["digest"] == bad.digest and "safetensors" in failed["data"]["reason"]
        flip_bit(bad.path / "model.safetensors")  # mended, and promoted again by hand
        home.promote(bad)
        server.ready(bad.digest)


class Slow:
    """Stands in for a generation whose second token takes its time."""

    def __init__(self) -> None:
        self.ended, self.closed, self.due = False, 0, time.monotonic() + 0.3

    async def next(self) -> tuple[int, Done]:
        await asyncio.sleep(self.due - time.monotonic())
        self.ended = True
        return 0, Done(id="", index=0, text="b", tokens=2, logprobs=[], reason="stop")

    def usage(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed += 1


def test_pings_keep_a_slow_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments between the data lines, which clients skip; a client that leaves ends it at once."""
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    monkeypatch.setattr(
        CompletionShape, "__init__", lambda self, with_usage: vars(self).update(with_usage=with_usage, _head={})
    )

    async def play(stay: bool) -> tuple[Slow, str]:
        slow, sent = Slow(), []
        first = (0, Token(id="", index=0, text="a", logprobs=[]))
        shape = CompletionShape(with_usage=False)  # type: ignore[call-arg]
        answer = sse.EventStream(slow, first, shape, seconds=5, headers={})  # type: ignore[arg-type]

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(3600 if stay else 0.1)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b"").decode())

        await answer({"type": "http"}, receive, send)
        return slow, "".join(sent)

    slow, text = asyncio.run(play(stay=True))
    assert text.count(": ping\n\n") >= 2 and text.endswith("data: [DONE]\n\n") and slow.closed == 1
    slow, text = asyncio.run(play(stay=False))
    assert "[DONE]" not in text and slow.closed == 1 and not slow.ended


def flip_bit(path: Any) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _alive(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(found.stdout.strip()) and not found.stdout.startswith("Z")
