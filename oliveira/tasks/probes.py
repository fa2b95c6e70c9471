"""Probes: small made-up tasks, each of which needs one ability that some architectures have and others lack.

    training     batch `number` is a function of (seed, number) alone; examples never come again
    scoring      500 validation and 1,000 test examples, the same for every seed and every run
    baselines    what is reached without learning: a guess, or the best constant

The rules are in `probe_makers`. Checked against: a slow reading of each rule, in tests/unit/test_probes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.nn.beam import beam_search
from oliveira.tasks import probe_makers as makers
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Say, Split, Task
from oliveira.tasks.probe_makers import BEGIN, END, LISTOPS, LISTOPS_LENGTHS, PADDING, Examples, Make
from oliveira.tasks.scoring import chunks, judged, runner
from oliveira.training.loss import IGNORED, cross_entropy
from oliveira.training.seeds import stream

HELD_OUT: dict[str, int] = {"validation": 500, "test": 1000}
UNLIMITED = 10**9  # training examples: made as they are needed, and none comes twice
_TRAINING, _SPLITS = 0, {"validation": 1, "test": 2}  # first number of each stream of chance
_SCORED_AT_ONCE = 8192  # steps

ACCURACY = Metric(name="accuracy", better="higher")
ERROR = Metric(name="mean squared error", better="lower")
EXACT = Metric(name="exact match", better="higher")


@dataclass(frozen=True, kw_only=True)
class Probe(Task):
    make: Make
    sizes: dict[str, Any]
    lengths: tuple[int, int]  # shortest and longest example; padding is masked where they differ
    first_token: int = 0  # what a request may hold starts here
    baselines: dict[str, float] = field(default_factory=dict)
    licence: str = "generated"

    def open(self, home: Path, say: Say) -> ProbeData:
        return ProbeData(self)


class ProbeData(Data):
    fields = ("series", "tokens")

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.sizes = probe.sizes
        self.counts = {"train": UNLIMITED, **HELD_OUT}
        self.baselines = probe.baselines  # type: ignore[misc]
        self.dynamic = probe.lengths[0] < probe.lengths[1]
        self._held_out: dict[Split, Examples] = {}

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        return _tensors(self.probe.make(stream(_TRAINING, seed, number), size))

    def held_out(self, split: Split) -> Examples:
        """The split's examples: made once, the same in every process."""
        if split not in self._held_out:
            self._held_out[split] = self.probe.make(stream(_SPLITS[split]), HELD_OUT[split])
        return self._held_out[split]

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return F.mse_loss(output, targets)
        return cross_entropy(output, targets)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        inputs, targets, _ = _tensors(self.held_out(split))
        with judged(model):
            output = torch.cat([model(*(x[part] for x in inputs)) for part in self._parts(split)])
        loss = float(self.loss(output, targets))
        if self.probe.metric is ERROR:
            return {ERROR.name: loss, "explained": 1 - loss / float(targets.var(correction=0))}
        asked = targets != IGNORED
        figures = {ACCURACY.name: float((output.argmax(dim=-1) == targets)[asked].float().mean()), "loss": loss}
        if self.probe.metric is EXACT:
            return {EXACT.name: self._exact_match(model, split), **figures}
        return figures

    def _exact_match(self, model: nn.Module, split: Split) -> float:
        """Share of answers that are right to the last letter, written greedily."""
        (source, _, _), targets = self.held_out(split)
        answers = [row for part in self._parts(split) for row in _write(runner(model), source[part])]
        wanted = [[token for token in row if token != IGNORED] for row in targets.tolist()]
        return float(np.mean([[*answer, END] == row for answer, row in zip(answers, wanted, strict=True)]))

    def _parts(self, split: Split) -> Iterator[slice]:
        return chunks(HELD_OUT[split], max(1, _SCORED_AT_ONCE // self.probe.lengths[1]))

    def state(self) -> dict[str, Any]:
        probe, first = self.probe, self.held_out("test").targets[0]
        asked = np.flatnonzero(first != IGNORED).tolist() if probe.gives != "one" and not self.dynamic else []
        lengths = {"shortest": probe.lengths[0], "longest": probe.lengths[1], "first_token": probe.first_token}
        return {"eats": probe.eats, "gives": probe.gives, "asked": asked, **lengths, **probe.sizes}

    def request(self) -> dict[str, Any]:
        x = self.held_out("test").inputs[0][0]
        if self.probe.eats == "series":
            return {"series": x.tolist()}
        return {"tokens": x[x != PADDING].tolist() if self.dynamic else x.tolist()}

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"series": [[…], …]} → {"value"}; {"tokens": […]} → {"class", "probabilities"}, or {"output": [token, …]}.

        `output` holds one token for each step that the probe asks at, or the string that a pairs model writes.
        """
        if state["eats"] == "series":
            return {"value": float(run(_series(state, request))[0, 0])}
        tokens = _tokens(state, request)
        if state["eats"] == "pairs":
            return {"output": _write(run, tokens)[0]}
        output = run(tokens, tokens != PADDING) if state["shortest"] < state["longest"] else run(tokens)
        if state["gives"] == "one":
            odds = np.exp(output[0] - output[0].max())
            return {"class": int(odds.argmax()), "probabilities": (odds / odds.sum()).tolist()}
        return {"output": output[0, state["asked"]].argmax(axis=-1).tolist()}


def _tensors(examples: Examples) -> Batch:
    return Batch(tuple(torch.from_numpy(x) for x in examples.inputs), torch.from_numpy(examples.targets))


def _write(run: Run, source: Array) -> list[list[int]]:
    """Greedy answers of a pairs model, padding in the source masked."""

    def logits(source: Array, target: Array) -> Array:
        return run(source, target, source != PADDING)

    return beam_search(logits, source, start=BEGIN, end=END, max_len=makers.LONGEST + 1, beam=1)


def _tokens(state: dict[str, Any], request: dict[str, Any]) -> Array:
    """(1, T) int64. Raises `UserError` for what is no list of so many known tokens."""
    tokens, first, end = request.get("tokens"), state["first_token"], state["vocab_size"]
    if (
        not isinstance(tokens, list)
        or not state["shortest"] <= len(tokens) <= state["longest"]
        or not all(type(token) is int and first <= token < end for token in tokens)
    ):
        raise UserError(f"tokens must be a list of {_lengths(state)} whole numbers of {first} … {end - 1}.")
    return np.array([tokens], dtype=np.int64)


def _lengths(state: dict[str, Any]) -> str:
    return " to ".join(str(length) for length in sorted({state["shortest"], state["longest"]}))


def _series(state: dict[str, Any], request: dict[str, Any]) -> Array:
    """(1, T, d_in) float32. Raises `UserError` for what is no such table of finite numbers."""
    try:
        x = np.array([request.get("series")], dtype=np.float32)
    except (TypeError, ValueError):
        x = np.empty(0, dtype=np.float32)
    if x.shape != (1, state["longest"], state["d_in"]) or not np.isfinite(x).all():
        raise UserError(f"series must be a list of {_lengths(state)} steps, each a list of {state['d_in']} numbers.")
    return x


def _tokens_of(vocab_size: int, d_out: int, steps: int) -> dict[str, Any]:
    return {"vocab_size": vocab_size, "d_out": d_out, "max_len": steps}


_COPY = makers.COPY_STEPS + makers.COPY_COUNT
_STRINGS = makers.FIRST_LETTER + makers.LETTERS

TASKS: tuple[Probe, ...] = (
    Probe(
        name="probe/adding",
        title="Add the two marked numbers of 100",
        eats="series",
        gives="one",
        metric=ERROR,
        make=makers.adding,
        lengths=(makers.ADDING_STEPS, makers.ADDING_STEPS),
        sizes={"d_in": 2, "d_out": 1, "max_len": makers.ADDING_STEPS},
        baselines={"constant": 1 / 6},
        train={"steps": 1500, "batch_size": 32, "lr": 3e-3},
    ),
    Probe(
        name="probe/next-larger",
        title="Tag each symbol: is the next one larger?",
        eats="tokens",
        gives="steps",
        metric=ACCURACY,
        make=makers.next_larger,
        lengths=(makers.WALK_STEPS, makers.WALK_STEPS),
        sizes=_tokens_of(makers.WALK_SYMBOLS, 2, makers.WALK_STEPS),
        baselines={"without a look ahead": 1 / 2},
        train={"steps": 500, "batch_size": 32, "lr": 5e-3},
    ),
    Probe(
        name="probe/reverse",
        title="Write strings of 10 to 20 letters backwards",
        eats="pairs",
        gives="next",
        metric=EXACT,
        make=makers.reverse,
        lengths=(makers.SHORTEST, makers.LONGEST),
        first_token=makers.FIRST_LETTER,
        sizes={"vocab_size": _STRINGS, "target_vocab_size": _STRINGS, "max_len": makers.LONGEST + 1},
        baselines={"guess": 0.0},
        train={"steps": 1500, "batch_size": 64, "lr": 3e-3},
    ),
    Probe(
        name="probe/selective-copying",
        title="Copy 8 letters out of 64 steps of noise",
        eats="tokens",
        gives="steps",
        metric=ACCURACY,
        make=makers.selective_copying,
        lengths=(_COPY, _COPY),
        sizes=_tokens_of(makers.COPY_SYMBOLS, makers.COPY_SYMBOLS, _COPY),
        baselines={"guess": 1 / (makers.COPY_SYMBOLS - 2)},
        train={"steps": 1500, "batch_size": 32, "lr": 3e-3},
    ),
    Probe(
        name="probe/induction",
        title="Recall what followed the key earlier in 64 tokens",
        eats="tokens",
        gives="next",
        metric=ACCURACY,
        make=makers.induction,
        lengths=(makers.INDUCTION_STEPS, makers.INDUCTION_STEPS),
        sizes=_tokens_of(makers.INDUCTION_SYMBOLS, makers.INDUCTION_SYMBOLS, makers.INDUCTION_STEPS),
        baselines={"guess": 1 / (makers.INDUCTION_SYMBOLS - 1)},
        train={"steps": 1500, "batch_size": 32, "lr": 2e-3},
    ),
    Probe(
        name="probe/duplication",
        title="Foretell the second half of 0w0w",
        eats="tokens",
        gives="next",
        metric=ACCURACY,
        make=makers.duplication,
        lengths=(2 * makers.WORD + 2, 2 * makers.WORD + 2),
        sizes=_tokens_of(makers.WORD_SYMBOLS, makers.WORD_SYMBOLS, 2 * makers.WORD + 2),
        baselines={"guess": 1 / (makers.WORD_SYMBOLS - 1)},
        train={"steps": 1500, "batch_size": 32, "lr": 2e-3},
    ),
    Probe(
        name="probe/listops",
        title="Compute nested lists of MAX, MIN, MED and SUM MOD 10",
        eats="tokens",
        gives="one",
        metric=ACCURACY,
        make=makers.listops,
        lengths=LISTOPS_LENGTHS,
        first_token=1,
        sizes=_tokens_of(len(LISTOPS), 10, LISTOPS_LENGTHS[1]),
        baselines={"majority": 0.114, "outer operator": 0.237},
        train={"steps": 1500, "batch_size": 32, "lr": 2e-3},
    ),
    Probe(
        name="probe/needle",
        title="Answer a question from one token far away in 1,000",
        eats="tokens",
        gives="one",
        metric=ACCURACY,
        make=makers.needle,
        lengths=(makers.NEEDLE_STEPS, makers.NEEDLE_STEPS),
        sizes={"vocab_size": makers.NEEDLE_SYMBOLS, "d_out": makers.NEEDLES, "max_len": 1024},
        baselines={"guess": 1 / makers.NEEDLES},
        train={"steps": 600, "batch_size": 8, "lr": 2e-3},
    ),
    Probe(
        name="probe/functions",
        title="Eight functions, one a region of the plane",
        eats="series",
        gives="one",
        metric=ERROR,
        make=makers.functions,
        lengths=(1, 1),
        sizes={"d_in": 3, "d_out": 1, "max_len": 1},
        baselines={"constant": 0.5},
        train={"steps": 1500, "batch_size": 256, "lr": 1e-2},
    ),
)
