"""A user's own table: CSV, TSV, Parquet or XLSX as text cells under named columns. What was guessed is said.

    encoding     a byte-order mark, UTF-16, UTF-8, else Windows-1252
    delimiter    , ; tab or |: the one that gives most lines the width of the first
    missing      empty, NA, N/A, NaN, null, none, ?, -

Nothing of a row is in any sentence: names of columns, line numbers and counts only.
"""

from __future__ import annotations

import csv
import errno
import functools
import importlib
import io
import os
import re
import stat
import zipfile
from collections import Counter
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oliveira.data.encodings import decoded
from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_file

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING = ("", "na", "n/a", "nan", "nat", "null", "none", "?", "-")
MAX_FILE = 256 << 20  # bytes, unpacked ones too
MAX_LINE = 10_000_000  # bytes
LONGEST_NAME = 80  # characters
_MOST = 0.8  # of the values above which one word is a name
ENOUGH = 0.95  # of the cells that are there: of one kind, the column is
_SAMPLE_LINES, _SAMPLE = 200, 1 << 18
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_NUMBER_OR_TIME = re.compile(r"[-+]?[\d.,/:T\s-]*\d[\d.,/:%-]*Z?")


@dataclass(frozen=True)
class Table:
    """Text cells, "" = missing; and in words how the file was read."""

    path: Path
    digest: str  # sha256 of the file
    cells: pd.DataFrame
    delimiter: str  # "" where the file has none
    said: tuple[str, ...]
    typed: frozenset[str] = frozenset()  # columns that the file holds as numbers

    @property
    def names(self) -> list[str]:
        return list(self.cells.columns)


def read_table(path: Path) -> Table:
    """Raises `UserError` with one sentence for a file that holds no table."""
    check_file(path)
    try:
        return _read(path, sha256_file(path))
    except OSError as error:
        raise unreadable(path, error) from None


def check_file(path: Path) -> None:
    """Raises `UserError` for what is not a file that a table can be read from, without opening it."""
    about = check_regular(path)
    if not about.st_size:
        raise UserError(f"{path} is empty. Give a table with a line of names and rows below it.")
    if about.st_size > MAX_FILE:
        raise UserError(f"{path} has {about.st_size >> 20} MiB, more than {MAX_FILE >> 20}. Give a part of it.")


def check_regular(path: Path) -> os.stat_result:
    """What the disk says of a file. Raises `UserError` for what is none."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{path} is a folder, not a table. Give one file of it.")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is not a file (a pipe, socket or device). Save what it gives as a file.")
    return about


def unreadable(path: Path, error: Exception) -> UserError:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return UserError(f"{path} does not exist. Give the path of a file or folder of yours.")
    if number == errno.ELOOP:
        return UserError(f"{path} is a symbolic link that leads to itself. Give the path of a file or folder of yours.")
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return UserError(f"{path} cannot be read ({reason}). Allow it (chmod u+r), or give another file.")


@functools.lru_cache(maxsize=2)
def _read(path: Path, digest: str) -> Table:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PAR1"):
        (cells, typed), delimiter, said = _parquet(path), "", ["Parquet"]
    elif start.startswith(b"PK") and path.suffix.lower() in (".xlsx", ".xlsm"):
        cells, typed, said = _sheet(path)
        delimiter = ""
    elif start.startswith(b"\xd0\xcf\x11\xe0"):
        raise UserError(f"{path} is a document of an older Office. Save it as .xlsx or .csv.")
    else:
        (cells, delimiter, said), typed = _text(path, path.read_bytes()), frozenset()
    cells, more = _without_nothing(cells, path)
    return Table(path, digest, cells, delimiter, (*said, *more), typed)


# Text ---------------------------------------------------------------------------------------------------------------


def table_in(path: Path, raw: bytes) -> Table:
    """The table of a file's bytes, which are divided by some character; `path` is how it is called."""
    cells, delimiter, said = _text(path, raw)
    cells, more = _without_nothing(cells, path)
    return Table(path, sha256_bytes(raw), cells, delimiter, (*said, *more))


def _text(path: Path, raw: bytes) -> tuple[pd.DataFrame, str, list[str]]:
    import pandas as pd

    text, encoding = _decoded(path, raw)
    delimiter = guess_delimiter(text)
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=delimiter or "\x00",  # a character that the text has not
            header=None,
            dtype=str,
            na_filter=False,
            skip_blank_lines=True,
        )
    except pd.errors.ParserError as error:
        if widths := _FIELDS.search(str(error)):
            wide, line, saw = widths.groups()
            raise UserError(
                f"{path}: line {line} has {saw} fields where the lines before have {wide}. "
                "Quote a text that holds the delimiter."
            ) from None
        raise UserError(f"{path} cannot be read as a table: a quotation mark is not closed. Mend it.") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty. Give a table with a line of names and rows below it.") from None
    cells = cells.fillna("")
    cells, named = _headed(cells)
    how = f"{encoding}, columns divided by {DELIMITERS[delimiter]}" if delimiter else f"{encoding}, one column"
    return cells, delimiter, [how, *named]


def _decoded(path: Path, raw: bytes) -> tuple[str, str]:
    """The text and what it was written in. `UserError` for what is no text."""
    if (read := decoded(raw)) is None:
        raise UserError(f"{path} is not a table (it holds NUL bytes). Give a .csv, .tsv, .xlsx or .parquet file.")
    text, encoding = read
    if len(_CONTROL.findall(text[:_SAMPLE])) > len(text[:_SAMPLE]) / 100:
        raise UserError(
            f"{path} is not a table (it holds control characters). Give a .csv, .tsv, .xlsx or .parquet file."
        )
    if not text.strip():
        raise UserError(f"{path} is empty. Give a table with a line of names and rows below it.")
    _refuse_long_lines(path, text)
    return text, encoding


def _refuse_long_lines(path: Path, text: str) -> None:
    begin, number = 0, 1
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        if end - begin > MAX_LINE and "\r" not in text[begin:end]:
            raise UserError(f"{path}: line {number} is longer than {MAX_LINE // 10**6} MB. Cut it into several lines.")
        begin, number = end + 1, number + 1


def guess_delimiter(text: str) -> str:
    """The character that gives most of the first lines as many fields as the first one has; "" = one column."""
    sample = text[:_SAMPLE]
    best, choice = (0.0, 0), ""
    for candidate in DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=None), delimiter=candidate) if row]
        except csv.Error:
            continue
        rows = (rows[:-1] if len(sample) < len(text) and len(rows) > 1 else rows)[:_SAMPLE_LINES]
        widths = Counter(map(len, rows))
        width = len(rows[0]) if rows else 1
        score = (widths[width] / max(1, len(rows)), width)
        if width > 1 and score > best and score[0] > 0.5:
            best, choice = score, candidate
    return choice


# Parquet and XLSX ---------------------------------------------------------------------------------------------------


def _needed(package: str, path: Path) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{path} needs {package} to be read. Install it: pip install 'oliveira[tables]', or save it as .csv."
        ) from None


def _parquet(path: Path) -> tuple[pd.DataFrame, frozenset[str]]:
    import pandas as pd

    _needed("pyarrow", path)
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(path)
        groups = (about.row_group(number) for number in range(about.num_row_groups))
        unpacked = max(about.num_rows * about.num_columns, sum(group.total_byte_size for group in groups))
        if unpacked > MAX_FILE:
            raise UserError(f"{path} unpacks to {unpacked >> 20} MiB, more than {MAX_FILE >> 20}. Give a part of it.")
        frame = pd.read_parquet(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole Parquet file ({type(error).__name__}). Give another one.") from None
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    names, _ = _distinct([str(name) for name in frame.columns])
    cells = frame.astype(object).where(frame.notna(), "")
    return cells.map(_cell).set_axis(names, axis=1), _typed(cells, names)


def _sheet(path: Path) -> tuple[pd.DataFrame, frozenset[str], list[str]]:
    import pandas as pd

    _needed("openpyxl", path)
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(part.file_size for part in packed.infolist())
        if unpacked > MAX_FILE:
            raise UserError(f"{path} unpacks to {unpacked >> 20} MiB, more than {MAX_FILE >> 20}. Give a part of it.")
        with pd.ExcelFile(path, engine="openpyxl") as book:
            frame = pd.read_excel(book, header=None, dtype=object, na_filter=False)
            first, others = book.sheet_names[0], len(book.sheet_names) - 1
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole .xlsx file ({type(error).__name__}). Save it again.") from None
    if frame.empty:
        raise UserError(f"{path} is empty. Give a table with a line of names and rows below it.")
    cells, named = _headed(frame.map(_cell))
    left = [f"only the first sheet, {first}, is read; {others} more are not"] if others else []
    return cells, _typed(frame.iloc[1:], list(cells.columns)), ["XLSX", *left, *named]


def _typed(cells: pd.DataFrame, names: list[str]) -> frozenset[str]:
    """Names of the columns whose values are numbers, not texts that look so; `cells` as the file types them."""
    typed = set()
    for name, (_, column) in zip(names, cells.items(), strict=True):
        there = [v for v in column if v is not None and not (isinstance(v, str) and v.strip().lower() in MISSING)]
        numbers = sum(isinstance(value, Number) and not isinstance(value, bool) for value in there)
        if there and numbers >= ENOUGH * len(there):
            typed.add(name)
    return frozenset(typed)


def _cell(value: Any) -> str:
    """As a CSV of a program would have it: a decimal point, an ISO time."""
    if value is None:
        return ""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


# Columns and rows ---------------------------------------------------------------------------------------------------


def _headed(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The first row as names. Where it looks like the rows below it (numbers and times alone, sentences alone, a long
    text, a value that comes again in its column while no word stands above sentences) the columns are numbered: no
    row's text ever becomes a name."""
    first = [str(cell).strip() for cell in cells.iloc[0]]
    rows = cells.iloc[1:]
    again = (rows == cells.iloc[0]).all(axis=1)
    rows, said = rows[~again], [f"{int(again.sum())} lines that repeat the names are left out"] if again.any() else []
    numbers = all(cell.lower() in MISSING or _NUMBER_OR_TIME.fullmatch(cell) for cell in first) and any(first)
    common = any(
        cell and (rows[place] == given).any() for (place, given), cell in zip(cells.iloc[0].items(), first, strict=True)
    )
    sentences = len(first) > 1 and all(cell.endswith((".", "!", "?", "…")) for cell in first)
    common = common and not _above_sentences(first, rows)
    if numbers or common or sentences or max(map(len, first)) > LONGEST_NAME:
        names = [f"column {number}" for number in range(1, len(first) + 1)]
        return cells.set_axis(names, axis=1), [f"the first line holds no names: {len(names)} columns are numbered"]
    names, changed = _distinct(first)
    rows = rows.reset_index(drop=True).set_axis(names, axis=1)
    return rows, said + ([f"{changed} columns without a name of their own are numbered"] if changed else [])


def _above_sentences(first: list[str], rows: pd.DataFrame) -> bool:
    """One word on top of a column most of whose values have several: `text`, though `label` is also a class."""
    for place, cell in enumerate(first):
        column = rows.iloc[:, place].str.strip()
        there = column[column != ""]
        if re.fullmatch(r"[^\W\d]\w*", cell) and len(there) and (there.str.count(r"\S+") >= 3).mean() >= _MOST:
            return True
    return False


def _distinct(given: list[str]) -> tuple[list[str], int]:
    """Every name once: empty ones and repeated ones get their place."""
    names: list[str] = []
    for place, name in enumerate(given, 1):
        own = name if name and name not in names else f"{name or 'column'} {place}"
        names.append(own if own not in names else f"{own} {place}")
    return names, sum(name != kept for name, kept in zip(given, names, strict=True))


def _without_nothing(cells: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Blanks trimmed, missing values "", rows and nameless columns without any value left out."""
    cells = cells.apply(lambda column: column.str.strip())
    cells = cells.mask(cells.apply(lambda column: column.str.lower().isin(MISSING)), "")
    nameless = [name for name in cells.columns if re.fullmatch(r"column \d+", name) and (cells[name] == "").all()]
    cells = cells.drop(columns=nameless)
    rows = len(cells)
    cells = cells[(cells != "").any(axis=1)].reset_index(drop=True)
    if not len(cells):
        raise UserError(f"{path} has names of columns and no row below them. Give a table with rows.")
    said = [f"{rows - len(cells)} rows without any value are left out"] if len(cells) < rows else []
    return cells, said
