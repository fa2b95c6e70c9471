"""The front's end of one engine process: starts it, sends requests, hands out answers. No tensors."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from oliveira.errors import OliveiraError
from oliveira.serving.front.errors import ApiError, EngineDied, too_far_behind
from oliveira.serving.protocol import (
    BEAT_SECONDS,
    Answer,
    Beat,
    Cancel,
    End,
    Error,
    Failed,
    Question,
    Ready,
    Result,
    Said,
    Stats,
    TaskReady,
    TextReady,
)
from oliveira.serving.wire import MAX_LINE, pack, unpack

# An engine that is not ready by then has failed. Long, as waiting costs nothing while the old one serves and giving up
# refuses a good model: on a starved machine the import of torch alone took 99 s.
START_SECONDS = 300.0
# Threads that wait for each other by spinning stand still when another process wants a core: beside a training, two
# patient threads decoded 144 tokens a second, two spinning ones 13.
PATIENT = {"OMP_WAIT_POLICY": "passive"}
# A client that takes nothing for so many seconds while so many bytes wait for it is cut.
MAX_UNREAD, PATIENCE = 1 << 20, 1.0
EXIT_SECONDS = 5.0  # from the closed socket to the kill

log = logging.getLogger(__name__)


class EngineFailed(OliveiraError):
    """The engine refused its artifact, or never became ready."""


class Job:
    """The messages of one HTTP request. `next` gives (position of the message, answer)."""

    def __init__(self, engine: EngineProcess, names: Sequence[str]) -> None:
        self.engine, self.names = engine, names
        self._open = set(names)
        self._answers: asyncio.Queue[tuple[int, int, Answer] | OliveiraError] = asyncio.Queue()
        self._unread, self._taken = 0, time.monotonic()  # bytes, as the engine wrote them; when `next` was last asked

    async def next(self) -> tuple[int, Answer]:
        """Raises `ApiError` when the engine refuses, `EngineDied` when it is gone."""
        self._taken = time.monotonic()
        answer = await self._answers.get()
        if isinstance(answer, OliveiraError):
            raise answer
        size, number, message = answer
        self._unread -= size
        return number, message

    def put(self, name: str, message: Answer, size: int) -> None:
        if isinstance(message, Error):
            self.engine.failed += message.status >= 500
            self.fail(ApiError(message.status, message.message, code=message.code))
            return
        if isinstance(message, End | Result):
            self.engine.answered += 1
            self._open.discard(name)
        if self._answers.empty():  # whoever waits for the engine has not been slow
            self._taken = time.monotonic()
        self._unread += size
        self._answers.put_nowait((size, self.names.index(name), message))
        if self._unread > MAX_UNREAD and time.monotonic() - self._taken > PATIENCE:
            self.fail(too_far_behind(MAX_UNREAD))
            self.close()

    def fail(self, error: OliveiraError) -> None:
        self._answers.put_nowait(error)

    def close(self) -> None:
        """The answer is not wanted any more: frees the slots. May be called again."""
        self.engine.forget(self, self._open)
        self._open = set()


class EngineProcess:
    """A running engine. `digest` names what it serves; every job on it is answered by that artifact alone."""

    _numbers = itertools.count()

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.digest = ""
        self.max_len = 0  # tokens of text
        self.task: dict[str, Any] | None = None  # as GET /v1/task says it; None = it continues text
        self.started = int(time.time())
        self.ready: Ready | None = None  # what it said of itself
        self.stats = Stats()
        self.silence = 30.0  # seconds without a sign of life, after which it hangs
        self.hung = False
        self.answered = self.failed = 0  # messages brought to their end, and those that failed by its own fault
        self._heard = True  # since the last look
        self.gone = asyncio.Event()
        self.retired = False
        self._jobs: dict[str, Job] = {}
        self._listener: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, path: Path, digest: str, options: Sequence[str]) -> EngineProcess:
        """Waits until the new process has verified, loaded and tried the artifact. Raises `EngineFailed`.

        `options`: for its command line.
        """
        ours, theirs = socket.socketpair()
        try:
            command = [sys.executable, "-m", "oliveira.serving.engine", "--artifact", str(path), "--digest", digest]
            command += [*options, "--socket", str(theirs.fileno())]
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**PATIENT, **os.environ}
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
        engine = cls(process, reader, writer)
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await reader.readline()
            message = unpack(line, Said) if line else Failed(reason="the engine process ended while loading")
            if not isinstance(message, Ready):
                raise EngineFailed(message.reason if isinstance(message, Failed) else "the engine is not ready")
        except TimeoutError:
            await engine.close()
            raise EngineFailed(f"the engine was not ready within {START_SECONDS:g} seconds") from None
        except BaseException:
            await engine.close()
            raise
        engine.ready, engine.digest = message, message.digest
        engine.max_len = message.max_len if isinstance(message, TextReady) else 0
        engine.task = message.task if isinstance(message, TaskReady) else None
        engine._listener = asyncio.create_task(engine._listen())
        engine._watcher = asyncio.create_task(engine._watch())
        return engine

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    def memory_mib(self) -> int:
        """Resident memory of the process; 0 once it is gone, and where there is no /proc."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * resource.getpagesize() >> 20

    def submit(self, messages: Sequence[Question]) -> Job:
        """Sends the messages as one job. Raises `EngineDied` if the process is gone."""
        if self.gone.is_set():
            raise EngineDied("the engine is gone")
        names = [f"{next(self._numbers)}" for _ in messages]
        job = Job(self, names)
        self._jobs.update(dict.fromkeys(names, job))
        self._writer.write(pack(replace(message, id=name) for name, message in zip(names, messages, strict=True)))
        return job

    async def ask(self, message: Question) -> Answer:
        """One question, one answer."""
        job = self.submit([message])
        try:
            return (await job.next())[1]
        finally:
            job.close()

    def forget(self, job: Job, unfinished: set[str]) -> None:
        if unfinished and not self.gone.is_set():
            self._writer.write(pack(Cancel(id=name) for name in unfinished))
        for name in job.names:
            self._jobs.pop(name, None)

    def fail_all(self, make: Callable[[], OliveiraError]) -> None:
        """Ends every open job with an error of its own."""
        for job in set(self._jobs.values()):
            job.fail(make())

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                message = unpack(line, Said)
                self._heard = True
                if isinstance(message, Answer):
                    if (job := self._jobs.get(message.id)) is not None:
                        job.put(message.id, message, len(line))
                elif isinstance(message, Stats):
                    self.stats = message
                elif not isinstance(message, Beat):
                    raise OliveiraError(f"{type(message).__name__} comes once, at the start")
        except (OSError, ValueError, OliveiraError) as error:
            log.error("engine connection broken", extra={"digest": self.digest[:12], "error": str(error)})
        self.gone.set()
        self._writer.close()
        self.fail_all(lambda: EngineDied("the engine is gone"))

    async def _watch(self) -> None:
        """Kills the process when it has been silent for too long: then it is gone, as if it had died by itself.

        Beats are counted, not seconds: a front that was stopped along with its engine must not blame it.
        """
        missed = 0
        while missed * BEAT_SECONDS < self.silence:
            await asyncio.sleep(BEAT_SECONDS)
            missed = 0 if self._heard else missed + 1
            self._heard = False
        self.hung = True
        log.error("engine hangs", extra={"digest": self.digest[:12], "seconds": self.silence})
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """Ends the process: its socket closes, it exits; killed if it does not."""
        self._writer.close()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._listener is not None:
            await self._listener
        self.gone.set()
