"""Kernel records as columns: from structured numpy arrays to Arrow record batches.

All rows of a trace share one schema: the union, by name, of the fields of all records, every integer as
int64 and every 16-byte field as fixed_size_binary(16). A field that a record type does not have is null.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tcptrace.trace import wire

Records = npt.NDArray[np.void]

BYTES = 16  # addresses, comm and congestion_control
MAX_ROWS = 1 << 16

# Fields that mean something only beside another one: comm without a pid is whatever was there.
_NULL_WITH = {"comm": "pid"}
_NULL_WHEN_ZERO = {"congestion_control"}


@cache
def _exported(dtype: np.dtype[np.void]) -> dict[str, tuple[np.dtype[Any], bool]]:
    """Field name -> (its numpy dtype, whether it is 16 bytes rather than an integer), without the padding."""
    fields = {}
    for name in dtype.names or ():
        base = np.dtype(dtype[name])
        if name.startswith("pad"):
            continue
        if base.kind not in "iu" and base.itemsize != BYTES:
            raise TypeError(f"field {name} of {base} has no column")
        fields[name] = (base, base.kind not in "iu")
    return fields


@cache
def nullable(dtype: np.dtype[np.void]) -> frozenset[str]:
    """The columns of this record type that can be null: signed fields and two that say so otherwise."""
    signed = {name for name, (base, _) in _exported(dtype).items() if base.kind == "i"}
    return frozenset(signed | (_NULL_WITH.keys() | _NULL_WHEN_ZERO) & set(dtype.names or ()))


@cache
def column_names(dtype: np.dtype[np.void]) -> tuple[str, ...]:
    """The columns that rows of this record type have, in the order of the schema."""
    own = _exported(dtype)
    return tuple(field.name for field in SCHEMA if field.name in own)


ROWS: dict[str, np.dtype[np.void]] = {
    "connection": wire.CONNECTION,
    "event": wire.EVENT,
    "exchange": wire.EXCHANGE,
}
"""The record types that a batch can be of, by the name it has in the file."""


def _schema() -> pa.Schema:
    union = {name: is_bytes for dtype in ROWS.values() for name, (_, is_bytes) in _exported(dtype).items()}
    types = {name: pa.binary(BYTES) if is_bytes else pa.int64() for name, is_bytes in union.items()}
    return pa.schema(list(types.items()))


SCHEMA: pa.Schema = _schema()


def _differs(values: npt.NDArray[Any], other: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = values != other
    return found


class ColumnBuffer:
    """Rows of one record type, waiting as columns for their batch.

    The columns are laid out once and filled in place, each record being touched while it is still in the
    processor's cache; a batch borrows the memory, so it must be written before the next `append`.
    """

    def __init__(self, dtype: np.dtype[np.void], capacity: int = MAX_ROWS) -> None:
        self.rows = 0
        self.capacity = capacity
        self._dtype = dtype
        # The 16-byte fields as opaque bytes: numpy strips zeroes from S16 and makes a matrix of (u1, 16).
        fields = {name: dtype.fields[name] for name in _exported(dtype)} if dtype.fields else {}
        integers = [name for name, entry in fields.items() if entry[0].kind in "iu"]
        self._raw = np.dtype(
            {
                "names": list(fields),
                "formats": [entry[0] if name in integers else f"V{BYTES}" for name, entry in fields.items()],
                "offsets": [entry[1] for entry in fields.values()],
                "itemsize": dtype.itemsize,
            }
        )
        self._signed = {name for name in integers if fields[name][0].kind == "i"}
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(capacity, np.int64 if name in integers else f"V{BYTES}") for name in fields
        }

    def append(self, records: Records) -> None:
        """Takes records of the buffer's dtype, shape (n,); ValueError when they do not fit."""
        if records.dtype != self._dtype:
            raise ValueError(f"records of {records.dtype.itemsize} bytes are not of this buffer's type")
        start, end = self.rows, self.rows + len(records)
        if end > self.capacity:
            raise ValueError(f"{end} rows exceed the capacity of {self.capacity}")
        raw = records.view(self._raw)
        for name, column in self._columns.items():
            column[start:end] = raw[name]
        self.rows = end

    def clear(self) -> None:
        self.rows = 0

    def batch(self) -> pa.RecordBatch:
        """The waiting rows in the schema of the file, borrowing this buffer's memory."""
        absent: dict[pa.DataType, pa.Array] = {}
        arrays = []
        for field in SCHEMA:
            if field.name in self._columns:
                arrays.append(self._array(field.name))
            else:
                if field.type not in absent:
                    absent[field.type] = pa.nulls(self.rows, field.type)
                arrays.append(absent[field.type])
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    def _array(self, name: str) -> pa.Array:
        values = self._columns[name][: self.rows]
        valid = self._valid(name, values)
        bitmap = None
        if valid is not None and not valid.all():
            bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
        kind = pa.binary(BYTES) if values.dtype.kind == "V" else pa.int64()
        return pa.Array.from_buffers(kind, self.rows, [bitmap, pa.py_buffer(values.view(np.uint8))])

    def _valid(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        if name in self._signed:
            return _differs(values, -1)
        if name in _NULL_WITH:
            return _differs(self._columns[_NULL_WITH[name]][: self.rows], -1)
        if name in _NULL_WHEN_ZERO:
            words = values.view(np.uint64)
            return _differs(words[0::2] | words[1::2], 0)
        return None


def to_batch(records: Records) -> pa.RecordBatch:
    """Records of one type, shape (n,), as one batch in the schema of the file."""
    buffer = ColumnBuffer(records.dtype, max(1, len(records)))
    buffer.append(records)
    return buffer.batch()
