"""The messages of a trace file: what goes beyond Arrow's stream format.

Arrow has no checksums: most flipped bits would go unseen, or send its decoder astray. So each message (the
schema, every batch, the trailer) carries a CRC32 in its custom metadata, as eight hexadecimal digits. It
covers the whole encapsulated message, from the length prefix to the end of the body, with those digits as
zeroes. Readers of other projects ignore it; ours checks it on the raw bytes before Arrow sees them.

An encapsulated message: FF FF FF FF, u32 length of the metadata, the metadata (a flatbuffer, padded), the
body (its length is in the metadata). https://arrow.apache.org/docs/format/Columnar.html
"""

import io
import os
import re
import struct
import zlib
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CRC_KEY = "crc32"
# No JSON text contains this: within a string the quotation mark is escaped, and behind one that ends a
# string no digit follows. All other metadata of ours is numbers and identifiers.
CRC_PLACEHOLDER = b'crc32="00000000"'
_CRC = re.compile(rb'crc32="([0-9a-f]{8})"')

# Present in every header, within its first bytes; see looks_ours.
_MARK = b'"format": "tcptrace"'
_MARK_WITHIN = 1 << 20

_CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = _CONTINUATION + bytes(4)
_PREFIX_BYTES = 8

# Far above what the writer makes; a length beyond is damage, and is not read into memory.
MAX_METADATA_BYTES = 64 << 20
MAX_BODY_BYTES = 256 << 20

# The frame of zstd around each column is larger than so few rows, and takes 15 times the time to read.
PLAIN_ROWS = 8
_THREADS_FROM_BYTES = 1 << 20


class FrameError(Exception):
    """The bytes at this place are no message of ours. The text is a clause for the user."""


class CutError(FrameError):
    """The file ends within a message."""


def seal(message: bytearray) -> None:
    """Writes the checksum of an encapsulated message into its placeholder."""
    start = message.index(CRC_PLACEHOLDER) + CRC_PLACEHOLDER.index(b"0")
    message[start : start + 8] = b"%08x" % zlib.crc32(message)


def _checked(prefix: bytes, metadata: bytes, body: bytes) -> bytes:
    """The whole message, when its checksum is right."""
    found = list(_CRC.finditer(metadata))
    if len(found) != 1:
        raise FrameError("has no checksum")
    start, end = found[0].span(1)
    crc = zlib.crc32(body, zlib.crc32(metadata[:start] + b"0" * 8 + metadata[end:], zlib.crc32(prefix)))
    if crc != int(found[0][1], 16):
        raise FrameError("does not match its checksum")
    return b"".join((prefix, metadata, body))


class _Table:
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

    def integer(self, number: int, code: str) -> int:
        position = self._field(number)
        return 0 if position is None else self._unpack(code, position)

    def table(self, number: int) -> Self | None:
        position = self._field(number)
        return None if position is None else type(self)(self._buffer, position + self._unpack("<I", position))

    def pairs(self, number: int) -> npt.NDArray[np.int64]:
        """A vector of structs of two int64, shape (n, 2)."""
        position = self._field(number)
        if position is None:
            return np.empty((0, 2), np.int64)
        start = position + self._unpack("<I", position)
        count = self._unpack("<I", start)
        if start + 4 + 16 * count > len(self._buffer):
            raise FrameError("has damaged metadata")
        return np.frombuffer(self._buffer, "<i8", 2 * count, start + 4).reshape(-1, 2)


# Field numbers in format/Message.fbs of Arrow.
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_RECORD_BATCH = 3
_RECORD_BATCH_BUFFERS, _RECORD_BATCH_COMPRESSION = 2, 3


def _check_decoded_size(metadata: bytes, body: bytes) -> None:
    """Refuses what would fill the memory: a compressed buffer begins with its decoded length."""
    message = _Table.root(metadata)
    batch = message.table(_MESSAGE_HEADER)
    if message.integer(_MESSAGE_HEADER_TYPE, "<B") != _RECORD_BATCH or batch is None:
        return
    if batch.table(_RECORD_BATCH_COMPRESSION) is None:
        return
    total = 0
    for offset, length in batch.pairs(_RECORD_BATCH_BUFFERS).tolist():
        if length >= 8:
            if not 0 <= offset <= len(body) - 8:
                raise FrameError("has damaged metadata")
            # -1: stored as it is
            total += max(length, struct.unpack_from("<q", body, offset)[0])
    if total > MAX_BODY_BYTES:
        raise FrameError("is too large when decoded")


def read_message(file: BinaryIO) -> bytes | None:
    """The next message, its checksum verified; None at the end-of-stream mark.

    `file` is a regular file at a message's start. Raises CutError where the file ends before the message
    does, also when nothing is left; FrameError when the bytes are something else or do not match.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    prefix = file.read(_PREFIX_BYTES)
    if not _CONTINUATION.startswith(prefix[:4]):
        raise FrameError("is not a message")
    if len(prefix) < _PREFIX_BYTES:
        raise CutError("is cut")
    if prefix == END_OF_STREAM:
        return None
    length = int.from_bytes(prefix[4:], "little")
    if length > MAX_METADATA_BYTES:
        raise FrameError("has an impossible length")
    metadata = file.read(length)
    if len(metadata) < length:
        raise CutError("is cut")
    body_length = _Table.root(metadata).integer(_MESSAGE_BODY_LENGTH, "<q")
    if not 0 <= body_length <= MAX_BODY_BYTES:
        raise FrameError("has an impossible length")
    # Without this, one flipped bit of a length would be called a cut.
    if not _CRC.search(metadata):
        raise FrameError("has no checksum")
    if body_length > left - _PREFIX_BYTES - length:
        raise CutError("is cut")
    body = file.read(body_length)
    message = _checked(prefix, metadata, body)
    _check_decoded_size(metadata, body)
    return message


def looks_ours(file: BinaryIO) -> bool:
    """Whether the beginning of the file has the marks of a header, however damaged."""
    file.seek(0)
    return _MARK in file.read(_MARK_WITHIN)


class _Stream:
    """Arrow's encoder of batches, into memory."""

    def __init__(self, schema: pa.Schema, codec: pa.Codec | None) -> None:
        self._sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self._stream = pa.ipc.new_stream(self._sink, schema, options=options)
        # It puts the schema in front of its first batch.
        self._skip = schema.serialize().size

    def encode(self, batch: pa.RecordBatch, metadata: dict[str, str]) -> bytearray:
        self._stream.write_batch(batch, custom_metadata=metadata)
        message = bytearray(self._sink.getbuffer()[self._skip :])
        self._skip = 0
        self._sink.seek(0)
        self._sink.truncate()
        return message


class Encoder:
    """Encodes batches of one schema as sealed messages, compressed by zstd where that makes them smaller."""

    def __init__(self, schema: pa.Schema, level: int) -> None:
        self._schema = schema.with_metadata(dict(schema.metadata or {}) | {CRC_KEY: CRC_PLACEHOLDER})
        self._plain = _Stream(self._schema, None)
        self._compressed = _Stream(self._schema, pa.Codec("zstd", level))

    def schema(self) -> bytearray:
        message = bytearray(self._schema.serialize())
        seal(message)
        return message

    def batch(self, batch: pa.RecordBatch, metadata: dict[str, str]) -> bytearray:
        stream = self._compressed if batch.num_rows > PLAIN_ROWS else self._plain
        message = stream.encode(batch, metadata | {CRC_KEY: CRC_PLACEHOLDER.decode()})
        seal(message)
        return message


def decode(schema: bytes, message: bytes) -> tuple[pa.RecordBatch, dict[bytes, bytes]]:
    """A verified batch message, decoded, and its metadata. Raises pa.ArrowInvalid and its kin."""
    options = pa.ipc.IpcReadOptions(use_threads=len(message) > _THREADS_FROM_BYTES)
    with pa.ipc.open_stream(pa.py_buffer(schema + message), options=options) as stream:
        batch, metadata = stream.read_next_batch_with_custom_metadata()
        return batch, dict(metadata or {})
