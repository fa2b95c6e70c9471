"""What a formula of the seed documents is to this program: its text, its published form, and a check that can fail.

An entry is a decorated function: the arguments of `@formula` are what a person reads, the body is the check.
"""

from __future__ import annotations

import difflib
import importlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from oliveira.errors import UserError

Verdict = Literal["right", "incomplete", "wrong"]
Value = float | int | str | list[float]

SEEDS = {
    "000": "Oliveira-Optimizer (Adilson Oliveira)",
    "001": "Novas Fronteiras em Arquiteturas de Redes Neurais (vhrique/anne_ptbr)",
    "002": "As Loucas Aventuras no Mundo da Inteligência Artificial (George Luiz Bittencourt)",
    "003": "Redes Neurais para Processamento de Linguagem Natural (vhrique/anne_ptbr)",
}
# One module a topic; importing it enters its formulas.
TOPICS = (
    "transformer",
    "learning",
    "model",
    "efficiency",
    "alignment",
    "memory",
    "cache",
    "control",
    "recurrent",
    "long_attention",
    "vision",
    "frontiers",
)


@dataclass(frozen=True)
class Seed:
    """Where a formula stands: number of the seed document, heading above it, its text letter by letter."""

    number: str
    heading: str
    text: str
    kind: Literal["latex", "code", "words"] = "latex"  # words: the seed document says it in a sentence


@dataclass(frozen=True)
class Claim:
    sentence: str
    holds: bool


class Check:
    """Collects the figures of one numeric check, and for each claim about them whether it holds."""

    def __init__(self) -> None:
        self.figures: dict[str, Value] = {}
        self.claims: list[Claim] = []

    def figure(self, name: str, value: Any) -> None:
        """A number or a short row of numbers, to six digits. Not-a-number and infinity become words."""
        if hasattr(value, "tolist"):
            value = value.tolist()
        self.figures[name] = [_plain(v) for v in value] if isinstance(value, (list, tuple)) else _plain(value)

    def claim(self, sentence: str, holds: Any) -> None:
        self.claims.append(Claim(sentence, bool(holds)))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Formula:
    id: str
    title: str
    seeds: tuple[Seed, ...]
    verdict: Verdict  # of the seed document's text
    published: str  # LaTeX
    source: str  # paper and equation
    remarks: str  # what is wrong or missing in the seed document's text, and what follows
    variants: dict[str, str]
    default: str
    units: str  # domain and units of what goes in and out
    where: str  # `oliveira.<module>` that computes it, or "later: <system>"
    unsafe: tuple[str, ...]  # variants that later modules run only with allow_seed=True
    check: Callable[[Check], None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; without the check, which is code."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "check"}
        return fields | {"seeds": [asdict(seed) for seed in self.seeds], "unsafe": list(self.unsafe)}


@dataclass(frozen=True)
class Result:
    id: str
    holds: bool
    milliseconds: float  # the first check of a process that needs torch pays for its import
    figures: dict[str, Value]
    claims: list[Claim]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_FORMULAS: dict[str, Formula] = {}


def formula(
    id: str,
    title: str,
    *seeds: Seed,
    verdict: Verdict,
    published: str,
    source: str,
    remarks: str,
    variants: dict[str, str],
    default: str,
    units: str,
    where: str,
    unsafe: tuple[str, ...] = (),
) -> Callable[[Callable[[Check], None]], Callable[[Check], None]]:
    """Function decorator: enters a formula with the decorated function as its check."""
    if id in _FORMULAS:
        raise ValueError(f"formula {id!r} is entered twice")
    if default not in variants or not set(unsafe) <= set(variants) or default in unsafe:
        raise ValueError(f"formula {id!r}: default and unsafe must be names of variants, and the default a safe one")
    if verdict not in get_args(Verdict):
        raise ValueError(f"formula {id!r}: unknown verdict {verdict!r}")

    def enter(check: Callable[[Check], None]) -> Callable[[Check], None]:
        _FORMULAS[id] = Formula(
            id=id,
            title=title,
            seeds=seeds,
            verdict=verdict,
            published=published,
            source=source,
            remarks=remarks,
            variants=variants,
            default=default,
            units=units,
            where=where,
            unsafe=unsafe,
            check=check,
        )
        return check

    return enter


def formulas() -> list[Formula]:
    """Every formula, in the order of the topics, whichever was imported first."""
    modules = [importlib.import_module(f"oliveira.formulas.{topic}").__name__ for topic in TOPICS]
    return sorted(_FORMULAS.values(), key=lambda found: modules.index(found.check.__module__))


def find(id: str) -> Formula:
    """The formula of that id; `UserError` with the nearest ids otherwise."""
    known = {found.id: found for found in formulas()}
    if id not in known:
        near = difflib.get_close_matches(id, known, n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}?" if near else "`oliveira formulas list` shows them all."
        raise UserError(f"formula {id!r} is not known. {hint}")
    return known[id]


def run(found: Formula) -> Result:
    """Runs the numeric check of a formula: figures, claims, and whether all claims hold."""
    check, start = Check(), time.perf_counter()
    found.check(check)
    milliseconds = round((time.perf_counter() - start) * 1000, 2)
    holds = bool(check.claims) and all(claim.holds for claim in check.claims)
    return Result(found.id, holds, milliseconds, check.figures, check.claims)
