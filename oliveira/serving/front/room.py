"""Which engines are in memory: one starts while there is room, and the one used longest ago makes room for another.

A life whose engine was put away sleeps until a request for it comes. The request waits; nothing with requests in work
is put away, and where nothing is free for PATIENCE seconds the longest unused takes no new requests until it has
ended its own: then lives that are all asked take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

PATIENCE = 2.0  # seconds a request waits for an engine that has none before a busy one is asked to end
# What a process holds beside the weights before anybody has measured this one: Python and torch.
PROCESS_MIB = 300
TOO_LARGE = "too_large"  # the event: an engine alone needs more than there is


class Tenant(Protocol):
    """What the room knows of a life's engines."""

    used: float  # when it was last asked or at work, by `time.monotonic`

    @property
    def called(self) -> float | None:
        """Since when a request, or a new champion, waits for an engine."""

    @property
    def busy(self) -> bool:
        """Requests are in work, or wait."""

    @property
    def awake(self) -> bool:
        """An engine takes requests."""

    def resident(self) -> int:
        """MiB of all its engines, those that end or start included."""

    def ending(self) -> int:
        """MiB of those that end."""

    def put_away(self) -> None:
        """Its engine takes no new requests and ends after those that it has."""


class Room:
    """`memory`: MiB for all engines together; `idle`: seconds after which one that nobody uses ends; 0 = no bound."""

    def __init__(self, memory: int = 0, idle: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory, self.idle, self._clock = memory, idle, clock
        self.tenants: list[Tenant] = []

    def make(self, tenant: Tenant, size: int, *, asked: bool) -> bool:
        """Whether an engine of so many MiB may start now. If not it is asked again: others may be ending for it.

        Only for one that is `asked` others are put away. One that is too large is let in when it is alone.
        """
        if not self.memory:
            return True
        others = [other for other in self.tenants if other is not tenant]
        free = self.memory - sum(each.resident() for each in self.tenants)
        if size <= free or not any(other.resident() for other in others):
            return not self._later(tenant, others)
        if asked:
            self._put_away(others, size - free, patient=not self._waited(tenant))
        return False

    def tidy(self) -> None:
        """Puts away what nobody has used for long, and what no longer fits as an engine has grown."""
        now = self._clock()
        for tenant in self.tenants:
            if tenant.busy:  # a request that takes long is use until its end
                tenant.used = now
            elif self.idle and tenant.awake and now - tenant.used >= self.idle:
                tenant.put_away()
        awake = [tenant for tenant in self.tenants if tenant.awake]
        if self.memory and len(awake) > 1:
            newest = max(awake, key=lambda tenant: tenant.used)
            over = sum(tenant.resident() for tenant in self.tenants) - self.memory
            self._put_away([tenant for tenant in awake if tenant is not newest], over, patient=True)

    def _put_away(self, others: list[Tenant], size: int, *, patient: bool) -> None:
        """As many as it takes to free `size` MiB, what is ending already included."""
        size -= sum(other.ending() for other in others)
        for other in sorted(others, key=lambda other: (other.busy, other.used)):
            if size <= 0:
                return
            if other.awake and not (patient and other.busy):
                size -= other.resident() - other.ending()
                other.put_away()

    def _waited(self, tenant: Tenant) -> bool:
        return tenant.called is not None and self._clock() - tenant.called >= PATIENCE

    @staticmethod
    def _later(tenant: Tenant, others: list[Tenant]) -> bool:
        """Whether another has waited longer for the same room."""
        waits = [other.called for other in others if other.called is not None and not other.awake]
        return bool(waits) and (tenant.called is None or min(waits) < tenant.called)
