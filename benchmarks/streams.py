"""Many open streams: the real front over loopback, a stub engine that speaks its protocol, one client process.

    python -m benchmarks.streams [--streams 1000] [--seconds 10]

Each stream is a POST to /v1/completions with "stream": true. When all are open, each gets one numbered token every
100 to 200 ms for so many seconds, then its end. Prints and writes results/bench-streams.json: `ratios` = goal over what
was measured (errors: 1 if there was none), above 1 = reached; `goals` are all 1.
Memory is the peak resident set (VmHWM) of the front's process alone, with its real routes, keys, traffic and metrics.
A gap is the time between two tokens of a stream as the client reads them, so it holds the stub's own 0.2 s and
the client's delay too.

    python -m benchmarks.streams front --home DIR …       the front, which starts the stub instead of the engine
    python -m benchmarks.streams stub --socket FD …       the stub
A prompt steers the stub: "wait" begins when OLIVEIRA_STUB_STREAMS streams are there and ends OLIVEIRA_STUB_SECONDS
later, "wide" is a token of 64 KiB every 20 ms; anything else begins at once. All end after max_tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oliveira.files import write_json_atomic
from oliveira.serving.protocol import (
    BEAT_SECONDS,
    Accepted,
    Answer,
    Beat,
    Cancel,
    Done,
    End,
    Error,
    Generate,
    Question,
    Said,
    Stats,
    TextReady,
    Token,
)
from oliveira.serving.wire import MAX_LINE, pack, unpack

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "bench-streams.json"
GAP, MEMORY = 1.0, 400.0  # goals: seconds, MiB
REFUSAL = 50.0  # ms
DIGEST = "5" * 64
FOREVER = 1_000_000  # tokens
EVERY = (0.1, 0.2)  # seconds between the tokens of a stream
WIDE, WIDE_EVERY = "x" * 65_536, 0.02
STREAMS, SECONDS = "OLIVEIRA_STUB_STREAMS", "OLIVEIRA_STUB_SECONDS"


# The stub engine --------------------------------------------------------------------------------------------


class Stub:
    """Answers `generate` and `cancel` without a model."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}  # tokens still to come
        self.sent: dict[str, int] = {}
        self.wide: set[str] = set()
        self.due: list[tuple[float, str]] = []
        self.waiting: set[str] = set()
        self.wanted, self.seconds = int(os.environ.get(STREAMS, "1")), float(os.environ.get(SECONDS, "10"))
        self.end: float | None = None

    def handle(self, message: Question, now: float) -> list[Answer]:
        name = message.id
        if isinstance(message, Cancel):
            self.forget(name)
            return []
        if not isinstance(message, Generate):
            return [Error(id=name, status=400, message="the stub only generates.", code="stub")]
        self.left[name], self.sent[name] = message.max_tokens or FOREVER, 0
        if message.text == "wait":
            self.waiting.add(name)
            if len(self.waiting) == self.wanted:
                self.end = now + self.seconds
                for waiting in self.waiting:
                    heapq.heappush(self.due, (now + random.uniform(0, EVERY[1]), waiting))
        else:
            heapq.heappush(self.due, (now, name))
            if message.text == "wide":
                self.wide.add(name)
        return [Accepted(id=name, prompt_tokens=3)]

    def forget(self, name: str) -> None:
        self.left.pop(name, None)
        self.wide.discard(name)

    def tick(self, now: float) -> list[Said]:
        out: list[Said] = []
        while self.due and self.due[0][0] <= now:
            _, name = heapq.heappop(self.due)
            if name not in self.left:
                continue
            number = self.sent[name]
            over = self.end is not None and now >= self.end and name in self.waiting
            if self.left[name] == 0 or over:
                out += _last_words(name, number)
                self.forget(name)
                continue
            self.left[name] -= 1
            self.sent[name] += 1
            wide = name in self.wide
            text = f"{number} {WIDE}" if wide else f"{number} "
            out.append(Token(id=name, index=0, text=text, logprobs=[]))
            heapq.heappush(self.due, (now + (WIDE_EVERY if wide else random.uniform(*EVERY)), name))
        return out

    async def run(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
        ready = TextReady(digest=DIGEST, weights="none", vocab_size=256, max_len=2 * FOREVER, decoder="stub")
        writer.write(pack([ready]))
        beating = asyncio.create_task(self._beat(writer))
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(pack(self.handle(unpack(line, Question), time.monotonic())))
        beating.cancel()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        told, beaten = 0, 0.0
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(0.01)
                out = self.tick(time.monotonic())
                if len(self.left) != told:
                    told = len(self.left)
                    out.append(Stats(running=told))
                if time.monotonic() - beaten >= BEAT_SECONDS:
                    beaten = time.monotonic()
                    out.append(Beat())
                if out:
                    writer.write(pack(out))
                    await writer.drain()


def _last_words(name: str, tokens: int) -> list[Answer]:
    return [
        Done(id=name, index=0, reason="length", text="", tokens=tokens, logprobs=[]),
        End(
            id=name,
            queue_seconds=0.0,
            prefill_seconds=0.0,
            decode_seconds=0.0,
            loss=1.0,
            prompt=[1, 2, 3],
            cached_tokens=0,
            guessed_tokens=0,
            accepted_tokens=0,
        ),
    ]


def serve_front(arguments: list[str]) -> int:
    """The front as it is, but that it starts the stub."""
    from oliveira.serving.front.__main__ import main

    real = asyncio.create_subprocess_exec

    async def start(*command: str, **options: Any) -> asyncio.subprocess.Process:
        at = command.index("oliveira.serving.engine")
        return await real(*command[:at], "benchmarks.streams", "stub", *command[at + 1 :], cwd=ROOT, **options)

    asyncio.create_subprocess_exec = start  # type: ignore[assignment]
    return main(arguments)


# A front on a home of its own -------------------------------------------------------------------------------


class Front:
    """A running front with the stub. Use as a context."""

    def __init__(self, home: Path, *, streams: int = 1, seconds: float = 10.0, **serve: Any) -> None:
        from oliveira.ledger import Ledger
        from oliveira.serving.settings import ServeSection
        from oliveira.world import World

        home.mkdir(parents=True, exist_ok=True)
        world = World(serve=ServeSection(**{"slots": streams, "drain": 1.0, **serve}))
        write_json_atomic(home / "world.json", world.model_dump())
        with Ledger(home) as ledger:
            self.key = ledger.add_key("bench", ("use",))
            ledger.add_artifact(DIGEST, "package", home / "artifacts" / "none", {}, {})
            ledger.promote(DIGEST, actor="bench", numbers={})
        self.log = home / "front.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.streams", "front", "--home", str(home), "--die-with-parent"],
                cwd=ROOT,
                env={**os.environ, STREAMS: str(streams), SECONDS: str(seconds)},
                stdin=subprocess.PIPE,
                stderr=log,
            )
        place = home / "front.json"
        self.wait(place.exists, 120)
        found = json.loads(place.read_bytes())
        self.address = (str(found["host"]), int(found["port"]))

    def wait(self, condition: Any, seconds: float) -> None:
        """Until `condition()`; raises `TimeoutError`."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"not within {seconds:g} seconds: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def __enter__(self) -> Front:
        try:
            self.wait(lambda: self.state()["ready"], 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # it ends with its parent
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def state(self) -> dict[str, Any]:
        """What /ready says; `running` is the number of streams at the engine."""
        with socket.create_connection(self.address, timeout=30) as connection:
            head = f"GET /ready HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            data = b"".join(iter(lambda: connection.recv(65_536), b""))
        return dict(json.loads(data.partition(b"\r\n\r\n")[2]))

    def memory(self) -> float:
        """Peak resident set of the front's process, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def files(self) -> int:
        """Open files and sockets of the front's process."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def request(self, prompt: str, max_tokens: int) -> bytes:
        body = {"model": "oliveira", "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        data = json.dumps(body).encode()
        lines = ("POST /v1/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}")
        typed = (*lines, "Content-Type: application/json", f"Content-Length: {len(data)}", "", "")
        return "\r\n".join(typed).encode() + data


# The client -------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What one stream has brought."""

    begun: float = 0.0
    tokens: int = 0
    times: list[float] = field(default_factory=list)
    whole: bool = False  # [DONE] came
    error: str = ""


class Stream(asyncio.Protocol):
    """Reads one stream: tokens must be 0, 1, 2, …"""

    def __init__(self, request: bytes, seen: Seen, ended: asyncio.Future[None]) -> None:
        self.request, self.seen, self.ended = request, seen, ended
        self.rest, self.started = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.seen.begun = time.monotonic()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self.started:
            self.started = True
            if not data.startswith(b"HTTP/1.1 200 "):
                self._stop(data[:300].decode(errors="replace"))
                return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                self._event(line[6:], now)

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self.seen.whole = True
            self._stop("")
            return
        event = json.loads(data)
        if "error" in event:
            self._stop(str(event["error"]))
            return
        for number in event["choices"][0]["text"].split():
            if number != str(self.seen.tokens):
                self._stop(f"token {number} came where {self.seen.tokens} was due")
                return
            self.seen.tokens += 1
            self.seen.times.append(now)

    def _stop(self, error: str) -> None:
        self.seen.error = self.seen.error or error
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.seen.whole and not self.seen.error:
            self.seen.error = f"the connection ended: {error}"
        if not self.ended.done():
            self.ended.set_result(None)


async def read_streams(front: Front, number: int, *, prompt: str = "wait", max_tokens: int = FOREVER) -> list[Seen]:
    """All streams to their ends, opened twenty at a time."""
    loop = asyncio.get_running_loop()
    seen = [Seen() for _ in range(number)]
    ends = [loop.create_future() for _ in range(number)]
    request = front.request(prompt, max_tokens)
    for first in range(0, number, 20):
        await asyncio.gather(
            *(
                loop.create_connection(lambda i=i: Stream(request, seen[i], ends[i]), *front.address)
                for i in range(first, min(first + 20, number))
            )
        )
    await asyncio.gather(*ends)
    return seen


@contextlib.contextmanager
def unread(front: Front, number: int, prompt: str, max_tokens: int = FOREVER) -> Iterator[list[socket.socket]]:
    """Clients that ask for a stream and read nothing."""
    opened = []
    try:
        for _ in range(number):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(front.address)
            connection.sendall(front.request(prompt, max_tokens))
            opened.append(connection)
        yield opened
    finally:
        for connection in opened:
            connection.close()


def vanish(connection: socket.socket, *, reset: bool) -> None:
    """Closes as a program that ends does, or as a cable that is pulled and a router that notices."""
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# The table --------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(streams: int, seconds: float) -> dict[str, Any]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        front = stack.enter_context(Front(home, streams=streams, seconds=seconds, deadline=600.0))
        idle, began, busy = front.memory(), time.monotonic(), time.process_time()
        seen = asyncio.run(read_streams(front, streams))
        taken, memory = time.monotonic() - began, front.memory()
        cpu = {"front": _cpu_seconds(front.process.pid), "client": time.process_time() - busy}
        cpu["stub"] = sum(map(_cpu_seconds, _children(front.process.pid)))
    gaps = [b - a for one in seen for a, b in zip(one.times, one.times[1:], strict=False)]
    errors = [one.error for one in seen if one.error or not one.whole or not one.tokens]
    first = max((one.times[0] for one in seen if one.times), default=0.0)
    last = min((one.times[-1] for one in seen if one.times), default=0.0)
    return {
        "streams": streams,
        "open at once": sum(1 for one in seen if one.times) if last > first else 0,
        "errors": len(errors),
        "first errors": errors[:3],
        "tokens": sum(one.tokens for one in seen),
        "p50 gap, s": round(percentile(gaps, 0.5), 4) if gaps else None,
        "p99 gap, s": round(percentile(gaps, 0.99), 4) if gaps else None,
        "largest gap, s": round(max(gaps), 4) if gaps else None,
        "front's peak resident set, MiB": round(memory, 1),
        "of it before the first stream, MiB": round(idle, 1),
        "seconds": round(taken, 1),
        "CPU seconds": {name: round(value, 1) for name, value in cpu.items()},
    }


def refusals(asked: int = 200) -> dict[str, Any]:
    """How long a full queue takes to say so: each refusal on a connection of its own, one after the other."""
    seconds, wrong = [], 0
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        front = stack.enter_context(Front(home, streams=1, slots=1, queue=0, deadline=600.0))
        stack.enter_context(unread(front, 1, "wait"))
        front.wait(lambda: front.state()["running"] or front.state()["waiting"], 30)
        for _ in range(asked):
            began = time.perf_counter()
            with socket.create_connection(front.address, timeout=30) as connection:
                connection.sendall(front.request("wait", 8))
                head = connection.recv(65_536)
            seconds.append(time.perf_counter() - began)
            wrong += not (head.startswith(b"HTTP/1.1 429 ") and b"retry-after:" in head.lower())
    return {
        "refusals": asked,
        "refusals without 429 and Retry-After": wrong,
        "p50 refusal, ms": round(1e3 * percentile(seconds, 0.5), 2),
        "p99 refusal, ms": round(1e3 * percentile(seconds, 0.99), 2),
    }


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the result is written")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = given.streams + 100
    if soft < need:  # the front inherits it
        if hard != resource.RLIM_INFINITY and hard < need:
            raise SystemExit(f"{given.streams} streams need {need} open files, this shell allows {hard}: ulimit -n.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    found = measure(given.streams, given.seconds) | refusals()
    for name, value in found.items():
        print(f"{name:<40} {value}", flush=True)
    label = f"{given.streams} open SSE streams, stub engine"
    complete = found["errors"] == 0 and found["open at once"] == given.streams
    ratios = {
        f"{label}: no errors, all open at once": float(complete),
        f"{label}: p99 gap": round(GAP / (found["p99 gap, s"] or float("inf")), 3),
        f"{label}: memory of the front": round(MEMORY / found["front's peak resident set, MiB"], 3),
    }
    refused = found["refusals without 429 and Retry-After"] == 0
    ratios["full queue: 429 with Retry-After, p99"] = round(REFUSAL / found["p99 refusal, ms"], 3) if refused else 0.0
    from benchmarks.table import origin  # here: front and stub run this file too, and must not hold torch

    write_json_atomic(
        given.output,
        {
            **origin(f"python -m benchmarks.streams --streams {given.streams} --seconds {given.seconds:g}", None),
            "ratios": ratios,
            "goals": dict.fromkeys(ratios, 1.0),
            "rows": found,
        },
    )
    print(json.dumps(ratios))


def stub(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True)
    given, _ = parser.parse_known_args(arguments)
    asyncio.run(Stub().run(socket.socket(fileno=given.socket)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["front", *rest]:
            sys.exit(serve_front(rest))
        case ["stub", *rest]:
            stub(rest)
        case _:
            main()
