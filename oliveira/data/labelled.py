"""Sentences with a label: rows of (number, text, label)."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from io import TextIOWrapper
from pathlib import Path

from oliveira.data.routes import Archive
from oliveira.data.sources import SOURCES, Source
from oliveira.data.split import SPLITS, assign_within, refuse_leak

Labelled = tuple[str, str, str]

_TWEETS = "told-br.csv"
_VOTES = ["homophobia", "obscene", "insult", "racism", "misogyny", "xenophobia"]
_NOT_WORDS = re.compile(r"https?://\S+|@\w+|^rt\b")


def tweets(root: Traversable, scratch: Path) -> Iterator[Labelled]:
    """ToLD-Br: toxic = at least one of three annotators saw at least one of six kinds of offence.

    That is the authors' own binary task, and the more balanced reading: 9,255 of 21,000 against 4,063 for two votes.
    """
    with (root / _TWEETS).open("rb") as file:
        rows = csv.reader(TextIOWrapper(file, "utf-8", newline=""))
        if next(rows) != ["text", *_VOTES]:
            raise ValueError("the columns are not those of ToLD-Br")
        for number, (text, *votes) in enumerate(rows):
            yield f"{number:05d}", text, "toxic" if any(float(vote) >= 1 for vote in votes) else "not toxic"


def skills(root: Traversable, scratch: Path) -> Iterator[Labelled]:
    """BNCC, ensino fundamental: a learning objective and the school subject that it belongs to."""
    folder = root / "bncc" / "dados"
    subjects = json.loads((folder / "estrutura.json").read_bytes())["componentes_curriculares"]
    names = {subject["id"]: subject["nome"] for subject in subjects}
    for skill in json.loads((folder / "ensino-fundamental.json").read_bytes())["habilidades"]:
        yield skill["codigo"], skill["texto"], names[skill["componente"]]


def plain_words(text: str) -> list[str]:
    """Words in lower case without addresses and user names: texts that share them are one text."""
    return re.findall(r"\w+", _NOT_WORDS.sub(" ", text.lower()))


def split_labelled(rows: list[Labelled], *, seed: int, validation: float, test: float) -> dict[str, list[Labelled]]:
    """Rows by split, each label in about the same shares. Equal texts (`plain_words`) stay on one side.

    Raises `LeakageError` if a text ended up on two sides all the same.
    """
    groups = {row[0]: " ".join(plain_words(row[1])) or row[1] for row in rows}
    labels = {number: label for number, _, label in rows}
    split_of = assign_within(labels, groups, seed=seed, validation=validation, test=test)
    parts = {split: [row for row in rows if split_of[row[0]] == split] for split in SPLITS}
    refuse_leak({split: {groups[row[0]] for row in part} for split, part in parts.items()})
    return parts


TOLD_BR = Source(
    name="told-br",
    title="21,000 tweets in Brazilian Portuguese, judged by three annotators each",
    licence="CC BY-SA 4.0 (Leite et al. 2020)",
    read=tweets,
    content="b8eb63bfdb2530f2014d68432e69e5d2a403ade63f774215da8a6c6e4b99ce42",
    archive=Archive(
        url="https://raw.githubusercontent.com/JAugusto97/ToLD-Br/7804082d06a42b791c456b37a8a80ed9b731198c/ToLD-BR.csv",
        file=_TWEETS,
    ),
)

BNCC_SKILLS = Source(
    name="bncc-skills",
    title="1,304 learning objectives of the Brazilian curriculum with their school subject",
    licence=SOURCES["bncc"].licence,
    read=skills,
    content="42b6e2039431a1e8766b4aac26e4194b90cbc361096f2ac6d13a2f94f5682772",
    package=SOURCES["bncc"].package,
)
