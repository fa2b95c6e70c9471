"""What the columns of a table are: times, numbers, categories or texts, from their cells.

    time        2024-01-31, 31/01/2024, …: see `times`
    number      1234.5   1.234,5   1,234.5: see `numbers`
    category    few values that come again (labels)
    text        all else

Where 19 cells of 20 are times or numbers the column is; the others count as missing, and that is said.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oliveira.data.numbers import Marks, Numbers, numbers_of, typed
from oliveira.data.tables import Table, read_table
from oliveira.data.times import counted, looks_like_times, times_of

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["time", "number", "category", "text"]
_TEXTS = (  # what a column of texts is called, the surest first
    *("text", "texto", "avaliacao", "avaliação", "comentario", "comentário", "review", "frase", "sentence"),
    *("content", "conteudo", "conteúdo", "body", "corpo"),
)
LABEL_LENGTH, LABEL_SHARE, MOST_LABELS = 60, 0.5, 1000  # characters, distinct values a row


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


def text_named(names: Sequence[str]) -> str:
    """The one that is called as texts are; "" where none is."""
    return next((name for word in _TEXTS for name in names if name.lower() == word), "")


def mean_length(values: Iterable[str]) -> float:
    """Of those that are there."""
    lengths = [len(value) for value in values if value]
    return sum(lengths) / max(1, len(lengths))


def listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def as_times(column: Column) -> Column | None:
    """A column of numbers read as years, or as seconds or milliseconds since 1970: for `--time ano`. None where they
    are neither."""
    if (times_read := counted(column.values)) is None:
        return None
    times, what = times_read
    said = () if what == "years" else (f"'{column.name}': read as {what}",)
    return replace(column, kind="time", values=times, said=said, doubts=())


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
    if marks is not None and (timed := times_of(cells, there)) is not None:
        times, said = timed
        wrong = int(np.isnat(times).sum()) - missing
        return Column(name, "time", times, missing + wrong, distinct, written, (*said, *_wrong(name, wrong, "times")))
    numbers: Numbers | None = typed(cells) if marks is None else numbers_of(name, cells, marks)
    if numbers is not None:
        wrong = int(np.isnan(numbers.values).sum()) - missing
        said = [*numbers.said, *_wrong(name, wrong, "numbers")]
        return Column(name, "number", numbers.values, missing + wrong, distinct, written, tuple(said), numbers.doubts)
    repeated = distinct <= max(2, len(there) * LABEL_SHARE)
    doubts: tuple[str, ...] = ()
    if looks_like_times(there):
        doubts = (
            f"'{name}' looks like times that are not understood: without them steps are counted. "
            "Write them as 2024-01-31 10:00",
        )
    is_label = repeated and distinct <= MOST_LABELS and float(there.str.len().mean()) <= LABEL_LENGTH
    return Column(name, "category" if is_label else "text", written.astype(str), missing, distinct, written, (), doubts)


def _wrong(name: str, count: int, what: str) -> list[str]:
    if not count:
        return []
    if what == "times":
        return [f"{count} values of '{name}' are no times and count as missing"]
    return [f"{count} values of '{name}' are no numbers and count as missing"]
