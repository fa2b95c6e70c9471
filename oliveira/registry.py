"""What the house knows of each model: its paper, what it eats and how it is built."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from oliveira.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    family: str
    paper: str
    eats: str  # kind of input: "tokens", "series", "image", "graph", …
    causal: bool
    exportable: bool
    config: type
    model: type[nn.Module]
    tiny: dict[str, Any]  # smallest config that every contract check runs on
    xfail: dict[str, str] = field(default_factory=dict)


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str,
    *,
    family: str,
    paper: str,
    eats: str,
    config: type,
    causal: bool = False,
    exportable: bool = True,
    tiny: dict[str, Any],
    xfail: dict[str, str] | None = None,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: enters a model in the catalogue."""

    def enter(model: type[nn.Module]) -> type[nn.Module]:
        _ENTRIES[name] = Entry(
            name=name,
            family=family,
            paper=paper,
            eats=eats,
            causal=causal,
            exportable=exportable,
            config=config,
            model=model,
            tiny=tiny,
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
    known = [f.name for f in dataclasses.fields(found.config)]
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
            raise UserError(f"{name} has no {key!r}. Did you mean {', '.join(near)}?")
    return found.model(found.config(**config))
