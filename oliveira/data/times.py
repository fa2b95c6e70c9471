"""Columns of times: which of the ways to write them a column has.

    2024-01-31   31/01/2024   31.01.24   01/31/2024 or 01/31/24 (where 31/01 does not fit)     with or without hours
    10:00   10:00:05.5   10h30   10:00 AM          jan/2024   5 de março de 2024   05-Mar-2024   Mar 5, 2024

Times are as the clock showed them: an offset from UTC is left out, and that is said.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oliveira.data.tables import ENOUGH

if TYPE_CHECKING:
    import pandas as pd

_OFFSET = r"(?<=\d)\s*(?:Z|UTC|(?<=:\d\d)[+-]\d\d:?\d\d)$"
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %Hh%M", " %H", " %I:%M %p", " %I:%M:%S %p", " %I %p")
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d/%m/%y", "%m/%d/%Y", "%m/%d/%y")
_MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%m-%Y")
_FORMATS = tuple(date + hours for date in _DATES for hours in _HOURS) + _MONTHS
_WORDS = {"%Y": "year", "%m": "month", "%d": "day", "%y": "year"}
_SAMPLE = 200

_NAMES = (
    *("jan", "feb fev", "mar", "apr abr", "may mai", "jun"),
    *("jul", "aug ago", "sep set", "oct out", "nov", "dec dez"),
)
_NUMBER = {name: number for number, names in enumerate(_NAMES, 1) for name in names.split()}
_ENDS = "uary|ruary|ch|il|e|y|ust|t|tember|ober|ember|eiro|ereiro|ço|co|o|ho|sto|embro|ubro"
_MONTH = rf"(?:{'|'.join(_NUMBER)})(?:{_ENDS})?\b\.?"
_NAME = rf"({'|'.join(_NUMBER)})(?:{_ENDS})?\b\.?"
_BETWEEN = r"[-/., ]*(?:de )?"
_DAY_NAME_YEAR = re.compile(rf"(\d{{1,2}}){_BETWEEN}{_NAME}{_BETWEEN}(\d{{4}}|\d\d)\b(.*)", re.IGNORECASE)
_NAME_DAY_YEAR = re.compile(rf"{_NAME} (\d{{1,2}}),? (\d{{4}})(.*)", re.IGNORECASE)
_NAME_YEAR = re.compile(rf"{_NAME}{_BETWEEN}(\d{{4}}|\d\d)", re.IGNORECASE)
_YEAR_NAME = re.compile(rf"(\d{{4}})[-/. ]{_NAME}", re.IGNORECASE)
_MERIDIEM = r"(?<=\d) ?([apAP])\.?([mM])\.?$"
_NAMED = rf"\b(?i:{_MONTH})"
_WITH_NAME = rf"{_NAMED}.*\d|\d.*{_NAMED}"
_FIRST = rf"\d[-/.:T]\d|{_WITH_NAME}"
_LOOKS = re.compile(rf"(?:\d|[\s:/.,+-]|{_MONTH}|\bde\b|T|Z|UTC|[ap]\.?m\.?)+", re.IGNORECASE)
_PARTS = re.compile(r"\d+")


def times_of(cells: pd.Series, there: pd.Series) -> tuple[NDArray[Any], list[str]] | None:
    """Times to the second, and what to say of them; None when they are none. `there`: the cells that are not empty."""
    import pandas as pd

    if not there.head(20).str.contains(_FIRST, regex=True).any():
        return None
    named = bool(there.head(20).str.contains(_NAMED, regex=True).any())
    sample = _plain(there.head(_SAMPLE), named)
    best, chosen = 0.0, ""
    for form in (*_FORMATS, *(("%m/%y",) if named else ())):
        share = float(pd.to_datetime(sample, format=form, errors="coerce").notna().mean())
        if share > best and (share == 1.0 or share >= ENOUGH):
            best, chosen = share, form
    if not chosen:
        return None
    plain = _plain(cells, named)
    parsed = pd.to_datetime(plain, format=chosen, errors="coerce")
    if chosen.startswith("%d/%m/") and parsed[there.index].notna().mean() < ENOUGH:
        chosen = chosen.replace("%d/%m", "%m/%d")
        parsed = pd.to_datetime(plain, format=chosen, errors="coerce")
    if parsed[there.index].notna().mean() < ENOUGH:
        return None
    said = [f"'{cells.name}': times read as {_order(chosen)}"] if chosen[:2] in ("%d", "%m") and not named else []
    if there.str.contains(_OFFSET, regex=True).any():
        said.append(f"'{cells.name}': offsets from UTC are left out, times are as the clock showed them")
    return parsed.to_numpy().astype("datetime64[s]"), said


def _plain(cells: pd.Series, named: bool) -> pd.Series:
    """One way to write what has several: blanks, am and pm, months as numbers; no offset."""
    plain = cells.str.replace(_OFFSET, "", regex=True)
    plain = plain.str.replace(r"(?<=\d)T(?=\d)", " ", regex=True)
    if named:
        plain = plain.map(_numbered)
    plain = plain.str.replace(r"(?<=\d), ?", " ", regex=True)
    return plain.str.replace(_MERIDIEM, r" \1\2", regex=True)


def looks_like_times(there: pd.Series) -> bool:
    """Whether cells that were not understood are made of what times are made of: a date's two marks or a month's name,
    and no group of digits that is none of a date (as a CPF's)."""
    head = there.head(_SAMPLE)
    dated = (head.str.count(r"(?<=\d)[-/.](?=\d)") >= 2) | head.str.contains(_WITH_NAME, regex=True)
    made = head.map(lambda cell: _LOOKS.fullmatch(cell) is not None and _is_dated(_PARTS.findall(cell)))
    return bool((dated & made).mean() >= ENOUGH)


def _is_dated(parts: list[str]) -> bool:
    return all(len(part) in (1, 2, 4) for part in parts[:3])


def _numbered(cell: str) -> str:
    """The month's name as its number."""
    if found := _DAY_NAME_YEAR.fullmatch(cell):
        day, name, year, rest = found.groups()
    elif found := _NAME_DAY_YEAR.fullmatch(cell):
        name, day, year, rest = found.groups()
    elif found := _NAME_YEAR.fullmatch(cell):
        return f"{_NUMBER[found[1].lower()]}/{found[2]}"
    elif found := _YEAR_NAME.fullmatch(cell):
        return f"{_NUMBER[found[2].lower()]}/{found[1]}"
    else:
        return cell
    return f"{day}/{_NUMBER[name.lower()]}/{year}{rest}"


def _order(form: str) -> str:
    return "/".join(_WORDS[part] for part in re.findall("%[Ymdy]", form))


def counted(values: NDArray[np.float64]) -> tuple[NDArray[Any], str] | None:
    """Numbers as times, and what they count: years, or seconds or milliseconds since 1970. None where neither."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = known.min(), known.max()
    if low >= 1 and high <= 9999:
        return np.array([f"{int(v):04d}" if np.isfinite(v) else "NaT" for v in values]).astype("datetime64[s]"), "years"
    for unit, limit, name in ((1, 1e11, "seconds since 1970, UTC"), (1000, 1e14, "milliseconds since 1970, UTC")):
        if limit / 1000 <= low and high < limit:
            seconds = np.floor(np.where(np.isfinite(values), values, 0) / unit).astype(np.int64)
            times = seconds.astype("datetime64[s]")
            return np.where(np.isfinite(values), times, np.datetime64("NaT")), name
    return None
