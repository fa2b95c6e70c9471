"""How much slower the challenger decodes, with the noise of the measurement: by what serves, on the engine's threads.

Both are timed in turn, A B, B A, A B …: what else the machine does falls on both. The ratio is the median over the
rounds; its interval assumes nothing of the noise (order statistics: a round is above the true median with chance ½).
A verdict rests on the interval's end, never on the median: identical models measured × 0.85, 1.05 and 1.29 in one day.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from oliveira.artifact import Artifact
from oliveira.kernels.decoder import BlockPool, Decoder
from oliveira.models.gpt import GPT
from oliveira.processors import processors
from oliveira.serving.engine.decoders import Settings, make_decoder
from oliveira.serving.settings import ServeSection
from oliveira.training.seeds import threads

ROUNDS = 61
CHANCE = 1e-3  # that the true median lies below the interval; as much that it lies above
TOKENS = 8  # decoded a round and model
_BLOCK = 64  # tokens of a block of keys and values


@dataclass(frozen=True)
class Latency:
    """Seconds a decoded token (medians) and challenger over champion, with its interval."""

    champion: float
    challenger: float
    ratio: float
    low: float
    high: float


def compare(
    champion: Callable[[], object],
    challenger: Callable[[], object],
    *,
    rounds: int = ROUNDS,
    each: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Times both in turn; a call does `each` units of work."""
    both = (champion, challenger)
    for work in both:  # the first call builds and warms
        work()
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            started = clock()
            both[which]()
            spent[which].append((clock() - started) / each)
    ratios = sorted(b / max(a, 1e-12) for a, b in zip(*spent, strict=True))
    rank = _rank(rounds)
    return Latency(_median(spent[0]), _median(spent[1]), _median(ratios), ratios[rank], ratios[-1 - rank])


def same() -> Latency:
    """Of two models in one form and one format, which are not timed."""
    return Latency(math.nan, math.nan, 1.0, 1.0, 1.0)


def _rank(rounds: int) -> int:
    """The highest order statistic (from 0) that is above the true median with at most CHANCE."""
    chance, rank = 0.0, -1
    while rank < rounds // 2 and chance + math.comb(rounds, rank + 1) / 2**rounds <= CHANCE:
        rank += 1
        chance += math.comb(rounds, rank) / 2**rounds
    return max(0, rank)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def measure(champion: tuple[Artifact, GPT], challenger: tuple[Artifact, GPT], serve: ServeSection) -> Latency:
    """Of two models as the engine would decode them."""
    with threads(serve.threads or processors()), torch.no_grad():
        settings = Settings(activations=serve.activations)
        steps = [_steps(make_decoder(*pair, settings)[0], TOKENS) for pair in (champion, challenger)]
        return compare(*steps, each=TOKENS)


def _steps(decoder: Decoder, n_tokens: int) -> Callable[[], None]:
    n_tokens = min(n_tokens, decoder.config.max_len)
    pool = BlockPool(decoder, -(-n_tokens // _BLOCK))
    table = pool.take(len(pool.free))

    def run() -> None:
        for position in range(n_tokens):
            decoder.decode([position % decoder.config.vocab_size], [position], [table])

    return run
