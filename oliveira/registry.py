"""What the house knows of each model: its paper, the forms it runs, what more it can do, and how it is built.

A form is a pair (eats, gives) of kinds (`oliveira.kinds`). What a model can beyond `forward` is declared, never probed:

    features         features(*inputs) → what its head reads, whatever the head: states of steps (batch, steps, width)
                     or one row (batch, width). `Entry.head` names the parts that make the answer of them
    decodes          forward(tokens, cache=, positions=, mask=) continues a text; that mask is of pairs of positions, so
                     it takes none of padding
    keeps_state      step(x, state) → (y, state): one step at a time
    auxiliary_loss   forward_with_auxiliary(*inputs) → (output, a loss to add to the task's)
    attention_map    attention_map(*inputs) → (batch, steps, source): where it looks
    grows            resize(config): its parameters get the sizes of another config of its own; what they then hold is
                     for a task to say (`Data.after_step`)
    matrix_head      its head is one matrix without a bias, `head`, by which a loss may multiply the features itself
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
from oliveira.kinds import Form, sizes_of

Capability = Literal["decodes", "keeps_state", "auxiliary_loss", "attention_map", "features", "grows", "matrix_head"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    family: str
    paper: str
    forms: tuple[Form, ...]  # (eats, gives) pairs that really run, the usual one first
    can: tuple[Capability, ...]
    causal: bool
    exportable: bool
    config: type
    model: type[nn.Module]
    tiny: dict[str, Any]  # smallest config that every contract check runs on, without what a kind sets
    head: tuple[str, ...] = ("output",)  # of a model with features: the parts of the module that are not its body
    reference: str = ""  # what the parity tests compare with
    train: dict[str, Any] = field(default_factory=dict)  # fields of TrainSection that this architecture wants otherwise
    xfail: dict[str, str] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """Its forms, as "tokens → steps, one, next; series → steps, one"."""
        given: dict[str, list[str]] = {}
        for eats, gives in self.forms:
            given.setdefault(eats, []).append(gives)
        eaten: dict[str, list[str]] = {}
        for eats, answers in given.items():
            eaten.setdefault(", ".join(answers), []).append(eats)
        return "; ".join(f"{', '.join(kinds)} → {answers}" for answers, kinds in eaten.items())

    def fits(self, eats: str, gives: str) -> bool:
        """Whether the model runs on a task that eats and gives so."""
        return (eats, gives) in self.forms

    def sizes(self, form: Form, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """The fields of its config that a task of this form sets, to `values` or to those of an example."""
        sizes = sizes_of(form, values)
        return {field.name: sizes[field.name] for field in dataclasses.fields(self.config) if field.name in sizes}

    @property
    def heads(self) -> tuple[str, ...]:
        """What it can give. Where there is a choice, its constructor takes the word and keeps it as `gives`."""
        return tuple(dict.fromkeys(gives for _, gives in self.forms))

    def build(self, config: Any, gives: str = "") -> nn.Module:
        """A fresh model under the head that a task asks for; "" = the one that its class has by itself."""
        if gives and gives not in self.heads:
            raise UserError(f"{self.name}: gives = {gives!r} is refused. It gives {', '.join(self.heads)}.")
        return self.model(config, gives=gives) if gives and len(self.heads) > 1 else self.model(config)

    def head_has(self, name: str) -> bool:
        """Whether a weight or part of the module belongs to the head."""
        return name.split(".")[0] in self.head

    def given_by(self, model: nn.Module) -> str:
        """What a built model gives."""
        network: Any = model
        return str(network.gives) if len(self.heads) > 1 else self.heads[0]


_ENTRIES: dict[str, Entry] = {}
_VALIDATORS: dict[type, TypeAdapter[Any]] = {}


def register(
    name: str,
    *,
    family: str,
    paper: str,
    forms: tuple[Form, ...],
    config: type,
    can: tuple[Capability, ...] = (),
    causal: bool = False,
    exportable: bool = True,
    tiny: dict[str, Any],
    head: tuple[str, ...] = ("output",),
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
            forms=forms,
            can=can,
            causal=causal,
            exportable=exportable,
            config=config,
            model=model,
            tiny=tiny,
            head=head,
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


_ADDED = "added"


def added(default: Any) -> Any:
    """A config's field that came after configs had been stored: at its default it is not stored (`stored_config`)."""
    return field(default=default, metadata={_ADDED: True})


def stored_config(config: Any) -> dict[str, Any]:
    """A config as JSON keeps it. What was stored before a field was added keeps its digest."""
    values = dataclasses.asdict(config)
    for one in dataclasses.fields(config):
        if _ADDED in one.metadata and values[one.name] == one.default:
            del values[one.name]
    return values


def entry_of(model: nn.Module) -> Entry | None:
    """The entry of a model's class or of the nearest class that it derives from; None for one of no catalogue."""
    for kind in type(model).__mro__:
        for found in _ENTRIES.values():
            if found.model is kind:
                return found
    return None


def can(model: nn.Module, capability: Capability) -> bool:
    """Whether the entry of a model declares it."""
    found = entry_of(model)
    return found is not None and capability in found.can


def decoding(model: nn.Module, where: str = "") -> Any:
    """The model, which continues a text (`Entry.can`: "decodes"). `UserError` for one that does not."""
    if not can(model, "decodes"):
        found = entry_of(model)
        names = ", ".join(other.name for other in entries() if "decodes" in other.can)
        raise UserError(
            f"{where}a {found.name if found else type(model).__name__} does not continue a text. Give one of: {names}."
        )
    return model


def create(name: str, *, gives: str = "", **config: Any) -> nn.Module:
    """A fresh model by name: `create("gpt", vocab_size=4096, d_model=192)`. `gives`: its head, where there are several
    (`Entry.heads`).
    """
    found = entry(name)
    return found.build(make_config(found, config), gives)


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
