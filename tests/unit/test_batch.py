"""Records become columns without a value changing, and unknown is null."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from tcptrace.trace import wire
from tcptrace.trace.batch import MAX_ROWS, ROWS, SCHEMA, ColumnBuffer, column_names, nullable, to_batch

Records = npt.NDArray[np.void]
DTYPES = tuple(ROWS.values())


def fields(dtype: np.dtype[np.void]) -> list[str]:
    return [name for name in dtype.names or () if not name.startswith("pad")]


def expected(record: np.void, name: str) -> int | bytes | None:
    """What the column must hold, from the bytes of the one field alone."""
    base, offset = record.dtype.fields[name][:2]  # type: ignore[index]
    raw = record.tobytes()[offset : offset + base.itemsize]
    if name == "comm":
        return raw if int(record["pid"]) != -1 else None
    if name == "congestion_control":
        return raw if any(raw) else None
    if base.itemsize == 16:
        return raw
    value = int.from_bytes(raw, "little", signed=base.kind == "i")
    return None if base.kind == "i" and value == -1 else value


def assert_same(records: Records, batch: pa.RecordBatch) -> None:
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMA)
    assert batch.num_rows == len(records)
    columns = {name: batch.column(name).to_pylist() for name in SCHEMA.names}
    for row, record in enumerate(records):
        for name in SCHEMA.names:
            value = expected(record, name) if name in fields(records.dtype) else None
            if isinstance(value, int) and value >= 1 << 63:
                value -= 1 << 64  # beyond int64: still not null
            assert columns[name][row] == value, (row, name)


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Arbitrary bytes as records, with many fields at their edges."""
    dtype = draw(st.sampled_from(DTYPES))
    count = draw(st.integers(0, 12))
    data = np.frombuffer(
        draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype
    )
    data = data.copy()
    for name in draw(st.lists(st.sampled_from(fields(dtype)))):
        base = dtype[name]
        if base.kind in "iu":
            limits = np.iinfo(base)
            edge = draw(st.sampled_from([0, 1, limits.min, limits.max] + [-1] * (base.kind == "i")))
            data[name] = edge
        else:
            data[name] = b"" if base.kind == "S" else 0
    return data


@given(records())
@settings(max_examples=150, deadline=None)
def test_every_field_arrives_as_it_was(data: Records) -> None:
    assert_same(data, to_batch(data))


def test_realistic_rows_arrive_as_they_were() -> None:
    rows = synthetic.connections(300)
    assert_same(rows, to_batch(rows))
    assert_same(synthetic.events(300), to_batch(synthetic.events(300)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_one_is_null_in_signed_fields_only(dtype: np.dtype[np.void]) -> None:
    batch = to_batch(np.frombuffer(b"\xff" * dtype.itemsize, dtype))
    for name in fields(dtype):
        signed = dtype[name].kind == "i" or name == "comm"  # pid is -1
        assert (batch.column(name).null_count == 1) == signed, name
        assert (name in nullable(dtype)) == (signed or name == "congestion_control")


def test_comm_without_a_pid_is_null_whatever_it_holds() -> None:
    rows = np.zeros(2, wire.CONNECTION)
    rows["comm"] = b"left behind"
    rows["pid"] = -1, 0
    assert to_batch(rows).column("comm").to_pylist() == [None, b"left behind".ljust(16, b"\0")]


def test_zeroes_within_names_and_addresses_survive() -> None:
    rows = np.zeros(1, wire.CONNECTION)
    raw = rows.view(np.uint8)
    for name in ("comm", "congestion_control", "local_addr"):
        offset = wire.CONNECTION.fields[name][1]  # type: ignore[index]
        raw[offset : offset + 16] = list(b"\0a\0b\0\0\0c\0\0\0\0\0\0\0\0")
    batch = to_batch(rows)
    for name in ("comm", "congestion_control", "local_addr"):
        assert batch.column(name)[0].as_py() == b"\0a\0b\0\0\0c\0\0\0\0\0\0\0\0"


def test_the_schema_is_the_union_of_all_records() -> None:
    assert SCHEMA.names[0] == "kind"
    assert set(SCHEMA.names) == {name for dtype in DTYPES for name in fields(dtype)}
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    assert set(SCHEMA.types) == {pa.int64(), pa.binary(16)}
    assert column_names(wire.CONNECTION) == tuple(fields(wire.CONNECTION))
    for dtype in DTYPES:
        assert set(column_names(dtype)) == set(fields(dtype))


def test_rows_appended_in_pieces_are_those_appended_at_once() -> None:
    rows = synthetic.connections(1000)
    buffer = ColumnBuffer(wire.CONNECTION)
    for start in range(0, 1000, 77):
        buffer.append(rows[start : start + 77])
    assert buffer.batch().equals(to_batch(rows))
    buffer.clear()
    buffer.append(rows[500:])
    assert buffer.batch().equals(to_batch(rows[500:]))


def test_rows_that_lie_apart_in_memory_are_read_too() -> None:
    slots = np.zeros(50, np.dtype([("header", "<u8"), ("record", wire.EVENT)]))
    rows = synthetic.events(50)
    slots["record"] = rows
    assert to_batch(slots["record"]).equals(to_batch(rows))


def test_a_buffer_refuses_what_it_cannot_hold() -> None:
    buffer = ColumnBuffer(wire.EVENT, 10)
    with pytest.raises(ValueError, match="type"):
        buffer.append(np.zeros(1, wire.CONNECTION))
    with pytest.raises(ValueError, match="capacity"):
        buffer.append(np.zeros(11, wire.EVENT))
    assert buffer.rows == 0
    assert ColumnBuffer(wire.EVENT).capacity == MAX_ROWS == 65536
