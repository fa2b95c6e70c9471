"""What the columns of a table are: times, numbers, categories or texts, from their cells.

    time        ISO 8601, day/month/year (or month/day/year where no other reading fits), with or without hours
    number      1234.5   1.234,5   1,234.5: see `numbers`
    category    few values that come again (labels)
    text        all else

Where 19 cells of 20 are times or numbers the column is; the others count as missing, and that is said.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oliveira.data.numbers import Marks, Numbers, numbers_of, typed
from oliveira.data.tables import ENOUGH, Table, read_table

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["time", "number", "category", "text"]
LABEL_LENGTH, LABEL_SHARE, MOST_LABELS = 60, 0.5, 1000  # characters, distinct values a row
_OFFSET = r"(?<=\d)\s*(?:Z|UTC|(?<=:\d\d)[+-]\d\d:?\d\d)$"
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %Hh%M", " %H")
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d/%m/%y", "%m/%d/%Y", "%Y%m%d")
_MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%m-%Y")
_FORMATS = tuple(date + hours for date in _DATES[:-1] for hours in _HOURS) + _MONTHS
_WORDS = {"%Y": "year", "%m": "month", "%d": "day", "%y": "year"}


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    values: NDArray[Any]  # float64 (NaN = missing), datetime64[s] (NaT), or str ("")
    missing: int
    distinct: int
    written: NDArray[Any] = field(compare=False)  # the cells as the file has them
    said: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()  # what a person had better look at

    @property
    def counts_rows(self) -> bool:
        """Whether it only numbers the rows."""
        return self.kind == "number" and len(self.values) > 2 and bool((np.diff(self.values) == 1).all())

    @property
    def constant(self) -> bool:
        return self.distinct < 2


def read_columns(path: Path) -> tuple[Table, dict[str, Column]]:
    """A table with its columns, read once as long as the file is the same. Raises `UserError` as `read_table` does."""
    table = read_table(path)
    return table, _typed(path, table.digest)


@functools.lru_cache(maxsize=2)
def _typed(path: Path, digest: str) -> dict[str, Column]:
    return columns_of(read_table(path))


def columns_of(table: Table) -> dict[str, Column]:
    """Every column of a table by its name, in its order."""
    cells = {name: table.cells[name] for name in table.names}
    marks = Marks.of([column for name, column in cells.items() if name not in table.typed], table.delimiter)
    return {name: _column(name, column, None if name in table.typed else marks) for name, column in cells.items()}


def years(column: Column) -> Column:
    """A column of whole numbers read as years: for `--time ano`."""
    times = np.array([f"{int(v):04d}" if 1 <= v <= 9999 else "NaT" for v in np.nan_to_num(column.values, nan=-1)])
    return replace(column, kind="time", values=times.astype("datetime64[s]"))


def labels_of(column: Column) -> NDArray[Any]:
    """A column's cells as labels: whatever they are, as they are written."""
    return column.written.astype(str)


def _column(name: str, cells: pd.Series, marks: Marks | None) -> Column:
    """`marks`: None where the file holds numbers as such."""
    there = cells[cells != ""]
    missing, distinct = len(cells) - len(there), there.nunique()
    written = cells.to_numpy(dtype=object)
    if not len(there):
        return Column(name, "text", np.array([""] * len(cells)), missing, 0, written)
    if marks is not None and (timed := _times(cells, there)) is not None:
        times, said = timed
        wrong = int(np.isnat(times).sum()) - missing
        return Column(name, "time", times, missing + wrong, distinct, written, (*said, *_wrong(name, wrong, "times")))
    counted: Numbers | None = typed(cells) if marks is None else numbers_of(name, cells, marks)
    if counted is not None:
        wrong = int(np.isnan(counted.values).sum()) - missing
        said = [*counted.said, *_wrong(name, wrong, "numbers")]
        return Column(name, "number", counted.values, missing + wrong, distinct, written, tuple(said), counted.doubts)
    repeated = distinct <= max(2, len(there) * LABEL_SHARE)
    is_label = repeated and distinct <= MOST_LABELS and float(there.str.len().mean()) <= LABEL_LENGTH
    return Column(name, "category" if is_label else "text", written.astype(str), missing, distinct, written)


def _wrong(name: str, count: int, what: str) -> list[str]:
    if not count:
        return []
    if what == "times":
        return [f"{count} values of '{name}' are no times and count as missing"]
    return [f"{count} values of '{name}' are no numbers and count as missing"]


# Times --------------------------------------------------------------------------------------------------------------


def _times(cells: pd.Series, there: pd.Series) -> tuple[NDArray[Any], list[str]] | None:
    """Times to the second, as the clock showed them; None when they are none."""
    import pandas as pd

    if not there.head(20).str.contains(r"\d[-/.:T]\d", regex=True).any():
        return None
    plain = cells.str.replace(_OFFSET, "", regex=True).str.replace("T", " ").str.replace(r"(?<=\d), ?", " ", regex=True)
    sample = plain[there.index[:200]]
    best, chosen = 0.0, ""
    for form in _FORMATS:
        share = float(pd.to_datetime(sample, format=form, errors="coerce").notna().mean())
        if share > best and (share == 1.0 or share >= ENOUGH):
            best, chosen = share, form
    if not chosen:
        return None
    parsed = pd.to_datetime(plain, format=chosen, errors="coerce")
    if chosen.startswith("%d/%m/%Y") and parsed[there.index].notna().mean() < ENOUGH:
        american = chosen.replace("%d/%m", "%m/%d")
        parsed, chosen = pd.to_datetime(plain, format=american, errors="coerce"), american
    if parsed[there.index].notna().mean() < ENOUGH:
        return None
    said = [f"'{cells.name}': times read as {_order(chosen)}"] if chosen[:2] in ("%d", "%m") else []
    if there.str.contains(_OFFSET, regex=True).any():
        said.append(f"'{cells.name}': offsets from UTC are left out, times are as the clock showed them")
    return parsed.to_numpy().astype("datetime64[s]"), said


def _order(form: str) -> str:
    return "/".join(_WORDS[part] for part in re.findall("%[Ymdy]", form))
