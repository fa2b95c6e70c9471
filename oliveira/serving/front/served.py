"""The lives of a home behind one front: who is meant by the name of a model, and what all of them share."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from oliveira import __version__
from oliveira.errors import OliveiraError
from oliveira.ledger import Ledger
from oliveira.ledger.lives import OWN, lives, main_life, place
from oliveira.monitoring.metrics import Metrics, exposition
from oliveira.serving.adapter_names import adapter_names
from oliveira.serving.front.errors import ApiError, shutting_down
from oliveira.serving.front.limits import Admission
from oliveira.serving.front.room import Room
from oliveira.serving.front.service import Service, must_not_end, read_settings
from oliveira.serving.settings import ServeSection

SHORT = 12  # characters of a digest that name a model
TIDY_SECONDS = 0.5

log = logging.getLogger(__name__)


class Served:
    """`home`: with the keys. `settings`: of the main life, which say how the home is served. `ledger`: of the keys."""

    def __init__(
        self, home: Path, settings: ServeSection, services: Sequence[Service], room: Room | None = None
    ) -> None:
        self.home, self.settings = home, settings
        self.lives = {service.name: service for service in services}
        self.main = services[0]
        self.admission = self.main.admission
        self.ledger = Ledger(home)
        self.metrics = Metrics()
        self.metrics.queue_capacity.set(settings.queue)
        self.draining = False
        self.requests = 0  # in work, to be waited for at the end
        self._room = room or Room()
        self._tidying: asyncio.Task[None] | None = None
        if len(services) == 1:  # who knows of no other may go on calling it as ever
            self.main.names = tuple(dict.fromkeys((self.main.name, OWN)))

    @classmethod
    def open(cls, home: Path) -> Self:
        """Every life that `oliveira up` left in this home. Raises `UserError`."""
        main = main_life(home)
        serve = read_settings(place(home, main))
        shared = {"admission": Admission(slots=serve.slots, queue=serve.queue), "room": Room(serve.memory, serve.idle)}
        services = [Service(place(home, main), serve, main, **shared)]  # type: ignore[arg-type]
        for name in lives(home):
            folder = place(home, name)
            try:
                if name != main:
                    services.append(Service(folder, read_settings(folder), name, **shared))  # type: ignore[arg-type]
            except OliveiraError as error:  # no reason to serve no other
                log.error("life not served", extra={"life": name, "reason": str(error)})
        return cls(home, serve, services, shared["room"])  # type: ignore[arg-type]

    # Who is meant -------------------------------------------------------------------------------------------------

    def of(self, model: str) -> Service:
        """The life that answers under this name: its own, an adapter's of it, or its digest. Raises `ApiError` 404.

        The only life is always meant: what it does not serve, it says itself.
        """
        if found := self.lives.get(model):
            return found
        if len(self.lives) == 1:
            return self.main
        for life in self.lives.values():
            champion = life.ledger.alias("champion") or ""
            if model in (champion, champion[:SHORT]) or model in adapter_names(life.home):
                return life
        names = " or ".join(self.lives)
        said = f"model {model[:128]!r} is not served here. Use {names}."
        raise ApiError(404, said, code="model_not_found", param="model")

    def told(self, model: str | None) -> Service:
        """The same for a request that need not name one: then `oliveira` is meant, or the only life."""
        return self.of(OWN if model is None else model)

    # Start and end ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for life in self.lives.values():
            life.start()
        self._tidying = asyncio.create_task(self._tidy())
        self._tidying.add_done_callback(must_not_end)

    async def _tidy(self) -> None:
        while True:
            self._room.tidy()
            await asyncio.sleep(TIDY_SECONDS)

    async def drain(self) -> None:
        """No new requests; open ones may end within serve.drain seconds, then each is told."""
        self.draining = True
        end = time.monotonic() + self.settings.drain
        log.info("draining", extra={"requests": self.requests})
        while self.requests and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for life in self.lives.values():
            for engine in [life.fleet.current, *life.fleet.old]:
                if engine is not None:
                    engine.fail_all(shutting_down)
        end = time.monotonic() + 2
        while self.requests and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
        await asyncio.gather(*(life.stop() for life in self.lives.values()))
        self.ledger.close()

    # What is said of it -------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises `ApiError` 503 while the server shuts down."""
        if self.draining:
            self.metrics.rejected_total.labels(reason="draining").inc()
            raise shutting_down()

    def state(self, life: Service | None = None) -> dict[str, Any]:
        """What /ready and the console show: of one life, and in one word of every."""
        own = {
            "ready": self.ready(),
            "draining": self.draining,
            "requests": self.requests,
            "version": __version__,
            "model": (life or self.main).name,
            "models": {name: _short(each) for name, each in self.lives.items()},
        }
        return {**(life or self.main).fleet.state(), **own}

    def ready(self) -> bool:
        return any(life.ready for life in self.lives.values()) and not self.draining

    def render_metrics(self) -> bytes:
        usage = shutil.disk_usage(self.home)
        self.metrics.disk_free_bytes.set(usage.free)
        self.metrics.disk_size_bytes.set(usage.total)
        for life in self.lives.values():
            life.refresh_metrics()
        return exposition(self.metrics, {name: life.metrics for name, life in self.lives.items()})


def _short(life: Service) -> dict[str, Any]:
    state = life.fleet.state()
    return {name: state[name] for name in ("digest", "task", "asleep", "failure")}
