"""How long it still takes, from what the last minute brought: a slow start, a pause or a resumed run does not count."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 60.0  # seconds looked back; longer where steps are so slow that there are fewer than FEWEST in it
FEWEST = 4
FIRST = 2.0  # seconds seen before a figure is given at all


class Eta:
    """Feed it the share that is done; read the seconds that are left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()

    def update(self, share: float) -> float | None:
        """Seconds to the end, or None while too little has been seen."""
        now = self._clock()
        if self._seen and share < self._seen[-1][1]:  # something else began
            self._seen.clear()
        self._seen.append((now, share))
        while len(self._seen) > FEWEST and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        (began, before), (_, after) = self._seen[0], self._seen[-1]
        if now - began < FIRST or after <= before:
            return None
        return (now - began) / (after - before) * (1 - after)


def duration(seconds: float) -> str:
    """With its unit: 41.2 s, 13 min 05 s, 2 h 07 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
