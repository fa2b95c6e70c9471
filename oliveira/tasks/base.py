"""A task: what goes in, what comes out, what is good. A model meets it by its Entry alone.

A `Task` is light (a line of `oliveira list`). `open` fetches its data and gives a `Data`, which knows the sizes that it
sets in a model's config, the batches, the loss, the metrics, and how a person's request becomes arrays and an answer.

    training       batch(number) → objective(model, batch), which is loss(model(*inputs), targets) unless overridden
    scoring        evaluate(model, split) → {metric: value, …}
    serving        answer(state, run, request), `run` being any runner of the exported model: no torch in it
"""

from __future__ import annotations

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.registry import can
from oliveira.training.optim import Turn
from oliveira.training.settings import TrainSection

Array = NDArray[Any]
Run = Callable[..., Array]  # arrays in the order of the model's arguments → its output
Split = Literal["validation", "test"]
Say = Callable[[str], None]


class Batch(NamedTuple):
    inputs: tuple[Tensor, ...]  # the model's arguments, in the order of the kind that it eats
    targets: Any  # a tensor, or a tuple of them
    named: dict[str, Tensor] = {}  # noqa: RUF012  (further arguments, by name)


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str  # "accuracy", "bits per byte"
    better: Literal["higher", "lower"]
    unit: str = ""

    def beats(self, left: float, right: float) -> bool:
        return left > right if self.better == "higher" else left < right


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One task, named kind/source: `forecast/power`. Subclasses say how its data are opened."""

    name: str
    title: str  # one line for people
    eats: str  # kinds of `oliveira.kinds`
    gives: str
    metric: Metric
    licence: str
    model: dict[str, Any] = field(default_factory=dict)  # config values that suit the task, where a model has them
    train: dict[str, Any] = field(default_factory=dict)  # fields of TrainSection that suit the task

    @property
    def folder(self) -> str:
        """The name of its folder under HOME/runs."""
        return self.name.replace("/", "-")

    @property
    def label(self) -> str:
        """The name as a title has it."""
        return self.name

    def check(self) -> None:
        """Raises `UserError` for data of the user's that cannot be used, before anything is written."""
        return

    def fingerprint(self) -> str:
        """Of what a user may change between two starts; "" where the program pins it."""
        return ""

    def answer(self, state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """A request through any runner of a trained model. No data are opened: `open`'s annotation names the class.

        `UserError` names the field that is wrong, or that no task of this kind has.
        """
        kind = self._kind()
        if kind.fields:
            refuse_unknown(request, kind.fields)
        return kind.answer(state, run, request)

    def observe(self, state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """What drift looks at in a request and its answer, as `Data.observe` says."""
        return self._kind().observe(state, request, answer)

    def error(self, state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """How wrong an answer was, as `Data.error` says."""
        return self._kind().error(state, request, answer, truth)

    def _kind(self) -> type[Data]:
        kind: type[Data] = get_type_hints(type(self).open)["return"]
        return kind

    @abstractmethod
    def open(self, home: Path, say: Say) -> Data:
        """Fetches (once, into HOME/cache) and prepares the data. `UserError` when they cannot be had."""


class Data(ABC):
    """A task with its data in memory. Same seed and number, same batch: what makes a resumed run bit-identical."""

    sizes: dict[str, Any]  # vocab_size, d_in, d_out, max_len …: what the task sets in a config
    counts: dict[str, int]  # examples in train, validation and test
    baselines: ClassVar[dict[str, float]] = {}  # metric of what needs no learning, on the test split
    fields: ClassVar[tuple[str, ...]] = ()  # all fields that a request may have; () = not checked
    unit: str = ""  # of the metric, where the data say it
    content: str = ""  # sha256 of the user's own file: part of a run's identity
    dynamic: bool = True  # whether the length of the second axis varies (exported so)

    @abstractmethod
    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        """Training batch `number`: a function of its arguments only."""

    @abstractmethod
    def loss(self, output: Any, targets: Any) -> Tensor:
        """Mean loss of a batch, given what the model returned."""

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """What training lowers: the loss, plus the model's own where it has one (a mixture of experts balances its
        load). Overridden by a task that calls its model in another way.
        """
        if can(model, "auxiliary_loss"):
            network: Any = model
            output, auxiliary = network.forward_with_auxiliary(*batch.inputs, **batch.named)
            return self.loss(output, batch.targets) + auxiliary
        return self.loss(model(*batch.inputs, **batch.named), batch.targets)

    def read_as(self, task: str, state: dict[str, Any]) -> None:
        """Reads its inputs as `task` does, whose state this is and whose model is started from. `UserError` where that
        cannot be: tokens mean what their vocabulary says; numbers and pictures need nothing.
        """
        if "vocab_size" in self.sizes and state != json.loads(json.dumps(self.state())):
            raise UserError(f"start: the tokens of {task or 'that model'} are not those of this task. Leave out start.")

    def turns(self, model: nn.Module, section: TrainSection) -> list[Turn]:
        """Several updates a step, each of an optimiser and a loss of its own (a generator and its critic). A group's
        learning rate follows the schedule as a share of `section.lr`. Empty: one, of `objective`.
        """
        return []

    def after_step(self, model: nn.Module, step: int) -> Mapping[str, Tensor] | None:
        """After update `step` (1, 2 …): moving averages, teachers. What must survive a restart is part of the model.

        It may put parameters of more or fewer rows in the place of others, where the model's entry says that it grows:
        it then returns, by the name of each, which row every row was, −1 for a new one (Replaced.rows).
        """
        return None

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The task's metric first, then what else is worth knowing."""

    def peers(self) -> dict[str, float]:
        """Metric on the test split of another package's methods, for `compare`; {} where the package is not there."""
        return {}

    def losses(self, model: nn.Module) -> tuple[float, float] | None:
        """Mean loss on training examples and on the validation split, dropout off: what over-fitting is seen by."""
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON: all that `answer` needs beside the model (scales, labels, the vocabulary)."""

    @staticmethod
    @abstractmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """A person's request through an exported model. `UserError` names the field that is wrong."""

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Numbers of a request and its answer, by name; the same names whenever the state is the same."""
        return {}

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """How wrong an answer was, lower is better. `UserError` names the field "truth" where it does not fit."""
        raise UserError("this task takes no truth: its answers cannot be compared with one.")

    def requests(self, split: Split, count: int) -> list[tuple[dict[str, Any], Any]]:
        """At most `count` real requests of a split, evenly spaced, each with its truth; none where a task has none."""
        return []

    def learn(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> Batch:
        """A training batch of requests and the truths that came back for them."""
        raise UserError("this task does not learn from truths that come back.")

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """A real request of the test split, for help texts and for the check of an exported file."""

    def picture(self, model: nn.Module, png: Path) -> bool:
        """Draws what people would rather look at (a forecast, an attention map). False: there is nothing to draw."""
        return False


def refuse_unknown(given: Iterable[str], known: Sequence[str], within: str = "") -> None:
    """Raises `UserError` for a field that nothing reads; `within`: the field that it stands in."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known) or 'none'}."
            raise UserError(f"{within}{name[:60]} is no field of a request. {advice}")


def shuffled(number: int, *, seed: int, size: int, count: int) -> Array:
    """Indices of batch `number`: every example once an epoch, in a new order each epoch."""
    if count < 1:
        raise ValueError("a task without training examples has no batches")
    wanted = np.arange(number * size, (number + 1) * size)
    epochs = wanted // count
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][index] for epoch, index in zip(epochs, wanted % count, strict=True)])
