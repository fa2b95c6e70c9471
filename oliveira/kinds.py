"""Kinds: what a task eats and what a model gives, as data that every room reads.

A kind says which arrays `forward` takes, or returns, in their order; of each array the axes by name; which fields of a
config a task sets. A form is a pair (eats, gives); `Entry.forms` are those that a model runs.

    eats     forward(…)                                       gives     returns
    tokens   tokens (batch, steps), mask, segments            one       (batch, d_out)
    series   x (batch, steps, d_in), mask                     steps     (batch, steps, d_out)
    image    x (batch, channels, height, width)               next      the same, step t from the steps up to t only
    pairs    source (batch, source), target (batch, steps),   mlm+nsp   (batch, steps, vocab_size) and (batch, 2)
             mask of the source

`mask` is optional, boolean, True = a real step, False = padding: padded steps change no other step's output. A kind
need not have a batch axis: the nodes of one graph are rows of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oliveira.errors import UserError

Form = tuple[str, str]  # eats, gives
Sizes = dict[str, Any]  # fields of a config


@dataclass(frozen=True, kw_only=True)
class Axis:
    name: str
    size: str | int = ""  # the config field with its length, the most it may be where it is free; or the length
    free: bool = False  # the length varies from batch to batch
    ordered: bool = False  # what stands where on it matters


BATCH = Axis(name="batch", free=True)
STEPS = Axis(name="steps", size="max_len", free=True, ordered=True)
SOURCE = Axis(name="source", size="max_len", free=True, ordered=True)
HEIGHT = Axis(name="height", size="height", ordered=True)
WIDTH = Axis(name="width", size="width", ordered=True)
OUT = Axis(name="out", size="d_out")


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One array that a model takes or returns."""

    name: str
    axes: tuple[Axis, ...]
    dtype: Literal["float32", "int64", "bool"] = "float32"
    below: str | int = ""  # of whole numbers: they stay under this size

    def shape(self, sizes: Sizes, lengths: dict[str, int]) -> tuple[int, ...]:
        """`lengths` by the names of axes; what is not among them has the size of its field."""
        return tuple(lengths[axis.name] if axis.name in lengths else _size(axis.size, sizes) for axis in self.axes)

    def places(self, *, free: bool = False, ordered: bool = False) -> list[int]:
        """Which axes are free (the batch aside), or ordered."""
        return [
            place
            for place, axis in enumerate(self.axes)
            if axis is not BATCH and (axis.free or not free) and (axis.ordered or not ordered)
        ]


@dataclass(frozen=True, kw_only=True)
class Kind:
    name: str
    arguments: tuple[Argument, ...]
    optional: tuple[Argument, ...] = ()  # what may follow these, in this order
    sizes: Sizes = field(default_factory=dict)  # config fields that a task sets, with the values of an example
    vocabulary: str = ""  # of what is eaten: the size that counts what may come next
    of_words: bool = False  # of what is given: an answer for each member of that vocabulary
    causal: bool = False  # of what is given, a promise: step t comes from the steps up to t only

    @property
    def mask(self) -> Argument | None:
        return next((argument for argument in self.optional if argument.name == "mask"), None)

    def named(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """The arrays by the names of the arguments."""
        return dict(zip([a.name for a in (*self.arguments, *self.optional)], arrays, strict=False))

    def argument(self, name: str) -> Argument:
        return next(argument for argument in (*self.arguments, *self.optional) if argument.name == name)

    def count(self, arrays: Sequence[Any]) -> int:
        """How many examples these are: rows of the batch, or of the first axis where there is no batch."""
        axes = self.arguments[0].axes
        return int(arrays[0].shape[axes.index(BATCH) if BATCH in axes else 0])

    def steps(self, arrays: Sequence[Any]) -> list[int]:
        """The lengths of all free axes, the batch aside."""
        named = self.named(arrays).items()
        return [array.shape[place] for name, array in named for place in self.argument(name).places(free=True)]

    def two_rows(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The first example of a batch twice, so that an exporter takes no axis of it for a constant."""
        places = [list(self.argument(name).axes) for name in self.named(arrays)]
        return [
            array.take([0, 0], axis=axes.index(BATCH)) if BATCH in axes else array
            for array, axes in zip(map(np.ascontiguousarray, arrays), places, strict=True)
        ]

    def example(self, sizes: Sizes, *, batch: int = 2, seed: int = 0, **lengths: int) -> tuple[Tensor, ...]:
        """The arguments at random; free axes of the lengths named, else as long as `sizes` allows."""
        random = torch.Generator().manual_seed(seed)
        made = []
        for argument in self.arguments:
            shape = argument.shape(sizes, {"batch": batch, **lengths})
            if argument.dtype == "float32":
                made.append(torch.randn(shape, generator=random))
            else:
                made.append(torch.randint(_size(argument.below, sizes), shape, generator=random))
        return tuple(made)


def _size(size: str | int, sizes: Sizes) -> int:
    return size if isinstance(size, int) else int(sizes[size])


def _tokens(name: str, axis: Axis, vocabulary: str = "vocab_size") -> Argument:
    return Argument(name=name, axes=(BATCH, axis), dtype="int64", below=vocabulary)


def _mask(axis: Axis) -> Argument:
    return Argument(name="mask", axes=(BATCH, axis), dtype="bool", below=2)


_PIXELS = (BATCH, Axis(name="channels", size="channels"), HEIGHT, WIDTH)
_NUMBERS = (BATCH, STEPS, Axis(name="numbers", size="d_in"))

EATS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="tokens",
            arguments=(_tokens("tokens", STEPS),),
            optional=(_mask(STEPS), Argument(name="segments", axes=(BATCH, STEPS), dtype="int64", below=2)),
            sizes={"vocab_size": 1000, "max_len": 128},
            vocabulary="vocab_size",
        ),
        Kind(
            name="series",
            arguments=(Argument(name="x", axes=_NUMBERS),),
            optional=(_mask(STEPS),),
            sizes={"d_in": 8, "max_len": 128},
        ),
        Kind(
            name="image",
            arguments=(Argument(name="x", axes=_PIXELS),),
            sizes={"channels": 3, "height": 32, "width": 32},
        ),
        Kind(
            name="pairs",
            arguments=(_tokens("source", SOURCE), _tokens("target", STEPS, "target_vocab_size")),
            optional=(_mask(SOURCE),),
            sizes={"vocab_size": 1000, "target_vocab_size": 1000, "max_len": 64},
            vocabulary="target_vocab_size",
        ),
    )
}

_ROW, _EACH = Argument(name="one", axes=(BATCH, OUT)), Argument(name="steps", axes=(BATCH, STEPS, OUT))
_TWO = Argument(name="nsp", axes=(BATCH, Axis(name="labels", size=2)))

GIVES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="one", arguments=(_ROW,), sizes={"d_out": 10}),
        Kind(name="steps", arguments=(_EACH,), sizes={"d_out": 10}),
        Kind(name="next", arguments=(_EACH,), of_words=True, causal=True),
        Kind(name="mlm+nsp", arguments=(_EACH, _TWO), of_words=True),
    )
}

# What a one-tower sequence model runs; and one that reads from the past to the present, which then foretells as well.
SEQUENCE: tuple[Form, ...] = (("tokens", "steps"), ("tokens", "one"), ("series", "steps"), ("series", "one"))
CAUSAL_SEQUENCE: tuple[Form, ...] = (*SEQUENCE, ("tokens", "next"))


def eats(name: str) -> Kind:
    return _kind(EATS, name, "eats")


def gives(name: str) -> Kind:
    return _kind(GIVES, name, "gives")


def _kind(kinds: dict[str, Kind], name: str, word: str) -> Kind:
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.4) or list(kinds)
        raise UserError(f"{word} = {name!r} is not a kind. Did you mean {', '.join(near)}?")
    return kinds[name]


def sizes_of(form: Form, values: Sizes | None = None) -> Sizes:
    """What a task of this form sets, with those of `values` that it has and else the sizes of an example."""
    eaten, given = eats(form[0]), gives(form[1])
    sizes = {**eaten.sizes, **given.sizes}
    sizes |= {name: value for name, value in (values or {}).items() if name in sizes}
    return sizes | ({"d_out": sizes[eaten.vocabulary]} if given.of_words and eaten.vocabulary else {})
