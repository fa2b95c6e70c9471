"""What the house knows of each model: its paper, what it eats and gives, and how it is built.

Kinds, and what `forward` takes and gives for each (B batch, T steps, S source steps):

    eats      forward(…)                                          config fields that a task sets
    tokens    tokens (B, T) int64, mask=(B, T)                    vocab_size, max_len
    series    x (B, T, d_in) float32, mask=(B, T)                 d_in, max_len
    image     x (B, channels, height, width) float32              channels, height, width
    pairs     source (B, S), target (B, T), mask=(B, S)           vocab_size, target_vocab_size, max_len

    gives     returns
    one       (B, d_out)
    steps     (B, T, d_out)
    next      (B, T, vocab_size), step t from the steps up to t only; a causal model that gives steps gives this too
    mlm+nsp   NamedTuple of (B, T, vocab_size) and (B, 2); forward also takes segments=(B, T) (BERT)

`mask` is optional, boolean, True = a real step, False = padding: padded steps change no other step's output.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from torch import nn

from oliveira.errors import UserError

Eats = Literal["tokens", "series", "image", "pairs"]
Gives = Literal["one", "steps", "next", "mlm+nsp"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    family: str
    paper: str
    eats: tuple[Eats, ...]
    gives: tuple[Gives, ...]
    causal: bool
    exportable: bool
    config: type
    model: type[nn.Module]
    tiny: dict[str, Any]  # smallest config that every contract check runs on, without what a kind sets
    reference: str = ""  # what the parity tests compare with
    train: dict[str, Any] = field(default_factory=dict)  # fields of TrainSection that this architecture wants otherwise
    xfail: dict[str, str] = field(default_factory=dict)

    def fits(self, eats: str, gives: str) -> bool:
        """Whether the model runs on a task that eats and gives so."""
        if eats not in self.eats:
            return False
        return gives in self.gives or (gives == "next" and self.causal and "steps" in self.gives)


_ENTRIES: dict[str, Entry] = {}
_VALIDATORS: dict[type, TypeAdapter[Any]] = {}


def register(
    name: str,
    *,
    family: str,
    paper: str,
    eats: tuple[Eats, ...],
    gives: tuple[Gives, ...],
    config: type,
    causal: bool = False,
    exportable: bool = True,
    tiny: dict[str, Any],
    reference: str = "",
    train: dict[str, Any] | None = None,
    xfail: dict[str, str] | None = None,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: enters a model in the catalogue."""

    def enter(model: type[nn.Module]) -> type[nn.Module]:
        _ENTRIES[name] = Entry(
            name=name,
            family=family,
            paper=paper,
            eats=eats,
            gives=gives,
            causal=causal,
            exportable=exportable,
            config=config,
            model=model,
            tiny=tiny,
            reference=reference,
            train=train or {},
            xfail=xfail or {},
        )
        return model

    return enter


def entries() -> list[Entry]:
    """Every model of the catalogue, by name."""
    import oliveira.models  # noqa: F401  (importing the room registers its models)

    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def entry(name: str) -> Entry:
    names = [found.name for found in entries()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise UserError(f"model {name!r} is not in the catalogue. Did you mean {', '.join(near)}?")
    return _ENTRIES[name]


def create(name: str, **config: Any) -> nn.Module:
    """A fresh model by name: `create("gpt", vocab_size=4096, d_model=192)`."""
    found = entry(name)
    return found.model(make_config(found, config))


def make_config(found: Entry, values: dict[str, Any]) -> Any:
    """The entry's config. Raises `UserError` naming the field, the value and the remedy."""
    fields = {f.name: f for f in dataclasses.fields(found.config)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=3, cutoff=0.4) or list(fields)
            raise UserError(f"{found.name} has no {key!r}. Did you mean {', '.join(near)}?")
    needed = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{found.name} needs {', '.join(missing)}. Give a value, for example {missing[0]}=32.")
    try:
        return _VALIDATORS.setdefault(found.config, TypeAdapter(found.config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # a sentence of the config's own __post_init__
            raise UserError(f"{found.name}: {first['ctx']['error']}") from None
        name = str(first["loc"][0])
        raise UserError(
            f"{found.name}: {name} = {first['input']!r} is refused: {first['msg']}. "
            f"Its type is {fields[name].type}, its default {fields[name].default!r}."
        ) from None
