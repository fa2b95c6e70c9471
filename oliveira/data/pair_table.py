"""Pairs of texts in two columns of a user's table: the source, and the target to be written from it.

names     the first line counts as one only where a word of it is known as the name of a side or of a language
double    a pair that comes again is left out; pairs with the same source stay on one side of the split, and what
          is learnt from shares no text, in either column, with what judges
long      texts of more than MOST_WORDS words are left out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oliveira.data.columns import Column
from oliveira.data.labelled import plain_words
from oliveira.data.roles import listed
from oliveira.data.split import SPLITS, assign
from oliveira.data.tables import Table
from oliveira.data.text import clean
from oliveira.errors import UserError

Pair = tuple[str, str]

MOST_WORDS, MOST_CHARACTERS = 40, 400
FEWEST_PAIRS = 100
SHARES = {"validation": 0.1, "test": 0.1}
_SEED = 0
_SOURCES = ("source", "src", "origem", "fonte", "input", "entrada")
_TARGETS = ("target", "tgt", "alvo", "destino", "output", "saída", "saida", "translation", "tradução", "traducao")
_LANGUAGES = (
    *("en", "eng", "english", "inglês", "ingles", "pt", "por", "pt-br", "portuguese", "português", "portugues"),
    *("es", "spa", "spanish", "espanhol", "español", "fr", "fra", "french", "francês", "frances", "français"),
    *("de", "deu", "german", "alemão", "alemao", "deutsch", "it", "ita", "italian", "italiano"),
)


@dataclass(frozen=True)
class PairRoles:
    parts: dict[str, list[Pair]]  # by split
    names: tuple[str, str] | None  # of the columns; None: the first line is a pair
    said: tuple[str, ...]


def pairs_of(table: Table, columns: Mapping[str, Column], *, source: str, target: str) -> PairRoles:
    """`UserError` when two columns of texts cannot be told, or hold too few pairs."""
    names = table.names
    for option, name in (("--source", source), ("--target", target)):
        if name and name not in names:
            raise UserError(f"{option} '{name}' is no column. There are: {listed(names)}.")
    if len(names) < 2:
        raise UserError(f"there is one column, {listed(names)}; a source and its target need two. Add the other.")
    left, right = _sides(names, columns, source, target)
    if left == right:
        raise UserError(f"'{left}' cannot be source and target at once. Name two columns with --source and --target.")
    rows = list(zip(table.cells[left].tolist(), table.cells[right].tolist(), strict=True))
    said = [] if source and target else [f"source: '{left}'", f"target: '{right}'"]
    headed = bool(source or target or names == _numbered(names) or any(map(_known, names)))
    if not headed:
        rows = [(left, right), *rows]
        said = ["the first line holds no names: it is a pair, the first column is the source"]
    parts, more = _split(rows)
    return PairRoles(parts, (left, right) if headed else None, (*said, *more))


def _sides(names: list[str], columns: Mapping[str, Column], source: str, target: str) -> tuple[str, str]:
    texts = [
        name for name in names if columns[name].kind == "text" and columns[name].missing < len(columns[name].values)
    ]
    left = source or next((name for name in texts if name.lower() in _SOURCES), "")
    right = target or next((name for name in texts if name.lower() in _TARGETS), "")
    rest = [name for name in texts if name not in (left, right)]
    missing = (not left) + (not right)
    if missing > len(rest):
        raise UserError(
            f"two columns of texts that hardly repeat are needed; there are {listed(texts) if texts else 'none'}. "
            "Name them with --source and --target."
        )
    if missing and missing < len(rest):
        raise UserError(f"source and target may be any of {listed(texts)}. Name them with --source and --target.")
    left = left or rest.pop(0)
    return left, right or rest.pop(0)


def _known(name: str) -> bool:
    return name.strip().lower() in (*_SOURCES, *_TARGETS, *_LANGUAGES)


def _numbered(names: list[str]) -> list[str]:
    return [f"column {number}" for number in range(1, len(names) + 1)]


def _split(rows: list[Pair]) -> tuple[dict[str, list[Pair]], list[str]]:
    said: list[str] = []
    cleaned = [(clean(one), clean(other)) for one, other in rows]
    there = [pair for pair in cleaned if all(pair)]
    short = [pair for pair in there if all(_short(text) for text in pair)]
    once = list(dict.fromkeys(short))
    for count, what in (
        (len(rows) - len(there), f"{len(rows) - len(there)} rows without source or target are left out"),
        (len(there) - len(short), f"{len(there) - len(short)} pairs of more than {MOST_WORDS} words are left out"),
        (len(short) - len(once), f"{len(short) - len(once)} pairs that come again are left out"),
    ):
        said = [*said, what] if count else said
    if sum(one == other for one, other in once) * 2 > len(once):
        raise UserError("more than half of the targets are their sources (nothing to learn). Name other columns.")
    if len({_key(other) for _, other in once}) < 2 <= len(once):
        raise UserError("all targets are the same text (nothing to learn). Name another --target.")
    parts = _parts(once)
    kept = sum(map(len, parts.values()))
    if kept < len(once):
        said = [*said, f"{len(once) - kept} pairs share a text with one that judges, and are left out"]
    if kept < FEWEST_PAIRS or not all(parts.values()):
        raise UserError(
            f"there are {kept} different pairs of at most {MOST_WORDS} words; a translation needs {FEWEST_PAIRS}. "
            "Add pairs."
        )
    return parts, said


def _short(text: str) -> bool:
    return len(text) <= MOST_CHARACTERS and len(text.split()) <= MOST_WORDS


def _key(text: str) -> str:
    return " ".join(plain_words(text)) or text


def _parts(pairs: list[Pair]) -> dict[str, list[Pair]]:
    side = assign({f"{n}": _key(one) for n, (one, _) in enumerate(pairs)}, seed=_SEED, **SHARES)
    parts: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for number, pair in enumerate(pairs):
        parts[side[f"{number}"]].append(pair)
    judging: set[str] = set()
    for split in ("test", "validation", "train"):
        parts[split] = [pair for pair in parts[split] if not judging & {_key(text) for text in pair}]
        judging |= {_key(text) for pair in parts[split] for text in pair}
    return parts
