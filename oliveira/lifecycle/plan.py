"""Windows and budgets that follow the size of one's own text; what is too small is said before any work.

Pure: from a world and the lengths of the documents to a world, with a word on each field that was changed. Only what
the text cannot bear is lowered, and never what a person set: that is kept, or refused with the figure it needs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from oliveira.data.documents import Document
from oliveira.data.preprocess import sections
from oliveira.data.settings import DataSection
from oliveira.data.split import assign
from oliveira.data.text import clean
from oliveira.errors import UserError
from oliveira.monitoring.calibration import CONVERSATION, MIN_BLOCKS, MIN_WINDOWS
from oliveira.world import World

LARGE = 3_000_000  # characters from which on nothing has to follow: no more are read here
SHARES = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2)  # of the documents, held out for validation and as much for the test
DUPLICATES = 0.8  # of the characters are counted on: copies are left out later
CHARACTERS_A_TOKEN = 4.0  # more than a small vocabulary reaches: tokens are never fewer than reckoned
CUT = 1.3  # a piece of text may be so much longer than asked for
PIECE, SHORTEST_PIECE = 500, 100  # characters of a held-out piece
SMALLEST_WINDOW = 100
VOCABULARY = 40  # characters of text an entry of the vocabulary wants
EPOCHS = 20  # over a small text; more learns it by heart
FEWEST_STEPS = 60


@dataclass
class Plan:
    world: World
    note: str = ""  # what was changed, for a person
    warning: str = ""


def lengths_of(documents: Iterable[Document], max_chars: int = 0) -> dict[str, int] | None:
    """Characters of each document as they will be split; None for a text so large that nothing has to follow it."""
    limit = max_chars or LARGE
    kept: list[Document] = []
    total = 0
    for document in documents:
        kept.append(Document(document.name, clean(document.text[: limit - total])))
        total += len(document.text)
        if total >= LARGE:
            return None
        if total >= limit:
            break
    return {document.name: len(document.text) for document in sections(kept)}


def needed_pieces() -> int:
    """Held-out pieces: false alarms are counted on one half with a reference made of the other: twice one's need."""
    return 2 * MIN_BLOCKS * CONVERSATION + CONVERSATION


def needed_tokens(window: int) -> int:
    return 2 * (MIN_WINDOWS + 1) * window


def piece_size(held_out: int) -> int:
    """Characters of a held-out piece: as long as a request, shorter where there is little text."""
    return int(min(PIECE, max(SHORTEST_PIECE, held_out // (CUT * needed_pieces()))))


def plan(world: World, lengths: Mapping[str, int], explicit: Collection[str] = ()) -> Plan:
    """`explicit`: dotted names of the fields that a person set. Raises `UserError` with the figure that is needed."""
    lengths = {name: length for name, length in lengths.items() if length >= world.data.min_chars}
    total = sum(lengths.values())
    need = world.model.max_len + 2
    if total < _characters(need) > _least_held_out() / (2 * SHARES[-1]):  # or the text is too short for any model
        raise UserError(
            f"model.max_len = {world.model.max_len} needs at least {need} training tokens, about "
            f"{_characters(need):,} characters; there are {total:,}. Give more text or a smaller model.max_len."
        )
    data, held_out = _hold_out(world, lengths, explicit)
    wanted: dict[str, Any] = {"data.validation": data.validation, "data.test": data.test}
    window = int(_tokens(held_out) // needed_tokens(1))
    if window < world.monitor.window:
        if "monitor.window" in explicit:
            enough = _characters(needed_tokens(world.monitor.window))
            raise UserError(
                f"monitor.window = {world.monitor.window} needs about {enough:,} held-out characters, there are "
                f"{held_out:,} of {total:,}. Use at most {window}, hold out more (data.validation, data.test), or give "
                "more text."
            )
        wanted["monitor.window"] = _round(window)
    learned = total - held_out
    lower = {"data.vocab_size": max(300, total // VOCABULARY)}
    steps = EPOCHS * _tokens(learned) // (world.train.batch_size * world.train.accumulate * world.model.max_len)
    if (steps := max(FEWEST_STEPS, steps)) < world.train.steps and "train.steps" not in explicit:
        lower |= {"train.steps": steps, "train.warmup_steps": steps // 10, "train.checkpoint_every": steps // 6}
        lower |= {"train.evaluate_every": steps // 3, "train.sample_every": steps // 2}
    for name, value in ({} if world.base.name else lower).items():  # a base trains no tokenizer and no model
        section, leaf = name.split(".")
        if name not in explicit and value < getattr(getattr(world, section), leaf):
            wanted[name] = value
    return _applied(world, wanted, total)


def _tokens(characters: int) -> int:
    return int(characters * DUPLICATES / CHARACTERS_A_TOKEN)


def _characters(tokens: int) -> int:
    return math.ceil(tokens * CHARACTERS_A_TOKEN / DUPLICATES)


def _least_held_out() -> int:
    """Characters that the monitor needs at its smallest window and shortest pieces."""
    pieces = math.ceil(needed_pieces() * SHORTEST_PIECE * CUT / DUPLICATES)
    return max(pieces, _characters(needed_tokens(SMALLEST_WINDOW)))


def _hold_out(world: World, lengths: Mapping[str, int], explicit: Collection[str]) -> tuple[DataSection, int]:
    """The smallest shares that leave enough to judge on, and the characters that they hold out."""
    need = _least_held_out()
    own = bool({"data.validation", "data.test"} & set(explicit))
    data, held_out = world.data, 0
    for share in (0.0,) if own else (0.0, *SHARES):
        if share > world.data.validation:
            data = world.data.model_copy(update={"validation": share, "test": share})
        split = assign(
            dict(zip(lengths, lengths, strict=True)), seed=world.seed, validation=data.validation, test=data.test
        )
        held_out = sum(length for name, length in lengths.items() if split[name] != "train")
        if held_out >= need:
            return data, held_out
    total = sum(lengths.values())
    least = math.ceil(need / (data.validation + data.test) / 1000) * 1000
    if total < least:
        remedy = " or hold out more (data.validation, data.test)" if own else ""
        raise UserError(
            f"the text has {total:,} characters, at least {least:,} are needed: {need:,} of them must be held out to "
            f"judge on. Give more text{remedy}."
        )
    raise UserError(
        f"of {total:,} characters only {held_out:,} would be held out to judge on, {need:,} are needed: the "
        f"{len(lengths)} documents differ too much in length. Divide the long ones into several files."
    )


def _round(value: int) -> int:
    """Two digits that a person can read, downwards."""
    unit = 10 ** max(0, len(str(value)) - 2)
    return max(SMALLEST_WINDOW, value // unit * unit)


def _applied(world: World, wanted: dict[str, Any], total: int) -> Plan:
    tree, changed = world.model_dump(), []
    for name, value in wanted.items():
        section, leaf = name.split(".")
        if tree[section][leaf] != value:
            changed.append(f"{name} {tree[section][leaf]} → {value}")
            tree[section][leaf] = value
    note = f"for a text of {total:,} characters: {', '.join(changed)}"
    return Plan(World.model_validate(tree), note if changed else "")
