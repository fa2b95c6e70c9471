"""Which engine answers: follows the ledger's champion, swaps without a gap, and replaces an engine that died.

New requests go to the new engine once it has verified, loaded and passed the smoke prompts; the old one ends
its streams and exits. A champion that fails leaves the old engine serving until something is promoted again.
Where nothing serves, the previous model is tried too, and both again and again with growing pauses.
An engine that was put away (`room.py`) sleeps: the next request, or the next champion, starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from oliveira import __version__
from oliveira.ledger import Ledger
from oliveira.monitoring.metrics import Metrics
from oliveira.serving.front.client import START_SECONDS, EngineFailed, EngineProcess
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.room import PROCESS_MIB, TOO_LARGE, Room
from oliveira.serving.protocol import Stats, TextReady

POLL_SECONDS = 0.05
WAIT_FOR_ENGINE = 20.0  # what a request waits for an engine that is being started
FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
FAILED, FAILED_SHARE = 5, 0.5  # so many failures, and more than this share of all answers: it is told
HEALTHY_AFTER = 30.0  # an engine that lived so long is not part of a series of deaths

log = logging.getLogger(__name__)

Write = Callable[[Callable[[Ledger], Any]], Coroutine[Any, Any, None]]


class Fleet:
    """One engine takes new requests; older ones end their streams. `ledger` is read in the event loop.

    `options`: of every engine's command line. `silence`: seconds after which an engine that says nothing is replaced.
    """

    def __init__(
        self,
        ledger: Ledger,
        write: Write,
        metrics: Metrics,
        options: Sequence[str],
        *,
        silence: float = 30.0,
        room: Room | None = None,
    ) -> None:
        self._ledger, self._write, self._metrics = ledger, write, metrics
        self._options, self._silence = options, silence
        self._room = room or Room()
        self._room.tenants.append(self)
        self.asleep = False  # its engine waits for a request
        self.used = 0.0
        self._waiting = 0  # requests without an engine
        self._asked: float | None = None  # since when
        self._moved: float | None = None  # when the champion changed, until it serves
        self._coming = 0  # MiB of the engine that is being started
        self._sizes: dict[str, int] = {}  # MiB of what was served, by digest
        self.current: EngineProcess | None = None
        self.old: list[EngineProcess] = []
        self.promoted: float | None = None  # when the champion became it, by the ledger's clock
        self.failure: str | None = None  # why the champion is not what serves
        self._served: str | None = None
        self._told: EngineProcess | None = None  # it fails, and the ledger has an event of it
        self._hope = True  # an engine may come: requests wait instead of failing
        self._changed = asyncio.Condition()
        self._version = self._promotion = -1  # of the ledger, and of its last change of champion
        self._large: set[str] = set()  # digests that were told to need more than there is
        self._pair: tuple[str | None, str | None] = (None, None)
        self._not_before: dict[str, float] = {}  # digests that failed, and when to try them again
        self._pause = FIRST_PAUSE
        self._deaths = 0
        self._born = self._hold_until = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def alive(self) -> EngineProcess | None:
        return self.current if self.current is not None and not self.current.gone.is_set() else None

    async def engine(self) -> EngineProcess:
        """The engine for a new request. Waits while one is being started; `ApiError` 503 without one."""
        if self.alive is None:
            await self._wait()
        self.used = time.monotonic()
        if (engine := self.alive) is None:
            reason = f" ({self.failure})" if self.failure else ""
            message = f"no model is being served{reason}. Try again in a moment."
            raise ApiError(503, message, code="no_model", retry_after=5)
        return engine

    async def _wait(self) -> None:
        begun = time.monotonic()
        self._waiting += 1
        self._asked = self._asked or begun
        try:
            while time.monotonic() - begun < (START_SECONDS if self.asleep else WAIT_FOR_ENGINE):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_FOR_ENGINE), self._changed:
                        await self._changed.wait_for(lambda: self.alive is not None or not self._hope)
                        return
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._asked = None

    # What the room asks and says --------------------------------------------------------------------------------

    @property
    def called(self) -> float | None:
        wanted = [when for when in (self._asked, self._moved) if when is not None]
        return min(wanted, default=None)

    @property
    def awake(self) -> bool:
        return self.alive is not None

    @property
    def busy(self) -> bool:
        return self._waiting > 0 or (self.alive is not None and self.alive.jobs > 0)

    def resident(self) -> int:
        return self._coming + self.ending() + (self.alive.memory_mib() if self.alive else 0)

    def ending(self) -> int:
        return sum(engine.memory_mib() for engine in self.old)

    def put_away(self) -> None:
        engine, self.current = self.current, None
        self.asleep = True
        if engine is not None:
            self._sizes[engine.digest] = engine.memory_mib()
            self.old.append(engine)
            self._spawn(self._retire(engine))
            log.info("asleep", extra={"digest": engine.digest[:12]})
            self._say_serving(None)

    def state(self) -> dict[str, Any]:
        engine = self.alive
        ready = engine.ready if engine else None
        text = ready if isinstance(ready, TextReady) else None
        stats = engine.stats if engine else Stats()
        return {
            "digest": engine.digest if engine else None,
            "weights": ready.weights if ready else None,
            "vocab_size": text.vocab_size if text else None,
            "max_len": text.max_len if text else None,
            "task": engine.task["task"] if engine and engine.task else None,
            "running": stats.running,
            "waiting": stats.waiting,
            "kv_usage": stats.kv_usage,
            "attention_cache": stats.attention_cache,
            "ending": [old.digest for old in self.old],
            "failure": self.failure,
            "asleep": self.asleep,
        }

    async def run(self) -> None:
        """Follows the ledger until cancelled."""
        self._say_serving(None)
        while True:
            await self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await (self.current.gone.wait() if self.current else asyncio.Event().wait())

    async def close(self) -> None:
        """Ends every engine process."""
        engines = self.old + ([self.current] if self.current else [])
        self.current = None
        await asyncio.gather(*(engine.close() for engine in engines))
        self._say_serving(None)
        await asyncio.gather(*self._tasks)

    # What runs inside `run` ---------------------------------------------------------------------------------

    async def _turn(self) -> None:
        if self.current is not None and self.current.gone.is_set():
            await self._bury(self.current)
        champion, previous = self._aliases()
        now = time.monotonic()
        wished = [champion] if self.alive else [champion, previous]
        candidates = [digest for digest in wished if digest and self._not_before.get(digest, 0.0) < math.inf]
        await self._set_hope(self.alive is not None or bool(candidates))
        if self.alive and self.alive.digest == champion:
            self.failure = self._moved = None
            self._tell_failing(self.alive)
            return
        if self.asleep and self.called is None:
            return
        for digest in candidates:
            if now >= max(self._not_before.get(digest, 0.0), self._hold_until):
                if self._may_start(digest):
                    await self._start(digest)
                    self._coming = 0
                return

    def _may_start(self, digest: str) -> bool:
        """Whether there is room for it. Who was not asked for goes to sleep where there is none."""
        size = self._sizes.get(digest) or self._estimate(digest)
        if self._room.make(self, size, asked=self.called is not None):
            self._coming = size
            if 0 < self._room.memory < size:
                self._tell_too_large(digest, size)
            return True
        if not self.alive and not self.asleep:
            self.asleep = True
            self._say_serving(None)
        return False

    def _estimate(self, digest: str) -> int:
        row = self._ledger.artifact(digest)
        files = row.path.glob("*") if row else ()
        with contextlib.suppress(OSError):
            return PROCESS_MIB + (sum(file.stat().st_size for file in files) >> 20)
        return PROCESS_MIB

    def _tell_too_large(self, digest: str, size: int) -> None:
        if digest not in self._large:
            self._large.add(digest)
            self._record(TOO_LARGE, {"digest": digest, "mib": size, "memory": self._room.memory})

    def _aliases(self) -> tuple[str | None, str | None]:
        """Champion and previous. A promotion or rollback since the last look forgives earlier failures."""
        version = self._ledger.version()
        if version != self._version:
            self._version = version
            moves = (d for d in self._ledger.decisions() if d.verdict in ("promoted", "rolled back"))
            last = next(moves, None)
            if last is not None and last.id != self._promotion:
                if self._promotion >= 0:  # one that sleeps is tried at once: a person waits for the word
                    self._moved = time.monotonic()
                self._promotion, self.promoted = last.id, last.time
                self._not_before.clear()
                self.failure = None  # the same artifact refused again is told again
            self._pair = (self._ledger.alias("champion"), self._ledger.alias("previous"))
        return self._pair

    async def _start(self, digest: str) -> None:
        """Starts an engine for `digest` and lets it take over, or notes why it cannot."""
        begun = time.monotonic()
        row = self._ledger.artifact(digest)
        try:
            if row is None:
                raise EngineFailed(f"artifact {digest[:12]} is not in the ledger")
            engine = await EngineProcess.start(row.path, digest, self._options)
            engine.silence = self._silence
        except (EngineFailed, OSError) as error:
            await self._refuse(digest, str(error))
            return
        if self.alive and self._ledger.alias("champion") != digest:  # changed again while this one was loading
            self._spawn(engine.close())
            return
        old, served = self.alive, self._served
        self.current, self._served, self._born = engine, digest, time.monotonic()
        woken, self.asleep, self._moved, self.used = self.asleep and served == digest, False, None, self._born
        if old is not None:
            self.old.append(old)
            self._spawn(self._retire(old))
        self._not_before = dict.fromkeys(self._not_before, math.inf)
        seconds = round(time.monotonic() - begun, 3)
        self._metrics.set_model(__version__, digest[:12])
        if served != digest:
            self._metrics.swap_total.labels(result="ok").inc()
            self._metrics.swap_seconds.observe(seconds)
        await self._set_hope(True)
        log.info("serving", extra={"digest": digest[:12], "seconds": seconds})
        kind = "engine_restarted" if served == digest else "swap"
        if not woken:
            self._record(kind, {"seconds": seconds, "from": served, "to": digest, "result": "ok"})
        self._say_serving(digest)

    async def _refuse(self, digest: str, reason: str) -> None:
        log.error("artifact refused", extra={"digest": digest[:12], "reason": reason})
        waited = self._not_before.get(digest)
        self._pause = FIRST_PAUSE if waited is None else min(MAX_PAUSE, self._pause * 2)
        self._not_before[digest] = math.inf if self.alive else time.monotonic() + self._pause
        self._moved = None
        self._metrics.swap_total.labels(result="failed").inc()
        if reason != self.failure:
            self.failure = reason
            self._record("swap_failed", {"digest": digest, "reason": reason})
        await self._set_hope(self._hope)

    async def _bury(self, engine: EngineProcess) -> None:
        """The engine that served has died: the next turn starts another, the first time at once."""
        self.current = None
        lived = time.monotonic() - self._born
        self._deaths = 1 if lived > HEALTHY_AFTER else self._deaths + 1
        pause = 0.0 if self._deaths == 1 else min(MAX_PAUSE, FIRST_PAUSE * 2 ** (self._deaths - 2))
        self._hold_until = time.monotonic() + pause
        self._spawn(engine.close())
        log.error(
            "engine died",
            extra={"digest": engine.digest[:12], "lived": round(lived, 1), "deaths": self._deaths, "hung": engine.hung},
        )
        self._record("engine_died", {"digest": engine.digest, "lived": round(lived, 3), "hung": engine.hung})

    async def _retire(self, engine: EngineProcess) -> None:
        while engine.jobs and not engine.gone.is_set():
            await asyncio.sleep(POLL_SECONDS)
        await engine.close()
        self.old.remove(engine)

    def _tell_failing(self, engine: EngineProcess) -> None:
        """Once an engine: most of its answers are failures of its own. The loop decides what comes of it."""
        answers = engine.answered + engine.failed
        if engine is not self._told and engine.failed >= FAILED and engine.failed > FAILED_SHARE * answers:
            self._told = engine
            self._record("champion_fails", {"digest": engine.digest, "answers": answers, "failed": engine.failed})

    async def _set_hope(self, hope: bool) -> None:
        async with self._changed:
            self._hope = hope
            self._changed.notify_all()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record(self, kind: str, data: dict[str, Any]) -> None:
        """Not waited for: a ledger that another process holds must not delay a swap."""
        self._spawn(self._write(lambda ledger: ledger.event(kind, data)))

    def _say_serving(self, digest: str | None) -> None:
        told = {"digest": digest, "time": time.time()} | ({"asleep": True} if self.asleep else {})
        self._spawn(self._write(lambda ledger: ledger.set_setting("serving", told)))
