"""Arrow arrays made from buffers, and read through them, are what pyarrow itself would make."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.analysis import columns

INTS = st.lists(st.none() | st.integers(-(1 << 63), (1 << 63) - 1), max_size=40)


@given(INTS, st.integers(0, 9), st.integers(0, 9))
def test_numbers_come_back_from_any_slice(values: list[int | None], start: int, more: int) -> None:
    chunks = pa.chunked_array([pa.array(values, pa.int64())[start:], pa.array(values[:more], pa.int64())])
    want = values[start:] + values[:more]
    got = columns.nullable(pa.table({"n": chunks}), "n")
    assert got.known.tolist() == [value is not None for value in want]
    assert got.values.tolist() == [value or 0 for value in want]
    assert got.array().equals(pa.array(want, pa.int64()))
    got.array().validate(full=True)


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=5), max_size=20))
def test_texts(texts: list[str | None]) -> None:
    made = columns.text_array(texts)
    made.validate(full=True)
    assert made.equals(pa.array(texts, pa.string()))
    shouted = columns.by_distinct(made, str.upper)
    assert shouted.to_pylist() == [None if text is None else text.upper() for text in texts]


@given(st.lists(st.booleans(), max_size=40))
def test_masks(values: list[bool]) -> None:
    assert columns.bool_array(np.array(values, np.bool_)).equals(pa.array(values, pa.bool_()))


def test_numbers_without_a_name_are_null() -> None:
    column = columns.Nullable(np.array([1, 2, 99, 1]), np.array([True, True, True, False]))
    assert columns.names(column, {1: "one", 2: "two"}).to_pylist() == ["one", "two", None, None]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_equal_keys_get_equal_numbers(values: list[int]) -> None:
    numbers = columns.numbered(np.array(values, "<i8").view("V8"))
    assert len({*zip(values, numbers.tolist(), strict=True)}) == len({*values}) == len({*numbers.tolist()})


def test_rows_with() -> None:
    made = pa.table({"role": ["a", None, "b", "a"], "n": [1, 2, 3, 4]})
    assert columns.rows_with(made, "role", "a")["n"].to_pylist() == [1, 4]


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (bytes(10) + b"\xff\xff\x0a\x00\x00\xff", "10.0.0.255"),
        (bytes(16), "::"),
        (bytes(12) + b"\x01\x02\x03\x04", "::102:304"),
        (b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01", "2001:db8::1"),
    ],
)
def test_addresses(packed: bytes, text: str) -> None:
    assert columns.address_text(packed) == text
