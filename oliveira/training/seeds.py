"""Same seed, same bits: every random number of a run comes from here."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from oliveira.processors import processors


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)


def stream(seed: int, *names: int) -> np.random.Generator:
    """An independent generator for (seed, names): the same at any time and in any order of calls."""
    return np.random.default_rng([seed, *names])


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch threads inside the block; 0 = all that this process may use.

    The number is part of what makes a run bit-identical.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, processors()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
