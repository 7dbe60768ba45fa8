"""Messages hold what was put in, for any reader of Arrow, and hostile metadata is refused in one way."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reader import sealed_batch

from tcptrace.trace import flatbuffer, frame
from tcptrace.trace.batch import MAX_ROWS, SCHEMA, to_batch
from tcptrace.trace.wire import EVENT, EXCHANGE

PLAIN = pa.schema([("a", pa.int64()), ("b", pa.binary(16)), ("c", pa.int64()), ("d", pa.binary(16))])
VALUES = (0, 1, -1, 1 << 40, (1 << 63) - 1, -(1 << 63))


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Columns that are full, null in part or as a whole; constant, random or in between."""
    rows = draw(st.sampled_from([0, 1, 7, 8, 9, 64, 65, 100, 512, 513, 3000]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    arrays = []
    for field in PLAIN:
        mask = random.random(rows) < draw(st.sampled_from([0, 0.5, 1]))
        kind = draw(st.sampled_from(["constant", "few", "random"]))
        pool = {"constant": 1, "few": 3, "random": max(1, rows)}[kind]
        if field.type == pa.int64():
            values = np.concatenate(
                [random.choice(VALUES, 1), random.integers(-(1 << 63), 1 << 63, pool - 1)]
            )
            arrays.append(pa.array(values[random.integers(0, pool, rows)], mask=mask))
        else:
            items = [random.bytes(16) for _ in range(pool)]
            chosen = [
                None if hidden else items[pick]
                for pick, hidden in zip(random.integers(0, pool, rows), mask, strict=True)
            ]
            arrays.append(pa.array(chosen, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=PLAIN)


def opened(schema: pa.Schema, *batches: tuple[pa.RecordBatch, dict[str, str]]) -> list[Any]:
    """What Arrow's own reader finds in a stream of our messages: (batch, metadata) each."""
    encoder = frame.Encoder(schema)
    messages = [encoder.schema(), *(encoder.batch(*batch) for batch in batches), frame.END_OF_STREAM]
    with pa.ipc.open_stream(pa.py_buffer(b"".join(messages))) as stream:
        return list(stream.iter_batches_with_custom_metadata())


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(batches(), st.dictionaries(TEXT.filter(lambda key: key != frame.CRC_KEY), TEXT, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_arrow_reader_finds_what_was_written(batch: pa.RecordBatch, metadata: dict[str, str]) -> None:
    ((found, texts),) = opened(PLAIN, (batch, metadata))
    found.validate(full=True)
    assert found.equals(batch)
    expected = {key.encode(): value.encode() for key, value in metadata.items()}
    texts = dict(texts)
    assert texts.pop(frame.CRC_KEY.encode()).startswith(b"crc32=")
    assert texts == expected
    message = bytes(frame.Encoder(PLAIN).batch(batch, metadata))
    found = frame.metadata_of(message)
    assert {key: found[key] for key in expected} == expected


@given(batches(), st.sets(st.integers(0, 3), min_size=1))
@settings(max_examples=50, deadline=None)
def test_a_part_of_the_columns_can_be_read_alone(batch: pa.RecordBatch, columns: set[int]) -> None:
    encoder, chosen = frame.Encoder(PLAIN), sorted(columns)
    found = frame.decode(bytes(encoder.schema()), bytes(encoder.batch(batch, {})), chosen)
    assert found.equals(batch.select(chosen))


def test_columns_of_other_record_types_cost_next_to_nothing() -> None:
    """All that is null shares one place, and a value repeated is a few bytes."""
    rows = np.zeros(MAX_ROWS, EXCHANGE)
    rows["kind"] = rows["summed"] = rows["writes"] = 1
    rows["release_ns"] = -1
    size = len(frame.Encoder(SCHEMA).batch(to_batch(rows), {}))
    metadata = 3 * 16 * len(SCHEMA)
    assert size < metadata + 8000


def test_a_part_of_a_longer_column_is_refused() -> None:
    batch = to_batch(np.zeros(20, EVENT))
    with pytest.raises(ValueError, match="part"):
        frame.Encoder(SCHEMA).batch(batch.slice(3, 9), {})


MESSAGE = sealed_batch(np.zeros(20, EVENT))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_metadata_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    message = bytearray(MESSAGE)
    length = 8 + struct.unpack_from("<I", message, 4)[0]
    for place in data.draw(st.lists(st.integers(8, length - 1), min_size=1, max_size=6)):
        message[place] = data.draw(st.integers(0, 255))
    try:
        found = frame.metadata_of(bytes(message))
    except frame.FrameError:
        return
    assert all(isinstance(text, bytes) for pair in found.items() for text in pair)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_no_flatbuffer(data: bytes) -> None:
    try:
        table = flatbuffer.Table.root(data)
        for number in range(6):
            table.integer(number, "<q")
            table.integer_pairs(number)
            table.text_pairs(number)
            if (inner := table.table(number)) is not None:
                inner.text(0)
    except frame.FrameError:
        pass
