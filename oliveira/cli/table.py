"""A table whose cells are shown as they are stored."""

from __future__ import annotations

from typing import Any

from rich import table
from rich.text import Text

from oliveira.language import translate


class Table(table.Table):
    """Headings in the language that is spoken; cells as they are: square brackets are no markup, and a character that
    would move the cursor is a question mark."""

    def __init__(self, *headings: str, **options: Any) -> None:
        super().__init__(*map(translate, headings), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def printable(text: str) -> str:
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )
