"""A table whose cells are shown as they are stored, but for numbers, which are written as the language writes them."""

from __future__ import annotations

import re
from typing import Any

from rich import table
from rich.text import Text

from oliveira.language import local, translate

_FIGURE = re.compile(r"[-+−~≈±]?\d+(?:[.,]\d+)*(?:\s|%|$)")


class Table(table.Table):
    """Headings in the language that is spoken; cells as they are: square brackets are no markup, and a character that
    would move the cursor is a question mark. A cell that begins with a number is a figure; all else may be a name."""

    def __init__(self, *headings: str, **options: Any) -> None:
        super().__init__(*map(translate, headings), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(_shown(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def _shown(cell: str) -> str:
    return printable(local(cell) if _FIGURE.match(cell) else cell)


def printable(text: str) -> str:
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )
