"""Every format carries every value; text formats carry no character that acts."""

import csv
import io
import json
from collections.abc import Callable
from typing import BinaryIO

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tcptrace.output.escape import visible
from tcptrace.output.tables import CHUNK, Column, text_lines, write_csv, write_ndjson, write_parquet

HOSTILE = ["<script>", "\x1b[2J", "a\nb", 'q"uo,te', "\u202e", "", "日本", "back\\slash", "=1+1", None]
INTS = st.none() | st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=8)
ROWS = st.lists(st.tuples(INTS, st.none() | st.booleans(), TEXTS), max_size=20)


def table(rows: list[tuple[int | None, bool | None, str | None]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    schema = pa.schema([("n", pa.int64()), ("yes", pa.bool_()), ("name", pa.string())])
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
    )


def written(write: Callable[[pa.Table, BinaryIO], None], made: pa.Table) -> bytes:
    file = io.BytesIO()
    write(made, file)
    return file.getvalue()


def hostile() -> pa.Table:
    return table([(number, None, name) for number, name in enumerate(HOSTILE)])


@given(ROWS)
def test_ndjson_is_exact(rows: list[tuple[int | None, bool | None, str | None]]) -> None:
    lines = written(write_ndjson, table(rows)).decode("ascii").splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == rows
    assert all(line.isprintable() for line in lines)


@given(ROWS)
def test_csv_is_one_line_per_row_with_names_spelled_out(
    rows: list[tuple[int | None, bool | None, str | None]],
) -> None:
    text = written(write_csv, table(rows)).decode()
    assert len(text.splitlines()) == len(rows) + 1
    read = list(csv.reader(io.StringIO(text)))
    assert read[0] == ["n", "yes", "name"]
    for got, (number, yes, name) in zip(read[1:], rows, strict=True):
        assert got[0] == ("" if number is None else str(number))
        assert got[1] == ("" if yes is None else str(yes).lower())
        assert got[2] == ("" if name is None else visible(name))


def test_csv_tells_null_from_empty() -> None:
    text = written(write_csv, table([(1, None, ""), (2, None, None)])).decode()
    assert text.splitlines()[1:] == ['1,,""', "2,,"]


def test_parquet_comes_back_the_same() -> None:
    made = hostile()
    assert parquet.read_table(io.BytesIO(written(write_parquet, made))).equals(made)


@pytest.mark.parametrize("write", [write_csv, write_ndjson])
def test_no_control_character_in_text(write: Callable[[pa.Table, BinaryIO], None]) -> None:
    text = written(write, hostile()).decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\u202e" not in text


@pytest.mark.parametrize("rows", [0, 1, CHUNK, CHUNK + 1])
def test_chunks_do_not_show(rows: int) -> None:
    made = table([(number, True, "x") for number in range(rows)])
    lines = written(write_ndjson, made).decode().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(rows))


def test_text_columns_line_up_also_with_wide_characters() -> None:
    lines = list(text_lines([Column("NAME", ["日本", "nginx"]), Column("N", ["1", "22"], right=True)]))
    assert lines == ["NAME    N", "日本    1", "nginx  22"]


def test_text_without_rows_is_the_titles() -> None:
    assert list(text_lines([Column("NAME", []), Column("N", [])])) == ["NAME  N"]
