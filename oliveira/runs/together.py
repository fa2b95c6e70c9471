"""Several requests through one forward pass, whatever their task.

A task answers by asking a runner. Each request is answered twice: the first time what it asks for is written down and
nothing computed; what has one shape is then computed together, and the second time each finds its rows. What a task
asks after that (the next word of a beam) is computed for it alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from oliveira import kinds
from oliveira.kinds import BATCH, Form
from oliveira.tasks.base import Array, Run

Answer = TypeVar("Answer")
Asked = tuple[Array, ...]


class _WrittenDown(BaseException):
    """Ends a first answer. No `Exception`: a task that handles those must not take it for a failure."""


def answer_together(answer: Callable[[int, Run], Answer], run: Run, count: int, form: Form) -> list[Answer]:
    """What `answer(place, runner)` gives for each of `count` places. It is called twice, and must not mind."""
    asked: dict[int, Asked] = {}

    def noting(place: int) -> Run:
        def note(*arrays: Array) -> Any:
            asked[place] = arrays
            raise _WrittenDown

        return note

    for place in range(count):
        with contextlib.suppress(_WrittenDown):
            answer(place, noting(place))
    known = _computed(run, asked, form)

    def knowing(place: int) -> Run:
        first = [known[place]] if place in known else []
        return lambda *arrays: first.pop() if first else run(*arrays)

    return [answer(place, knowing(place)) for place in range(count)]


def _computed(run: Run, asked: dict[int, Asked], form: Form) -> dict[int, Any]:
    """The outputs by place: one run for all arrays of one shape."""
    groups: dict[Any, list[int]] = {}
    for place, arrays in asked.items():
        alike = tuple((array.shape[1:], array.dtype) for array in arrays)
        groups.setdefault(alike if _in_rows(arrays, form) else place, []).append(place)
    outputs: dict[int, Any] = {}
    for places in groups.values():
        if len(places) == 1:
            outputs[places[0]] = run(*asked[places[0]])
            continue
        output = run(*(np.concatenate(parts) for parts in zip(*(asked[place] for place in places), strict=True)))
        ends = np.cumsum([len(asked[place][0]) for place in places])[:-1]
        parts = [np.split(part, ends) for part in (output if isinstance(output, tuple) else (output,))]
        rows = zip(*parts, strict=True)
        outputs |= dict(zip(places, rows if isinstance(output, tuple) else (row for (row,) in rows), strict=True))
    return outputs


def _in_rows(arrays: Asked, form: Form) -> bool:
    """Whether all arrays, and those that are given, are rows of a batch."""
    eaten, given = kinds.eats(form[0]), kinds.gives(form[1])
    arguments = [*map(eaten.argument, eaten.named(arrays)), *given.arguments]
    return all(argument.axes[0] is BATCH for argument in arguments)
