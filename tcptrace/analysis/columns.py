"""Between Arrow columns with nulls and numpy arrays with masks, and from raw bytes to text."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
        made = pa.array(self.values, pa.int64(), mask=~self.known)
        return made if type_ is None else made.cast(type_)


def nullable(table: pa.Table, name: str) -> Nullable:
    """A copy of an int64 column."""
    column = table[name]
    known = column.is_valid().to_numpy()
    return Nullable(np.array(column.fill_null(0).to_numpy(), np.int64), np.array(known, np.bool_))


def plain(table: pa.Table, name: str) -> Ints:
    """A column without nulls; a null, which no valid trace has there, reads as 0."""
    return nullable(table, name).values


def by_distinct(column: pa.ChunkedArray, convert: Callable[[bytes], str | None]) -> pa.Array:
    """A string column, converting each distinct value once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = pa.array([convert(value.as_py()) for value in encoded.dictionary], pa.string())
    return texts.take(encoded.indices)


def names(column: Nullable, mapping: Mapping[int, str]) -> pa.Array:
    """A string column from numbers; null where the number is null or has no name."""
    numbers = pa.array(list(mapping), pa.int64())
    texts = pa.array(list(mapping.values()), pa.string())
    return texts.take(pc.index_in(column.array(), value_set=numbers))


def address_text(packed: bytes) -> str:
    """16 bytes in network order as text; ::ffff:a.b.c.d as a.b.c.d."""
    if packed.startswith(_MAPPED):
        return ".".join(map(str, packed[12:]))
    return str(ipaddress.IPv6Address(packed))


def name_text(raw: bytes) -> str:
    """A name of the kernel, up to the first NUL; bytes that are no UTF-8 as \\xNN. Not escaped further."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
