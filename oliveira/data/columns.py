"""What the columns of a table are: times, numbers, categories or texts, from their cells.

    time        ISO 8601, day/month/year (or month/day/year where no other reading fits), with or without hours
    number      1234.5   1.234,5   1,234.5: point or comma is decided by the column, then by the file
    category    few values that come again (labels)
    text        all else

Where 19 cells of 20 are times or numbers the column is; the others count as missing, and that is said.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oliveira.data.tables import Table, read_table

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["time", "number", "category", "text"]
ENOUGH = 0.95  # of the cells that are there
LABEL_LENGTH, LABEL_SHARE, MOST_LABELS = 60, 0.5, 1000  # characters, distinct values a row
_EXPONENT = r"([eE][-+]?\d+)?%?"
_POINT = re.compile(rf"[-+]?(\d+|\d{{1,3}}(,\d{{3}})+)?(\.\d+)?(?<=\d)\.?{_EXPONENT}")
_COMMA = re.compile(rf"[-+]?(\d+|\d{{1,3}}(\.\d{{3}})+)?(,\d+)?(?<=\d),?{_EXPONENT}")
_CURRENCY = r"^(R\$|US\$|\$|€|£)\s*|\s+"
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
    said: tuple[str, ...] = field(default=())

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
    comma = _commas(list(cells.values()), table.delimiter)
    return {name: _column(name, column, comma) for name, column in cells.items()}


def years(column: Column) -> Column:
    """A column of whole numbers read as years: for `--time ano`."""
    times = np.array([f"{int(v):04d}" if 1 <= v <= 9999 else "NaT" for v in np.nan_to_num(column.values, nan=-1)])
    return Column(column.name, "time", times.astype("datetime64[s]"), column.missing, column.distinct)


def labels_of(column: Column) -> NDArray[Any]:
    """A column's values as labels: whole numbers as they are written."""
    if column.kind != "number":
        return column.values.astype(str)
    return np.array(["" if np.isnan(value) else f"{value:g}" for value in column.values])


def _column(name: str, cells: pd.Series, comma: bool) -> Column:
    there = cells[cells != ""]
    missing, distinct = len(cells) - len(there), there.nunique()
    if not len(there):
        return Column(name, "text", np.array([""] * len(cells)), missing, 0)
    if (timed := _times(cells, there)) is not None:
        times, said = timed
        wrong = int(np.isnat(times).sum()) - missing
        return Column(name, "time", times, missing + wrong, distinct, (*said, *_wrong(name, wrong, "times")))
    if (counted := _numbers(cells, there, comma)) is not None:
        numbers, said = counted
        wrong = int(np.isnan(numbers).sum()) - missing
        return Column(name, "number", numbers, missing + wrong, distinct, (*said, *_wrong(name, wrong, "numbers")))
    repeated = distinct <= max(2, len(there) * LABEL_SHARE)
    is_label = repeated and distinct <= MOST_LABELS and float(there.str.len().mean()) <= LABEL_LENGTH
    return Column(name, "category" if is_label else "text", cells.to_numpy(dtype=object).astype(str), missing, distinct)


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


# Numbers ------------------------------------------------------------------------------------------------------------


def _bare(cells: pd.Series) -> pd.Series:
    return cells.str.replace(_CURRENCY, "", regex=True).str.replace("\N{MINUS SIGN}", "-")


def _fits(cells: pd.Series, pattern: re.Pattern[str]) -> float:
    return float(cells.map(lambda cell: pattern.fullmatch(cell) is not None).mean()) if len(cells) else 0.0


def _sample(cells: pd.Series) -> pd.Series:
    return _bare(cells[cells != ""].head(2000))


def _commas(columns: list[pd.Series], delimiter: str) -> bool:
    """Whether cells that are numbers either way are meant with a decimal comma: as the other columns have it, else as
    a file does whose columns are divided by semicolons."""
    sure = {_style(_sample(column)) for column in columns} - {""}
    return sure == {"comma"} or (delimiter == ";" and "point" not in sure)


def _style(sample: pd.Series) -> str:
    """ "comma" or "point" where only one reading fits."""
    comma, point = _fits(sample, _COMMA), _fits(sample, _POINT)
    if max(comma, point) < ENOUGH or comma == point:
        return ""
    return "comma" if comma > point else "point"


def _numbers(cells: pd.Series, there: pd.Series, comma: bool) -> tuple[NDArray[np.float64], list[str]] | None:
    import pandas as pd

    sample = _sample(cells)
    style = _style(sample)
    if not style and max(_fits(sample, _COMMA), _fits(sample, _POINT)) < ENOUGH:
        return None
    with_comma = style == "comma" or (not style and comma)
    bare = _bare(cells).str.removesuffix("%")
    marked = bare.str.contains(r"[.,]", regex=True).any()
    pattern = _COMMA if with_comma else _POINT
    valid = bare.where(bare.map(lambda cell: pattern.fullmatch(cell) is not None))
    plain = valid.str.replace(".", "").str.replace(",", ".") if with_comma else valid.str.replace(",", "")
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if np.isfinite(numbers[there.index]).mean() < ENOUGH:
        return None
    said = []
    if marked and with_comma:
        said = [f"'{cells.name}': decimal comma"]
    elif marked and not style:
        said = [f"'{cells.name}': decimal point"]
    return numbers, said
