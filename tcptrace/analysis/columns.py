"""Between Arrow columns with nulls and numpy arrays with masks, and from raw bytes to text.

Arrays are made from buffers and read through them: pa.array(), pa.scalar() and to_numpy() import pandas where
it is installed, which takes half of the time that a summary of 100,000 rows needs.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.units import UNKNOWN

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MAPPED = bytes(10) + b"\xff\xff"


@dataclass
class Nullable:
    """An int64 column that can be edited: values[i] counts only where known[i]."""

    values: Ints
    known: Mask

    def forget(self, rows: Mask) -> None:
        self.known &= ~rows

    def array(self, type_: pa.DataType | None = None) -> pa.Array:
        made = int_array(self.values, self.known)
        return made if type_ is None else made.cast(type_)


def nullable(table: pa.Table, name: str) -> Nullable:
    """A copy of an int64 column; 0 where it is null."""
    array = _whole(table[name])
    known = _validity(array)
    return Nullable(np.where(known, _numbers(array, np.int64), 0), known)


def at(column: Nullable, rows: Ints) -> Nullable:
    """The column's values at these rows; null where the row is negative, which stands for none."""
    if not len(column.values):
        return Nullable(np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_))
    known = column.known[rows] & (rows >= 0)
    return Nullable(np.where(known, column.values[rows], 0), known)


def positions(ids: Ints, wanted: Ints) -> Ints:
    """Where each wanted value stands in `ids`, which are distinct; -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    found = order[place]
    present: Mask = ids[found] == wanted
    return np.where(present, found, -1)


def plain(table: pa.Table, name: str) -> Ints:
    """A column without nulls; a null, which no valid trace has there, reads as 0."""
    return nullable(table, name).values


def exact_sum(values: Ints) -> int:
    """The sum of values of 0 to 2^63 - 1, which can be beyond that."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def truths(table: pa.Table, name: str) -> Mask:
    """Where a bool column is true; nowhere that it is null."""
    column = nullable(pa.table({name: table[name].cast(pa.int64())}), name)
    true: Mask = column.known & (column.values == 1)
    return true


def int_array(values: npt.NDArray[np.integer[Any]], known: Mask | None = None) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(values, np.int64).view(np.uint8))
    return pa.Array.from_buffers(pa.int64(), len(values), [None if known is None else _bits(known), data])


def bool_array(values: Mask) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def text_array(texts: Sequence[str | None]) -> pa.Array:
    encoded = [b"" if text is None else text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    known = np.array([text is not None for text in texts], np.bool_)
    buffers = [_bits(known), pa.py_buffer(ends.view(np.uint8)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def numbered(keys: npt.NDArray[np.void]) -> Ints:
    """Opaque values as numbers, equal ones as the same; by hashing, since numpy sorts such values slowly."""
    data = pa.py_buffer(np.ascontiguousarray(keys).view(np.uint8))
    column = pa.Array.from_buffers(pa.binary(keys.dtype.itemsize), len(keys), [None, data])
    return _numbers(column.dictionary_encode().indices, np.int32).astype(np.int64)


def by_distinct(column: pa.Array | pa.ChunkedArray, convert: Callable[[Any], str | None]) -> pa.Array:
    """A string column, converting each distinct value once; null stays null."""
    encoded = _whole(column).dictionary_encode()
    return text_array([convert(value) for value in encoded.dictionary.to_pylist()]).take(encoded.indices)


def dictionary_codes(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, list[str | None]]:
    """A string column as the position of each value among the distinct ones, -1 for null, and these."""
    encoded = _whole(column).dictionary_encode()
    known = _validity(encoded.indices)
    codes = np.where(known, _numbers(encoded.indices, np.int32), -1).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def text_equals(column: pa.Array | pa.ChunkedArray, value: str) -> Mask:
    """Where a string column has this value; nowhere that it is null."""
    codes, distinct = dictionary_codes(column)
    equal: Mask = codes == (distinct.index(value) if value in distinct else -2)
    return equal


def names(column: Nullable, mapping: Mapping[int, str]) -> pa.Array:
    """A string column from numbers; null where the number is null or has no name."""
    numbers = int_array(np.array(list(mapping), np.int64))
    return text_array(list(mapping.values())).take(pc.index_in(column.array(), value_set=numbers))


def rows_with(table: pa.Table, name: str, value: str) -> pa.Table:
    """The rows in which a string column has this value."""
    return table.filter(pc.is_in(table[name], value_set=text_array([value])))


def rows_at(table: pa.Table, places: npt.NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
    """A few rows as dictionaries, in the order of their places."""
    rows: list[dict[str, Any]] = table.take(int_array(places)).to_pylist()
    return rows


def address_text(packed: bytes) -> str:
    """16 bytes in network order as text; ::ffff:a.b.c.d as a.b.c.d."""
    if packed.startswith(_MAPPED):
        return ".".join(map(str, packed[12:]))
    return str(ipaddress.IPv6Address(packed))


def endpoint_text(address: str | None, port: int | None) -> str:
    """`10.0.0.2:443`, `[fd00::2]:443`, `10.0.0.2:*` without a port; a dash without an address."""
    if address is None:
        return UNKNOWN
    return f"{f'[{address}]' if ':' in address else address}:{'*' if port is None else port}"


def name_text(raw: bytes) -> str:
    """A name of the kernel, up to the first NUL; bytes that are no UTF-8 as \\xNN. Not escaped further."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        if not column.num_chunks:
            return pa.nulls(0, column.type)  # combine_chunks() of none imports pandas
        # combine_chunks() of a single chunk can be that chunk or a chunked array, by version.
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
    return column


def _numbers(array: pa.Array, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """The values, whatever they are where the array is null; may share memory."""
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def _validity(array: pa.Array) -> Mask:
    bitmap = array.buffers()[0] if array.null_count else None
    if bitmap is None:
        return np.ones(len(array), np.bool_)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def _bits(mask: Mask) -> pa.Buffer:
    return pa.py_buffer(np.packbits(mask, bitorder="little"))
