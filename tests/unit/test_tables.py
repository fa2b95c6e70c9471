"""A user's own table: however it was written the same cells come out, and what is no table is one sentence."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from oliveira.data import tables
from oliveira.data.columns import Column, as_times, columns_of, labels_of
from oliveira.data.tables import DELIMITERS, read_table
from oliveira.errors import UserError

SECRET = "zqxsegredo"  # of a row; must never be said


def put(folder: Path, data: bytes | str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def typed(folder: Path, data: bytes | str) -> dict[str, Column]:
    return columns_of(read_table(put(folder, data)))


# How it is written --------------------------------------------------------------------------------------------------

ROWS = [["cidade", "preço"], ["São Paulo", "1"], ["uma, outra; ou\tqual|quer", "2"], ['diz "sim"\nou não', "3"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_encodings_and_delimiters_give_the_same_cells(encoding: str, delimiter: str, tmp_path: Path) -> None:
    lines = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS]
    text = "\r\n".join(lines).replace("diz", "diz " * 3)
    if encoding == "utf-16-le":  # without a mark a file of a few words tells nothing
        text += f'\r\n"{"a" * 2000}"{delimiter}"4"'
    table = read_table(put(tmp_path, text.encode(encoding)))
    assert table.delimiter == delimiter and table.names == ["cidade", "preço"]
    assert table.cells.iloc[:2].to_numpy().tolist() == ROWS[1:3]
    assert table.cells.iloc[2, 0] == 'diz diz diz  "sim"\nou não'
    assert DELIMITERS[delimiter] in table.said[0]
    assert ("Windows-1252" in table.said[0]) == (encoding in ("cp1252", "latin-1"))
    assert ("UTF-16" in table.said[0]) == encoding.startswith("utf-16")


def test_a_damaged_letter_spoils_no_other(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "preço,ação\nmaçã,pão\n".encode() + b"a\xe7,b\n"))
    assert table.names == ["preço", "ação"] and table.cells.iloc[0].tolist() == ["maçã", "pão"]
    assert "damaged" in table.said[0]


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "null", "?", "-", "  ", "N/A"])
def test_missing_values(missing: str, tmp_path: Path) -> None:
    columns = typed(tmp_path, f"dia,kwh\n2024-01-01,1\n2024-01-02,{missing}\n2024-01-03,3\n")
    assert columns["kwh"].kind == "number" and columns["kwh"].missing == 1
    assert np.isnan(columns["kwh"].values[1]) and columns["kwh"].values[2] == 3


def test_names_are_given_where_there_are_none(tmp_path: Path) -> None:
    assert read_table(put(tmp_path, "1,2\n3,4\n")).names == ["column 1", "column 2"]
    assert read_table(put(tmp_path, "a,,a\n3,4,5\n")).names == ["a", "column 2", "a 3"]
    assert read_table(put(tmp_path, "a,b,\n3,4,\n")).names == ["a", "b"], "a comma at the end is no column"
    assert read_table(put(tmp_path, "consumo, em kWh\n1\n2\n3\n")).names == ["consumo, em kWh"]
    twice = read_table(put(tmp_path, "a,b\n1,x\na,b\n2,y\n"))
    assert len(twice.cells) == 2 and "1 lines that repeat the names" in twice.said[1]


def test_no_text_of_a_row_becomes_a_name(tmp_path: Path) -> None:
    """A file of texts and labels whose first line is an example already."""
    table = read_table(put(tmp_path, f"{SECRET} bom,pos\nruim,neg\nótimo,pos\n"))
    assert table.names == ["column 1", "column 2"] and len(table.cells) == 3
    long = read_table(put(tmp_path, f"{SECRET * 10},b\nruim,neg\n"))
    assert long.names == ["column 1", "column 2"]


def test_parquet_and_xlsx_are_read_as_text(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"dia": pd.date_range("2024-01-01", periods=3), "kwh": [1.5, None, 1234.0], "x": ["a", "b", "a"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    for name in ("t.parquet", "t.xlsx"):
        columns = columns_of(read_table(tmp_path / name))
        assert [column.kind for column in columns.values()] == ["time", "number", "category"]
        assert columns["kwh"].values[[0, 2]].tolist() == [1.5, 1234.0] and columns["kwh"].missing == 1
        assert str(columns["dia"].values[2]) == "2024-01-03T00:00:00"


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("t.xlsx", "openpyxl")])
def test_an_absent_library_is_one_sentence(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    frame.to_parquet(tmp_path / name) if package == "pyarrow" else frame.to_excel(tmp_path / name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} .*oliveira\[tables\]"):
        read_table(tmp_path / name)


# What the columns are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2,25"], [1.5, 2.25]),
        (["1.234,5", "12"], [1234.5, 12]),
        (["1.234.567", "1,5"], [1234567, 1.5]),
        (["1,234.5", "2"], [1234.5, 2]),
        (["1.5", "-2e3"], [1.5, -2000]),
        (["R$ 1.000,50", "R$ 2,00"], [1000.5, 2]),
        (["50%", "7%"], [50, 7]),
        (["(1.234,50)", "2,00-"], [-1234.5, -2]),
    ],
)
def test_numbers(cells: list[str], values: list[float], tmp_path: Path) -> None:
    columns = typed(tmp_path, "nome;v\n" + "".join(f"x{place};{cell}\n" for place, cell in enumerate(cells)))
    assert columns["v"].kind == "number" and columns["v"].values.tolist() == values


MARKS: dict[str, tuple[str, dict[str, list[str]], float, str]] = {
    # what is open: the first cell of `v`. Delimiter, columns, what it is, what is said
    "a zero before the point": (";", {"w": ["0.418", "1.234"], "v": ["237.010", "1.000"]}, 237.01, "decimal point"),
    "a zero in the same column": (";", {"v": ["1.234", "-0.418"]}, 1.234, ""),
    "a zero before a comma": (",", {"v": ["1,234", "0,418"]}, 1.234, "decimal comma"),
    "groups that come again": (",", {"w": ["1.234.567", "2.000"], "v": ["1.234", "2.000"]}, 1234, "decimal comma"),
    "English groups that come again": (";", {"w": ["1,234,567", "2"], "v": ["1,234", "2,000"]}, 1234, "decimal point"),
    "a comma elsewhere": (";", {"w": ["1,5", "2,75"], "v": ["1.234", "2.345"]}, 1234, "decimal comma"),
    "a comma elsewhere, tabs": (
        "\t",
        {"w": ["1,5", "2,7"], "v": ["1.234", "2.345"]},
        1234,
        "decimal comma",
    ),
    "a point elsewhere": ("\t", {"w": ["1.5", "2.7"], "v": ["1,234", "2,345"]}, 1234, "decimal point"),
    "both marks": (";", {"w": ["1,234.50", "2.5"], "v": ["1,234", "2,345"]}, 1234, "decimal point"),
    "other lengths": (";", {"v": ["1.234", "12.5"]}, 1.234, ""),
    "four digits before the mark": (";", {"v": ["1.234", "1234.567"]}, 1.234, ""),
    "four digits without a mark": (";", {"v": ["1.234", "2345"]}, 1.234, ""),
    "few digits without a mark": (";", {"v": ["1.234", "850"]}, 1234, "decimal comma"),
    "few digits in an English file": (",", {"v": ["1.234", "850"]}, 1.234, "decimal point"),
    "an amount in reais": (",", {"v": ["R$ 1.234", "R$ 2.345"]}, 1234, "decimal comma"),
    "nothing": (";", {"v": ["1.234", "2.345"]}, 1.234, "points divide thousands; they are read as decimal"),
    "nothing, a file of commas": (",", {"v": ["1.234", "2.345"]}, 1.234, "decimal point"),
    "nothing, tabs": ("\t", {"v": ["1.234", "2.345"]}, 1.234, "points divide thousands; they are read as decimal"),
    "nothing, commas": (";", {"v": ["1,234", "2,345"]}, 1.234, "commas divide thousands; they are read as decimal"),
    "nothing, English commas": ("\t", {"v": ["1,234", "2,345"]}, 1234, "they are read as dividing thousands"),
    "columns that differ": (
        ";",
        {"w": ["1,5", "2"], "u": ["1.5", "2"], "v": ["1.234", "2.345"]},
        1.234,
        "nothing tells",
    ),
}


@pytest.mark.parametrize("case", MARKS)
def test_what_a_point_or_comma_means(case: str, tmp_path: Path) -> None:
    delimiter, cells, first, said = MARKS[case]
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in zip(*cells.values(), ["x", "y"], strict=True)]
    column = typed(tmp_path, "\n".join([delimiter.join([*cells, "nome"]), *lines]))["v"]
    assert column.kind == "number" and column.values[0] == first
    told = " ".join((*column.said, *column.doubts))
    assert said in told and bool(told) == bool(said) and bool(column.doubts) == ("nothing" in said or "read" in said)


def test_the_mark_is_decided_by_all_rows(tmp_path: Path) -> None:
    rows = "".join(f"{100 + n % 800}.{n % 1000:03d};x\n" for n in range(2500))
    column = typed(tmp_path, f"v;w\n{rows}0.5;x\n")["v"]
    assert column.values[0] == 100 and column.values[-1] == 0.5 and not column.doubts


@pytest.mark.parametrize("name", ["t.parquet", "t.xlsx"])
def test_numbers_that_are_numbers_are_not_guessed_again(name: str, tmp_path: Path) -> None:
    """Three decimals beside texts with a decimal comma."""
    values = [1.234, 237.011, 12.345] * 10
    frame = pd.DataFrame({"kwh": values, "obs": ["1,5", "2,5", "3,5"] * 10, "big": [1e22, 1e308, 5e-324] * 10})
    frame["kwh mixed"] = [*values[:-1], None] if name == "t.parquet" else [*values[:-1], "falta"]
    frame.to_parquet(tmp_path / name) if name == "t.parquet" else frame.to_excel(tmp_path / name, index=False)
    columns = columns_of(read_table(tmp_path / name))
    assert columns["kwh"].values.tolist() == values and not columns["kwh"].said + columns["kwh"].doubts
    assert columns["kwh mixed"].values[:-1].tolist() == values[:-1] and columns["kwh mixed"].missing == 1
    assert columns["obs"].values.tolist() == [1.5, 2.5, 3.5] * 10, "a text is a text"
    assert columns["big"].values.tolist() == frame["big"].tolist()


def test_labels_are_as_they_are_written(tmp_path: Path) -> None:
    columns = typed(tmp_path, "codigo,v\n" + "".join(f"{code},x\n" for code in ("1000001", "1000002", "007", "1.50")))
    assert columns["codigo"].kind == "number"
    assert labels_of(columns["codigo"]).tolist() == ["1000001", "1000002", "007", "1.50"]


@pytest.mark.parametrize(
    ("cells", "second", "said"),
    [
        (["2024-01-31", "2024-02-01"], datetime(2024, 2, 1), ""),
        (["2024-01-31T05:00", "2024-02-01T06:30"], datetime(2024, 2, 1, 6, 30), ""),
        (["2024-01-31 05:00:01-03:00", "2024-02-01 06:30:02-02:00"], datetime(2024, 2, 1, 6, 30, 2), "offsets"),
        (["2024-01-31T05:00:00Z", "2024-02-01T06:30:00Z"], datetime(2024, 2, 1, 6, 30), "offsets"),
        (["31/01/2024", "01/02/2024"], datetime(2024, 2, 1), "day/month/year"),
        (["01/02/2024 10:00", "02/02/2024 11:00"], datetime(2024, 2, 2, 11), "day/month/year"),
        (["01/31/2024", "02/01/2024"], datetime(2024, 2, 1), "month/day/year"),
        (["31.01.2024", "01.02.2024"], datetime(2024, 2, 1), "day/month/year"),
        (["01/2024", "02/2024"], datetime(2024, 2, 1), "month/year"),
        (["2024-01", "2024-02"], datetime(2024, 2, 1), ""),
        (["01/31/24", "02/01/24"], datetime(2024, 2, 1), "month/day/year"),
        (["01/31/24 10:00 AM", "02/01/24 01:30 PM"], datetime(2024, 2, 1, 13, 30), "month/day/year"),
        (["2024-01-31 12:05:00am", "2024-02-01 12:05:09 p.m."], datetime(2024, 2, 1, 12, 5, 9), ""),
        (["jan/2024", "fev/2024"], datetime(2024, 2, 1), ""),
        (["dez/23", "FEV/24"], datetime(2024, 2, 1), ""),
        (["31 de janeiro de 2024", "1 de março de 2024"], datetime(2024, 3, 1), ""),
        (["31-Jan-2024 10:00", "01-May-2024 11:00"], datetime(2024, 5, 1, 11), ""),
        (["January 31, 2024", "Sept. 1, 2024"], datetime(2024, 9, 1), ""),
        (["2024-out", "2024-nov"], datetime(2024, 11, 1), ""),
    ],
)
def test_times(cells: list[str], second: datetime, said: str, tmp_path: Path) -> None:
    column = typed(tmp_path, "t;v\n" + "".join(f"{cell};1,{place}\n" for place, cell in enumerate(cells)))["t"]
    assert column.kind == "time" and column.values[1].astype(datetime) == second
    assert bool(column.said) == bool(said) and said in " ".join(column.said)


@pytest.mark.parametrize(
    ("cells", "looks"),
    [
        (["2024/31/01", "2024/13/02"], True),
        (["quarta 1-2-24", "5-6-24"], False),
        (["1 jan 2024 - 3", "2 jan 2024 - 4"], True),
        (["24:61", "25:00"], False),
        (["123.456.789-09", "987.654.321-00"], False),  # a CPF
        (["10.0.0.256", "192.168.0.1"], False),
        (["5-4-3 mar", "bom"], False),
    ],
)
def test_what_looks_like_times_and_is_not_understood_is_said(cells: list[str], looks: bool, tmp_path: Path) -> None:
    column = typed(tmp_path, "t;v\n" + "".join(f"{cell};1,{place}\n" for place, cell in enumerate(cells)))["t"]
    assert column.kind in ("category", "text") and ("not understood" in " ".join(column.doubts)) == looks


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines(end: str, tmp_path: Path) -> None:
    table = read_table(put(tmp_path, end.join(["t,v", '2024-01-01,"1,5"', '2024-01-02,"2,5"', ""])))
    assert table.names == ["t", "v"] and table.cells["v"].tolist() == ["1,5", "2,5"]


@pytest.mark.parametrize(
    ("numbers", "second", "said"),
    [
        (["2023", "2024"], datetime(2024, 1, 1), ""),
        (["1735689600", "1735693200"], datetime(2025, 1, 1, 1), "read as seconds since 1970"),
        (["1735689600000", "1735693200999"], datetime(2025, 1, 1, 1), "read as milliseconds since 1970"),
        (["20240101", "20240102"], None, ""),
        (["-3", "2024"], None, ""),
    ],
)
def test_numbers_as_times_when_asked(numbers: list[str], second: datetime | None, said: str, tmp_path: Path) -> None:
    columns = typed(tmp_path, "t,v\n" + "".join(f"{cell},{place}\n" for place, cell in enumerate([*numbers, ""])))
    assert columns["t"].kind == "number", "nobody asked"
    found = as_times(columns["t"])
    assert (None if found is None else found.values[1].astype(datetime)) == second
    assert found is None or (said in " ".join(found.said) and np.isnat(found.values[2]))


def test_the_order_of_day_and_month_is_decided_by_all_rows(tmp_path: Path) -> None:
    """The first two hundred fit both readings."""
    days = [datetime(2024, 1, 1) + timedelta(days=31 * n) for n in range(6)]
    early = [f"0{1 + n % 9}/0{1 + n % 7}/2024" for n in range(250)]
    late = [f"{day:%m/%d/%Y}" for day in days] + ["12/31/2024"] * 20
    column = typed(tmp_path, "t,v\n" + "".join(f"{cell},1\n" for cell in early + late))["t"]
    assert column.kind == "time" and "month/day/year" in column.said[0]


def test_a_few_bad_cells_are_missing_and_many_make_a_text(tmp_path: Path) -> None:
    column = typed(tmp_path, "v;w\n" + "1,5;a\n" * 39 + "abc;b\n")["v"]
    assert column.kind == "number" and column.missing == 1 and "1 values of 'v' are no numbers" in " ".join(column.said)
    assert typed(tmp_path, "v;w\n" + "1,5;a\n" * 5 + "abc;b\n" * 5)["v"].kind == "category"


@given(
    values=st.lists(st.decimals(-(10**7), 10**7, places=2), min_size=2, max_size=20),
    thousands=st.booleans(),
    delimiter=st.sampled_from(";\t|"),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_a_decimal_comma_there_and_back(values: list[Any], thousands: bool, delimiter: str, tmp_path: Path) -> None:
    form = "{:,.2f}" if thousands else "{:.2f}"
    swap = str.maketrans(",.", ".,")
    rows = "".join(f"t{place}{delimiter}{form.format(value).translate(swap)}\n" for place, value in enumerate(values))
    column = typed(tmp_path, f"nome{delimiter}valor\n{rows}")["valor"]
    assert column.kind == "number" and column.values.tolist() == [float(value) for value in values]


# What is no table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\x7fELF\x00\x01\x02", "NUL bytes"),
        (bytes(range(1, 32)) * 9, "control characters"),
        ("a,b\n", "no row below them"),
        ("a,b\n,\nNA,-\n", "no row below them"),
        (f"a,b\n1,2\n{SECRET},2,3\n", "line 3 has 3 fields where the lines before have 2"),
        (f'a,b\n1,"{SECRET}\n', "quotation mark is not closed"),
        ("a,b\n" + SECRET * 1_000_001 + ",1\n", "line 2 is longer than 10 MB"),
        (b"PAR1garbage", "not a whole Parquet file"),
        (b"\xd0\xcf\x11\xe0garbage", "older Office"),
    ],
)
def test_a_bad_file_is_one_sentence_without_its_rows(data: bytes | str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        read_table(put(tmp_path, data))
    assert SECRET not in str(refused.value)


def test_a_sheet_that_is_none_or_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"not a whole \.xlsx file"):
        read_table(put(tmp_path, b"PK\x03\x04garbage", "a.xlsx"))
    frame = pd.DataFrame({"a": range(500)})
    frame.to_excel(tmp_path / "b.xlsx")
    frame.to_parquet(tmp_path / "b.parquet")
    monkeypatch.setattr(tables, "MAX_FILE", (tmp_path / "b.xlsx").stat().st_size + 1)
    with pytest.raises(UserError, match="unpacks to"):
        read_table(tmp_path / "b.xlsx")
    monkeypatch.setattr(tables, "MAX_FILE", 1)
    with pytest.raises(UserError, match="more than 0"):
        read_table(tmp_path / "b.parquet")


def test_what_a_parquet_file_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, and the bytes of its row groups: either may be too much alone."""
    pd.DataFrame({"a": ["x" * 100_000, "y"]}).to_parquet(tmp_path / "long.parquet")
    pd.DataFrame({name: [1] * 50_000 for name in "abcd"}).to_parquet(tmp_path / "many.parquet")
    about = parquet.read_metadata(tmp_path / "long.parquet")
    held = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    for name, most in (("long", held), ("many", 200_000)):
        assert 5 * (tmp_path / f"{name}.parquet").stat().st_size < most
        monkeypatch.setattr(tables, "MAX_FILE", most - 1)
        with pytest.raises(UserError, match="unpacks to"):
            read_table(tmp_path / f"{name}.parquet")
        monkeypatch.setattr(tables, "MAX_FILE", most)
        assert len(read_table(tmp_path / f"{name}.parquet").cells)


def test_what_is_no_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (
        ("loop", "leads to itself"),
        ("pipe", "a pipe"),
        ("none.csv", "does not exist"),
        (".", "a folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_table(tmp_path / name)


@given(data=st.binary(max_size=300) | st.text(alphabet='a1,;\t|"\n\r. -é', max_size=200).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_whatever_the_bytes_it_is_a_table_or_a_sentence(data: bytes, tmp_path: Path) -> None:
    try:
        table = read_table(put(tmp_path, data))
    except UserError:
        return
    columns = columns_of(table)
    assert list(columns) == table.names and all(len(c.values) == len(table.cells) for c in columns.values())


def test_a_table_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a,b\n1,2\n")
    first = read_table(path)
    assert read_table(path) is first
    put(tmp_path, "a,b\n1,3\n")
    assert read_table(path).digest != first.digest and read_table(path).cells.iloc[0, 1] == "3"


@pytest.mark.parametrize("name", ["text", "mensagem"])
def test_a_word_above_sentences_is_a_name_also_where_a_class_is_called_like_its_column(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "spam.csv"
    rows = [f'"ganhe {number} prêmios hoje, clique aqui",{"spam" if number % 2 else "ham"}' for number in range(40)]
    path.write_text("\n".join([f"{name},spam", *rows]), encoding="utf-8")
    assert list(read_table(path).cells.columns) == [name, "spam"]
    path.write_text("\n".join(rows), encoding="utf-8")  # without a line of names
    assert list(read_table(path).cells.columns) == ["column 1", "column 2"]
