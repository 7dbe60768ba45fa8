"""The metadata of Arrow's messages: as much of its flatbuffers as a trace needs, read and written.

Reading trusts nothing: a message may come from anywhere, and its metadata is looked at before Arrow's own
verifier sees it. Writing is of one kind of message only, the record batch, whose buffers may then lie
where we want them. Layout: https://flatbuffers.dev/internals, format/Message.fbs of Arrow.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

# Field numbers in format/Message.fbs: of a message, of a record batch, of a pair of its custom metadata.
MESSAGE_HEADER_TYPE, MESSAGE_HEADER, MESSAGE_BODY_LENGTH, MESSAGE_CUSTOM_METADATA = 1, 2, 3, 4
BATCH_BUFFERS, BATCH_COMPRESSION = 2, 3
_KEY, _VALUE = 0, 1

RECORD_BATCH = 3  # MessageHeader
_VERSION = 4  # MetadataVersion: V5, the present one
_ZSTD = 1  # CompressionType

# A message has eight pairs at most; more cost time and say nothing.
_MAX_PAIRS = 64


class FrameError(Exception):
    """The bytes at this place are no message of ours. The text is a clause for the user."""


class Table:
    """A table of a flatbuffer, of which only single fields are looked up. Raises FrameError."""

    def __init__(self, buffer: bytes, position: int) -> None:
        self._buffer = buffer
        self._position = position
        self._vtable = position - self._unpack("<i", position)
        self._vtable_size = self._unpack("<H", self._vtable)

    @classmethod
    def root(cls, buffer: bytes) -> Self:
        return cls(buffer, cls._unpack_from(buffer, "<I", 0))

    @staticmethod
    def _unpack_from(buffer: bytes, code: str, position: int) -> int:
        if not 0 <= position <= len(buffer) - struct.calcsize(code):
            raise FrameError("has damaged metadata")
        return int(struct.unpack_from(code, buffer, position)[0])

    def _unpack(self, code: str, position: int) -> int:
        return self._unpack_from(self._buffer, code, position)

    def _field(self, number: int) -> int | None:
        entry = 4 + 2 * number
        offset = self._unpack("<H", self._vtable + entry) if entry + 2 <= self._vtable_size else 0
        return self._position + offset if offset else None

    def _pointed(self, number: int) -> int | None:
        """The position that an offset in this field leads to."""
        position = self._field(number)
        return None if position is None else position + self._unpack("<I", position)

    def _vector(self, number: int, item_bytes: int) -> tuple[int, int]:
        """The position of the first item, and how many there are."""
        start = self._pointed(number)
        if start is None:
            return 0, 0
        count = self._unpack("<I", start)
        if start + 4 + item_bytes * count > len(self._buffer):
            raise FrameError("has damaged metadata")
        return start + 4, count

    def integer(self, number: int, code: str) -> int:
        position = self._field(number)
        return 0 if position is None else self._unpack(code, position)

    def table(self, number: int) -> Self | None:
        position = self._pointed(number)
        return None if position is None else type(self)(self._buffer, position)

    def text(self, number: int) -> bytes:
        start, count = self._vector(number, 1)
        return self._buffer[start : start + count]

    def integer_pairs(self, number: int) -> npt.NDArray[np.int64]:
        """A vector of structs of two int64, shape (n, 2)."""
        start, count = self._vector(number, 16)
        return np.frombuffer(self._buffer, "<i8", 2 * count, start).reshape(-1, 2)

    def text_pairs(self, number: int) -> dict[bytes, bytes]:
        """A vector of tables of two strings, key and value."""
        start, count = self._vector(number, 4)
        if count > _MAX_PAIRS:
            raise FrameError("has damaged metadata")
        places = range(start, start + 4 * count, 4)
        pairs = [type(self)(self._buffer, place + self._unpack("<I", place)) for place in places]
        return {pair.text(_KEY): pair.text(_VALUE) for pair in pairs}


# Everything before the first vector is always the same size: root offset; then each table but for the pairs,
# behind its vtable (its size, the size of the table, the offset of each field in it). Some readers only look
# for a vtable behind the place where they came from.
_MESSAGE_VTABLE, _MESSAGE, _BATCH_VTABLE, _BATCH = 4, 24, 48, 64
_COMPRESSION_VTABLE, _COMPRESSION, _VECTORS = 88, 96, 108
_START = struct.Struct("<I 7H6x iIqIhBx 6H4x iIqII 3H2x ib3x 4x")
_PAIR_VTABLE = struct.pack("<4H", 8, 12, 4, 8)  # key, value


def batch_metadata(
    rows: int,
    nodes: Sequence[tuple[int, int]],
    buffers: Sequence[tuple[int, int]],
    body_bytes: int,
    pairs: Mapping[str, bytes],
    compressed: bool,
) -> bytes:
    """The metadata of a record batch.

    nodes: (rows, nulls) of each column; buffers: (offset in the body, length) of each; pairs: the custom
    metadata. When `compressed`, each buffer begins with its decoded length, and zstd follows.
    """
    nodes_at = _VECTORS
    buffers_at = nodes_at + 4 + 16 * len(nodes) + 4  # the structs in it begin at a multiple of 8
    pairs_at = buffers_at + 4 + 16 * len(buffers)
    start = _START.pack(
        _MESSAGE,
        *(14, 24, 20, 22, 4, 8, 16),  # version, header type, header, body length, custom metadata
        *(_MESSAGE - _MESSAGE_VTABLE, _BATCH - (_MESSAGE + 4), body_bytes, pairs_at - (_MESSAGE + 16)),
        *(_VERSION, RECORD_BATCH),
        *(12, 24, 8, 4, 16, 20 * compressed),  # length, nodes, buffers, compression
        *(_BATCH - _BATCH_VTABLE, nodes_at - (_BATCH + 4), rows),
        *(buffers_at - (_BATCH + 16), _COMPRESSION - (_BATCH + 20)),
        *(6, 8, 4),  # codec
        *(_COMPRESSION - _COMPRESSION_VTABLE, _ZSTD),
    )
    made = b"".join((start, _structs(nodes), bytes(4), _structs(buffers), _pairs(pairs)))
    return made + bytes(-len(made) % 8)


def _structs(items: Sequence[tuple[int, int]]) -> bytes:
    return struct.pack("<I", len(items)) + np.array(items, "<i8").tobytes()


def _pairs(pairs: Mapping[str, bytes]) -> bytes:
    """A vector of offsets; behind it the tables, which share a vtable, and their strings."""
    vtable_at = 4 + 4 * len(pairs)
    tables_at = vtable_at + len(_PAIR_VTABLE)
    strings_at = tables_at + 12 * len(pairs)
    made = bytearray(struct.pack("<I", len(pairs)))
    for number in range(len(pairs)):
        made += struct.pack("<I", tables_at + 12 * number - len(made))
    made += _PAIR_VTABLE
    strings = bytearray()
    for key, value in pairs.items():
        offsets = []
        for field, text in ((4, key.encode()), (8, value)):
            offsets.append(strings_at + len(strings) - (len(made) + field))
            strings += struct.pack("<I", len(text)) + text
            strings += bytes(4 - len(strings) % 4)  # at least the zero behind a string
        made += struct.pack("<iII", len(made) - vtable_at, *offsets)
    return bytes(made + strings)
