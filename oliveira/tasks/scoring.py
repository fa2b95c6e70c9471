"""What every task needs to score a model: evaluation mode, numpy in and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from oliveira.tasks.base import Array, Run

SAMPLE = 512  # examples of a split by which its loss is estimated


@contextmanager
def judged(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; its mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def runner(model: nn.Module) -> Run:
    """The model as what `Data.answer` runs: arrays in the order of its arguments → its output."""

    def run(*arrays: Array) -> Array:
        with judged(model):
            output: Array = model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)).numpy()
        return output

    return run


def chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def spaced(rows: Array, most: int) -> Array:
    """At most `most` of the rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]
