"""The messages of a trace file: what goes beyond Arrow's stream format.

Arrow has no checksums: most flipped bits would go unseen, or send its decoder astray. So each message (the
schema, every batch, the trailer) carries a CRC32 in its custom metadata, as eight hexadecimal digits. It
covers the whole encapsulated message, from the length prefix to the end of the body, with those digits as
zeroes. Readers of other projects ignore it; ours checks it on the raw bytes before Arrow sees them.

An encapsulated message: FF FF FF FF, u32 length of the metadata, the metadata (a flatbuffer, padded), the
body (its length is in the metadata). https://arrow.apache.org/docs/format/Columnar.html
"""

import os
import re
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from tcptrace.trace import flatbuffer
from tcptrace.trace.flatbuffer import FrameError as FrameError
from tcptrace.trace.flatbuffer import Table

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

# So few rows are not compressed, and are the easier to read.
PLAIN_ROWS = 8
_THREADS_FROM_BYTES = 1 << 20


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


def _check_decoded_size(metadata: bytes, body: bytes) -> None:
    """Refuses what would fill the memory: a compressed buffer begins with its decoded length."""
    message = Table.root(metadata)
    batch = message.table(flatbuffer.MESSAGE_HEADER)
    if message.integer(flatbuffer.MESSAGE_HEADER_TYPE, "<B") != flatbuffer.RECORD_BATCH or batch is None:
        return
    if batch.table(flatbuffer.BATCH_COMPRESSION) is None:
        return
    buffers = batch.integer_pairs(flatbuffer.BATCH_BUFFERS)
    offsets, lengths = buffers[buffers[:, 1] >= 8].T
    if ((offsets < 0) | (offsets > len(body) - 8) | (offsets % 8 != 0)).any():
        raise FrameError("has damaged metadata")
    # _STORED is negative
    sizes = np.maximum(lengths, np.frombuffer(body, "<i8", len(body) // 8)[offsets // 8])
    if max(sizes.max(initial=0), sizes.sum()) > MAX_BODY_BYTES:
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
    body_length = Table.root(metadata).integer(flatbuffer.MESSAGE_BODY_LENGTH, "<q")
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


class Encoder:
    """Encodes batches of one schema as sealed messages; int64 and fixed-size binary columns only.

    Arrow's own encoder would compress each null column anew, and a trace's batch consists of them for the
    most part: every record type leaves the others' columns empty. Here they all share one place in the body.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema.with_metadata(dict(schema.metadata or {}) | {CRC_KEY: CRC_PLACEHOLDER})

    def schema(self) -> bytearray:
        message = bytearray(self._schema.serialize())
        seal(message)
        return message

    def batch(self, batch: pa.RecordBatch, metadata: dict[str, str]) -> bytearray:
        body = _Body(compressed=batch.num_rows > PLAIN_ROWS)
        for column in batch.columns:
            body.add(column)
        head = flatbuffer.batch_metadata(
            batch.num_rows,
            body.nodes,
            body.buffers,
            body.length,
            {key: value.encode() for key, value in metadata.items()} | {CRC_KEY: CRC_PLACEHOLDER},
            compressed=body.compressed,
        )
        message = bytearray().join((_CONTINUATION, struct.pack("<I", len(head)), head, *body.parts))
        seal(message)
        return message


# Compressed, each buffer begins with its decoded length; this one says that it is stored as it is.
_STORED = struct.pack("<q", -1)
# The frame of zstd around less is no smaller, and takes 15 times the time to read.
_STORED_UP_TO = 64

_CODEC = pa.Codec("zstd", 1)
# Level 1 is slow on one value repeated (1.1 ms for 65,536 times 1, and 16 kB); level 3, elsewhere at half the
# speed, is not (0.1 ms, 64 bytes). Guessed from some of the values, and only where it is worth the guess.
_CODEC_FOR_CONSTANTS = pa.Codec("zstd", 3)
_CONSTANT_FROM = 1 << 12
_SAMPLES = 64


class _Body:
    """The buffers of a batch, end to end; when `compressed`, each where that makes it smaller."""

    def __init__(self, compressed: bool) -> None:
        self.compressed = compressed
        self.parts: list[bytes | pa.Buffer] = []
        self.length = 0
        self.nodes: list[tuple[int, int]] = []
        self.buffers: list[tuple[int, int]] = []
        self._nulls: dict[int, tuple[int, int]] = {}  # bytes of zeroes -> where they are

    def add(self, column: pa.Array) -> None:
        if column.offset:
            raise ValueError("the column is a part of another")
        rows, nulls, width = len(column), column.null_count, column.type.bit_width // 8
        self.nodes.append((rows, nulls))
        sizes = (rows + 7) // 8, rows * width
        if nulls == rows:
            self.buffers += [self._zeroes(size) for size in sizes]
            return
        validity, values = column.buffers()
        self.buffers.append(self._place(validity.slice(0, sizes[0])) if nulls else (0, 0))
        self.buffers.append(self._place(values.slice(0, sizes[1])))

    def _zeroes(self, size: int) -> tuple[int, int]:
        if size and size not in self._nulls:
            self._nulls[size] = self._place(pa.py_buffer(bytes(size)))
        return self._nulls.get(size, (0, 0))

    def _place(self, data: pa.Buffer) -> tuple[int, int]:
        """Puts a buffer in; its offset and length."""
        pieces = _stored(data) if self.compressed else (data,)
        length = sum(map(len, pieces))
        padding = -length % 8
        place = self.length, length
        self.parts += pieces
        self.parts.append(bytes(padding))
        self.length += length + padding
        return place


def _stored(data: pa.Buffer) -> tuple[bytes, pa.Buffer]:
    """The buffer as it is in a compressed body: what it begins with, and the rest."""
    if data.size > _STORED_UP_TO:
        codec = _CODEC_FOR_CONSTANTS if data.size >= _CONSTANT_FROM and _looks_constant(data) else _CODEC
        compressed = codec.compress(data)
        if compressed.size < data.size:
            return struct.pack("<q", data.size), compressed
    return _STORED, data


def _looks_constant(data: pa.Buffer) -> bool:
    words = np.frombuffer(data, np.int64, data.size // 8)
    sample = words[:: max(1, len(words) // _SAMPLES)]
    return bool((sample == sample[0]).all())


def metadata_of(message: bytes) -> dict[bytes, bytes]:
    """The custom metadata of a verified message. Raises FrameError when it is no batch."""
    table = Table.root(message[_PREFIX_BYTES:])
    if table.integer(flatbuffer.MESSAGE_HEADER_TYPE, "<B") != flatbuffer.RECORD_BATCH:
        raise FrameError("is no batch")
    return table.text_pairs(flatbuffer.MESSAGE_CUSTOM_METADATA)


def decode(schema: bytes, message: bytes, columns: Sequence[int] = ()) -> pa.RecordBatch:
    """A verified batch message, decoded: only the columns at these positions of the schema, all when empty.
    Raises pa.ArrowInvalid and its kin."""
    options = pa.ipc.IpcReadOptions(
        use_threads=len(message) > _THREADS_FROM_BYTES, included_fields=list(columns)
    )
    with pa.ipc.open_stream(pa.py_buffer(schema + message), options=options) as stream:
        return stream.read_next_batch()
