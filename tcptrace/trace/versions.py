"""The wire versions that can be read: the columns that each has in its file, and its rows as those of today.

What a version added is written down here once. A column that it took away or gave another meaning would
need a conversion of its own in `upgraded`; there is none so far.
"""

from functools import cache

import pyarrow as pa

from tcptrace.trace import wire
from tcptrace.trace.batch import ROWS, SCHEMA, column_names

# Version -> what it added to record types that were there before, and the record types that began with it.
_NEW_COLUMNS = {
    2: {
        *("held_nagle_ns", "held_cork_ns", "held_cwnd_ns", "held_rwnd_ns", "held_pacing_ns"),
        *("held_sndbuf_ns", "unread_ns", "min_sample_ns", "exchanges", "pipelined"),
    },
}
_NEW_ROWS = {2: {"exchange"}}


@cache
def row_types(version: int) -> tuple[str, ...]:
    """The record types that a batch of this version can be of."""
    later = _later(_NEW_ROWS, version)
    return tuple(name for name in ROWS if name not in later)


@cache
def columns(version: int, rows: str) -> tuple[str, ...]:
    """The columns that rows of this type have in a file of this version, in the order of its schema."""
    later = _later(_NEW_COLUMNS, version)
    return tuple(name for name in column_names(ROWS[rows]) if name not in later)


@cache
def schema(version: int) -> pa.Schema:
    """The schema of a file of this version, 1 to wire.WIRE_VERSION; without metadata."""
    present = {name for rows in row_types(version) for name in columns(version, rows)}
    return pa.schema([field for field in SCHEMA if field.name in present])


@cache
def positions(version: int, rows: str) -> tuple[int, ...]:
    """Where those columns are in the schema of this version."""
    names = schema(version).names
    return tuple(names.index(name) for name in columns(version, rows))


def upgraded(batches: list[pa.RecordBatch], rows: str, version: int) -> pa.Table:
    """Batches of one record type of a file of this version, with the columns of today; new ones are null."""
    names, had = column_names(ROWS[rows]), columns(version, rows)
    if not batches:
        # of one empty chunk: pyarrow imports pandas to make an array of none, and for empty_table()
        fields = [SCHEMA.field(name) for name in names]
        return pa.Table.from_arrays([pa.nulls(0, field.type) for field in fields], schema=pa.schema(fields))
    table = pa.Table.from_batches(batches, pa.schema([SCHEMA.field(name) for name in had]))
    for number, name in enumerate(names):
        if name not in had:
            field = SCHEMA.field(name)
            table = table.add_column(number, field, pa.nulls(table.num_rows, field.type))
    return table


def _later(new: dict[int, set[str]], version: int) -> set[str]:
    """What versions after this one brought."""
    return {name for since in range(version + 1, wire.WIRE_VERSION + 1) for name in new.get(since, ())}
