"""Who is next: within a key of the API first come, first served; the keys in turn, so none waits for all of another."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Waiting work of several keys. `first` stays until it is taken: what is too large to begin yet is waited for."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()  # in the order of their turns, none empty

    def add(self, key: str, item: T) -> None:
        self._queues.setdefault(key, deque()).append(item)

    @property
    def first(self) -> T | None:
        return next(iter(self._queues.values()))[0] if self._queues else None

    def take(self) -> T:
        """The first; its key's next turn comes after all others'."""
        key, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        self._queues.move_to_end(key)
        if not queue:
            del self._queues[key]
        return item

    def remove(self, wanted: Callable[[T], bool]) -> list[T]:
        """Takes out all for which `wanted` is true; who is left keeps the place."""
        gone = [item for item in self if wanted(item)]
        for key, queue in list(self._queues.items()):
            left = deque(item for item in queue if not wanted(item))
            if left:
                self._queues[key] = left
            else:
                del self._queues[key]
        return gone

    def __iter__(self) -> Iterator[T]:
        return (item for queue in self._queues.values() for item in queue)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())
