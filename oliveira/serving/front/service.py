"""One life behind the front: its world, ledger, engines and metrics, and what it keeps of its requests."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from oliveira.errors import DiskError, UserError
from oliveira.ledger import Ledger
from oliveira.ledger.lives import OWN
from oliveira.monitoring.metrics import Metrics
from oliveira.monitoring.traffic import TrafficLog
from oliveira.serving.front.answer_log import AnswerLog
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.fleet import Fleet
from oliveira.serving.front.limits import Admission
from oliveira.serving.front.room import Room
from oliveira.serving.settings import ServeSection

EXPIRE_SECONDS = 600.0  # between two looks for prompts that are too old

log = logging.getLogger(__name__)
T = TypeVar("T")


def read_settings(home: Path) -> ServeSection:
    """Those of the world that `oliveira up` left in this home. Raises `UserError`."""
    place = home / "world.json"
    try:
        return ServeSection.model_validate(json.loads(place.read_bytes())["serve"])
    except OSError:
        raise UserError(f"{home} has no world.json. Start with `oliveira up --home {home}`.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("serve", *first["loc"])))
        raise UserError(f"{place}: {where}: {first['msg']}. Run `oliveira up`.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} cannot be read ({type(error).__name__}: {error}). Run `oliveira up`.") from None


class Service:
    """A life as the front has it, in one event loop; its ledger is written in one thread beside that.

    Two connections: a reader for the event loop, which SQLite never lets wait in WAL mode, and a writer that
    may wait. `home`: the folder of the life. `admission` and `room` are shared by all lives of a front.
    """

    def __init__(
        self,
        home: Path,
        settings: ServeSection,
        name: str = OWN,
        *,
        admission: Admission | None = None,
        room: Room | None = None,
    ) -> None:
        self.home, self.settings, self.name = home, settings, name
        self.names: tuple[str, ...] = (name,)  # by which clients may ask for it, besides its digest
        self.ledger = Ledger(home)
        self._writer = Ledger(home)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.metrics = Metrics()
        keep, megabytes = settings.keep_traffic, settings.traffic_megabytes
        self._log = TrafficLog(home / "traffic", megabytes, settings.traffic_days)
        self.traffic = self._log if keep else None
        dropped = self.metrics.traffic_dropped_total
        self.answers = (
            AnswerLog(self._writer, self._thread.submit, megabytes=megabytes, dropped=dropped) if keep else None
        )
        self.admission = admission or Admission(slots=settings.slots, queue=settings.queue)
        options = engine_options(home, settings)
        self.fleet = Fleet(self.ledger, self._note, self.metrics, options, silence=settings.silence, room=room)
        self._following: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._following = asyncio.create_task(self.fleet.run())
        self._following.add_done_callback(must_not_end)
        self._expiring = asyncio.create_task(self._expire())

    async def stop(self) -> None:
        tasks = [task for task in (self._following, self._expiring) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.fleet.close()
        self._thread.shutdown(wait=True)
        if self.traffic is not None:
            self.traffic.close()
        self._writer.close()
        self.ledger.close()

    async def write(self, action: Callable[[Ledger], T]) -> T:
        """Runs `action` on the writing connection, one after the other. `DiskError` becomes 507."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, functools.partial(action, self._writer))
        except DiskError as error:
            raise ApiError(507, str(error), code="disk_full") from error

    async def _note(self, action: Callable[[Ledger], Any]) -> None:
        """As `write`, for what serving can do without: a full disk is logged."""
        try:
            await self.write(action)
        except ApiError as error:
            log.error("not recorded", extra={"error": str(error)})

    async def _expire(self) -> None:
        """Also where nothing is recorded any more: what was recorded before grows old all the same."""
        seconds = self.settings.traffic_days * 86400
        while seconds:
            self._thread.submit(self._log.expire)
            await self._note(lambda ledger: ledger.expire_answers(time.time() - seconds))
            await asyncio.sleep(EXPIRE_SECONDS)

    def remember(self, record: dict[str, Any]) -> None:
        """One prompt for drift and update. A disk that is full costs the record, not the request."""
        if self.traffic is not None:
            self._thread.submit(self._append, record)

    def _append(self, record: dict[str, Any]) -> None:
        if self.traffic is not None and not self.traffic.append(record):
            self.metrics.traffic_dropped_total.inc()

    @property
    def ready(self) -> bool:
        """Its champion answers, or would after a moment."""
        return self.fleet.alive is not None or self.fleet.asleep

    def refresh_metrics(self) -> None:
        state = self.fleet.state()
        self.metrics.num_requests_running.set(state["running"])
        self.metrics.num_requests_waiting.set(state["waiting"])
        self.metrics.kv_cache_usage_perc.set(state["kv_usage"])
        self.metrics.engine_asleep.set(float(state["asleep"]))
        self.metrics.engine_memory_bytes.set(self.fleet.resident() << 20)
        cache = state["attention_cache"]
        self.metrics.attention_cache_on.set(math.nan if cache is None else float(cache))
        if self.fleet.promoted is not None:
            self.metrics.champion_age_seconds.set(self.ledger.clock() - self.fleet.promoted)
        self.metrics.set_gauges(self.ledger.gauges())


def engine_options(home: Path, serve: ServeSection) -> list[str]:
    """What every engine of this home is started with."""
    options = ["--threads", str(serve.threads), "--slots", str(serve.slots), "--home", str(home)]
    options += ["--cache-megabytes", str(serve.cache_megabytes), "--activations", serve.activations]
    options += ["--max-loss", str(serve.max_loss)]
    if not serve.guesses:
        options.append("--no-guesses")
    if serve.window:
        options += ["--window", str(serve.window)]
    if serve.draft:
        options += ["--draft", serve.draft]
    return options


def must_not_end(task: asyncio.Task[None]) -> None:
    """Without the fleet's task the front would serve a stale model: better to die and be started again."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("fleet stopped", exc_info=task.exception())
        os._exit(1)
