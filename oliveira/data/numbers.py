"""Columns of numbers: what the points and commas in their cells mean.

    1.234,5    1,234.5         both marks: the last one is decimal
    1.234.567                  a mark that comes again divides thousands, so that the other one is decimal
    0.418  .5  12.34  1234.567 a zero before it, none, or other than three digits after it, or four before it: decimal
    1.234                      open, until the first of these decides:
                                 1  other cells of its column; 1234 beside it: what is grouped nowhere is decimal here
                                 2  R$: a Brazilian amount, a comma is decimal
                                 3  the columns of the file that are sure, where all agree
                                 4  a file of semicolons where 850 stands beside 1.234: a point divides thousands
                                 5  a point in a file of commas is decimal
                                 6  nothing: a point is decimal, a comma in a file of semicolons alone. It is a doubt

Numbers that a file holds as such (Parquet, XLSX) have no marks: `typed` reads them and no rule above does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from oliveira.data.tables import ENOUGH

if TYPE_CHECKING:
    import pandas as pd

Style = Literal["comma", "point", ""]  # which mark is decimal; "" = open
_LOOKED_AT = 2000  # cells of a column that decide first
_EXPONENT = r"([eE][-+]?\d+)?%?"
_POINT = re.compile(rf"[-+]?(\d+|[1-9]\d{{0,2}}(,\d{{3}})+)?(\.\d+)?(?<=\d)\.?{_EXPONENT}")
_COMMA = re.compile(rf"[-+]?(\d+|[1-9]\d{{0,2}}(\.\d{{3}})+)?(,\d+)?(?<=\d),?{_EXPONENT}")
_CURRENCY = r"^(R\$|US\$|\$|€|£)\s*|\s+"
_NEGATIVE = r"^(?:\((\d[\d.,]*)\)|(\d[\d.,]*)-)$"
_MARK, _FOUR, _FEW = r"[.,]", r"[-+]?[1-9]\d{3,}", r"[-+]?[1-9]\d{0,2}"


@dataclass(frozen=True)
class Numbers:
    values: NDArray[np.float64]  # NaN where a cell is none
    said: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Marks:
    """What a file says of the marks that its columns leave open."""

    styles: dict[str, Style]  # of its columns by their names
    delimiter: str

    @classmethod
    def of(cls, columns: list[pd.Series], delimiter: str) -> Marks:
        return cls({str(column.name): _sure(column) for column in columns}, delimiter)

    def decide(self, cells: pd.Series) -> tuple[Style, bool]:
        """Of a column that is open: which mark is decimal, and whether that is no more than a guess."""
        sure = set(self.styles.values()) - {""}
        if len(sure) == 1:
            return sure.pop(), False
        marked = cells.str.contains(_MARK, regex=True)
        if self.delimiter == ";" and cells[~marked].str.fullmatch(_FEW).any():
            return "comma", False
        if cells.str.contains(",", regex=False).any():
            return "comma" if self.delimiter == ";" else "point", True
        return "point", self.delimiter != ","


def typed(cells: pd.Series) -> Numbers:
    """Cells as this program writes numbers."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    return Numbers(np.where(np.isfinite(numbers), numbers, np.nan))


def numbers_of(name: str, cells: pd.Series, marks: Marks) -> Numbers | None:
    """None where fewer than ENOUGH of the cells that are there are numbers."""

    there = cells[cells != ""]
    sample = _bare(there.head(_LOOKED_AT))
    if max(_fits(sample, _COMMA), _fits(sample, _POINT)) < ENOUGH:
        return None
    bare = _bare(cells).str.removesuffix("%")
    marked = bare[bare.str.contains(_MARK, regex=True)]
    style: Style = marks.styles[name] if len(marked) else "point"
    guess = False
    is_open = not style
    if is_open:
        style, guess = marks.decide(bare[there.index])
    pattern = _COMMA if style == "comma" else _POINT
    valid = bare.where(bare.map(lambda cell: pattern.fullmatch(cell) is not None))
    comma = style == "comma"
    plain = valid.str.replace(".", "").str.replace(",", ".") if comma else valid.str.replace(",", "")
    numbers = typed(plain).values
    if np.isfinite(numbers[there.index]).mean() < ENOUGH:
        return None
    if guess:
        mark = "." if marked.str.contains(".", regex=False).any() else ","
        return Numbers(numbers, doubts=(_doubt(name, mark, style),))
    said = (f"'{name}': decimal comma",) if comma and len(marked) else ()
    return Numbers(numbers, said or ((f"'{name}': decimal point",) if is_open else ()))


def _doubt(name: str, mark: str, style: Style) -> str:
    if mark == ".":
        return f"'{name}': nothing tells whether its points divide thousands; they are read as decimal"
    if style == "comma":
        return f"'{name}': nothing tells whether its commas divide thousands; they are read as decimal"
    return f"'{name}': nothing tells whether its commas are decimal; they are read as dividing thousands"


def _sure(cells: pd.Series) -> Style:
    """The decimal mark of a column where only one reading fits; all of it is read where its head is open."""
    there = cells[cells != ""]
    head = there.head(_LOOKED_AT)
    bare = _bare(head)
    comma, point = _fits(bare, _COMMA), _fits(bare, _POINT)
    if max(comma, point) < ENOUGH:
        return ""
    if comma == point and len(there) > len(head):
        head = there[there.str.contains(_MARK, regex=True)]
        bare = _bare(head)
        comma, point = _fits(bare, _COMMA), _fits(bare, _POINT)
    if comma != point:
        return "comma" if comma > point else "point"
    marked = bare[bare.str.contains(_MARK, regex=True)]
    if not len(marked):
        return ""
    if _bare(there).str.fullmatch(_FOUR).any():
        return "point" if marked.str.contains(".", regex=False).any() else "comma"
    return "comma" if head.str.startswith("R$").any() else ""


def _bare(cells: pd.Series) -> pd.Series:
    """Without currency and blanks; -12 for what accounts write as (12) and 12-."""
    bare = cells.str.replace(_CURRENCY, "", regex=True).str.replace("\N{MINUS SIGN}", "-")
    return bare.str.replace(_NEGATIVE, r"-\1\2", regex=True)


def _fits(cells: pd.Series, pattern: re.Pattern[str]) -> float:
    return float(cells.map(lambda cell: pattern.fullmatch(cell) is not None).mean()) if len(cells) else 0.0
