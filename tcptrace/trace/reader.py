"""The reader of trace files: every row it returns was written so, and what is missing has a reason.

A trace may come from anywhere. Each message is checked against its checksum before Arrow decodes it, then
its place in the file, its schema and its values; reading stops at the first message that is not right.
"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.errors import TraceError
from tcptrace.trace import FORMAT, FORMAT_VERSION, frame, versions, wire
from tcptrace.trace.batch import MAX_ROWS, ROWS, nullable
from tcptrace.trace.writer import HEADER_KEY, TRAILER_KEY

# First and last kind of the rows of each type.
_KINDS = {
    "connection": (wire.Kind.CONNECTION, wire.Kind.CONNECTION),
    "event": (wire.Kind.RETRANSMIT, wire.Kind.SIGHTING),
    "exchange": (wire.Kind.EXCHANGE, wire.Kind.EXCHANGES),
}
_ROWS_PER_CHUNK = 4096
_INT64_MAX = (1 << 63) - 1

# Where they exist: traces are read on any system.
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))

# What Arrow raises for bytes that it cannot decode.
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError)


@dataclass(frozen=True)
class Trace:
    """What a file holds.

    `connections`, `events` and `exchanges` have the columns of their record (wire.CONNECTION, wire.EVENT,
    wire.EXCHANGE): int64 and 16 raw bytes, unknown is null, times are CLOCK_MONOTONIC ns. What the wire
    version of the file did not have yet is null, and its `exchanges` are empty. One connection may have
    several rows, in order of time: interim ones while it was open, then its end. `losses` counts lost
    records by cause, as far as the recording came to say so. `truncated`: the file ends before its recording
    did. `damaged`: what is wrong from some place on. `clocks`: (monotonic ns, realtime ns) pairs in ascending
    order.
    """

    path: Path
    header: dict[str, Any]
    connections: pa.Table
    events: pa.Table
    exchanges: pa.Table
    losses: dict[str, int]
    trailer: dict[str, Any] | None
    clean_end: bool
    truncated: bool
    damaged: str | None
    clocks: list[tuple[int, int]]

    @property
    def complete(self) -> bool:
        """Nothing was lost, neither in recording nor from the file."""
        return self.clean_end and self.damaged is None and sum(self.losses.values()) == 0

    def to_wall_ns(self, monotonic: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """CLOCK_MONOTONIC ns as wall clock ns since 1970, any shape.

        Between two clock pairs the offset is interpolated; outside it is that of the nearest pair.
        """
        times = np.array([pair[0] for pair in self.clocks], np.int64)
        offsets = np.array([wall - mono for mono, wall in self.clocks], np.int64)
        # Small differences only: a float64 holds 10^18 no better than to 128 ns.
        drift = np.interp(monotonic - times[0], times - times[0], offsets - offsets[0])
        wall: npt.NDArray[np.int64] = monotonic + offsets[0] + np.rint(drift).astype(np.int64)
        return wall


class _Damage(Exception):
    """A message that is no continuation of this file. The text is a clause for the user."""


@dataclass
class _Parts:
    """What was read so far, of a file of this wire version."""

    version: int
    batches: dict[str, list[pa.RecordBatch]] = field(default_factory=lambda: {name: [] for name in ROWS})
    clocks: list[tuple[int, int]] = field(default_factory=list)
    trailer: dict[str, Any] | None = None
    messages: int = 1  # the schema is number 0
    truncated: bool = False
    damaged: str | None = None

    def table(self, name: str) -> pa.Table:
        table = versions.upgraded(self.batches[name], name, self.version)
        # Hours of a quiet host are thousands of batches of a few rows: slow to compute with.
        scattered = table.num_rows < _ROWS_PER_CHUNK * len(self.batches[name])
        return table.combine_chunks() if scattered else table


def read(path: Path | str) -> Trace:
    """Reads a trace. Raises TraceError when the file is unreadable, foreign, of a newer format, empty, or
    damaged before the first complete batch; otherwise all rows up to the end, or to the first damage."""
    path = Path(path)
    with _open(path) as file:
        schema_message = _schema_message(file, path)
        header = _header(schema_message, path)
        parts = _Parts(header["wire_version"])
        _read_batches(file, schema_message, header["trace_id"], parts)
    if parts.damaged and parts.messages == 1:
        raise TraceError(f"{path} is damaged before its first rows: {parts.damaged}")
    trailer = parts.trailer
    pairs = [_pair(header["started"]), *parts.clocks]
    if trailer is not None:
        pairs.append(_pair(trailer["ended"]))
    return Trace(
        path=path,
        header=header,
        connections=parts.table("connection"),
        events=parts.table("event"),
        exchanges=parts.table("exchange"),
        losses=trailer["losses"] if trailer else {},
        trailer=trailer,
        clean_end=trailer is not None and trailer["clean"] and not parts.truncated,
        truncated=parts.truncated,
        damaged=parts.damaged,
        clocks=_ascending(pairs),
    )


def _open(path: Path) -> BinaryIO:
    try:
        # A pipe or a device would block here, or do worse.
        fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise TraceError(f"{path} is not a regular file")
        return os.fdopen(fd, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(f"cannot read {path}: {reason}") from error


def _next(file: BinaryIO) -> bytes | None:
    try:
        return frame.read_message(file)
    except OSError as error:
        raise frame.FrameError(f"cannot be read: {error.strerror}") from error


def _schema_message(file: BinaryIO, path: Path) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise TraceError(f"{path} is empty")
    try:
        message = _next(file)
    except frame.CutError as error:
        if frame.looks_ours(file):
            raise TraceError(f"{path} ends within its header: nothing was recorded yet") from error
        message = None
    except frame.FrameError as error:
        if frame.looks_ours(file):
            raise TraceError(f"{path} is damaged: its header {error}") from error
        message = None
    if message is None:
        raise TraceError(f"{path} is not a trace of tcptrace")
    return message


def _header(message: bytes, path: Path) -> dict[str, Any]:
    """The header of a verified schema message. Raises TraceError when it is not one that we can read."""
    foreign = TraceError(f"{path} is not a trace of tcptrace")
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
        header = _json((schema.metadata or {})[HEADER_KEY.encode()])
    except (*_ARROW_ERRORS, _Damage) as error:
        raise foreign from error
    if header.get("format") != FORMAT:
        raise foreign
    for key, name, own in (
        ("format_version", "format version", FORMAT_VERSION),
        ("wire_version", "record version", wire.WIRE_VERSION),
    ):
        version = header.get(key)
        if type(version) is not int or version < 1:
            raise TraceError(f"{path} is damaged: its header has no {name}")
        if version > own:
            raise TraceError(
                f"{path} has {name} {version}, and this tcptrace reads up to {own}: "
                f"read it with tcptrace {header.get('tcptrace_version', 'of a newer version')} or later"
            )
    version = header["wire_version"]
    if not schema.equals(versions.schema(version), check_metadata=False):
        raise TraceError(f"{path} is damaged: its columns are not those of record version {version}")
    try:
        _pair(header["started"])
        if not isinstance(header["trace_id"], str):
            raise _Damage("is no text")
    except (_Damage, KeyError) as error:
        raise TraceError(f"{path} is damaged: its header lacks a valid start time or identity") from error
    return header


def _read_batches(file: BinaryIO, schema_message: bytes, trace_id: str, parts: _Parts) -> None:
    """Reads messages until the end or the first that is not right, which `parts` then tells."""
    place = file.tell()
    try:
        for message in _messages(file):
            if parts.trailer is not None:
                raise _Damage("comes after the end of the recording")
            _take(schema_message, message, trace_id, parts)
            parts.messages += 1
            place = file.tell()
        parts.truncated = parts.trailer is None
        if file.read(1):
            raise _Damage("is followed by other bytes")
    except frame.CutError:
        parts.truncated = True
    except (frame.FrameError, _Damage) as error:
        parts.damaged = f"message {parts.messages}, at byte {place}, {error}"


def _messages(file: BinaryIO) -> Iterator[bytes]:
    while (message := _next(file)) is not None:
        yield message


def _take(schema_message: bytes, message: bytes, trace_id: str, parts: _Parts) -> None:
    """Adds one verified message. Raises _Damage when it does not belong here."""
    metadata = frame.metadata_of(message)
    if metadata.get(b"trace_id") != trace_id.encode():
        raise _Damage("belongs to another recording")
    if metadata.get(b"sequence") != str(parts.messages).encode():
        raise _Damage("is out of order")
    clock = _pair({key: _integer(metadata.get(key.encode())) for key in ("monotonic_ns", "realtime_ns")})
    rows = metadata.get(b"rows", b"").decode("ascii", "replace")
    if rows in versions.row_types(parts.version):
        parts.batches[rows].append(_rows(schema_message, message, rows, parts.version))
    elif rows == "trailer" and _decoded(schema_message, message, ()).num_rows == 0:
        parts.trailer = _trailer(metadata.get(TRAILER_KEY.encode(), b""))
    else:
        raise _Damage("is of an unknown type")
    parts.clocks.append(clock)


def _decoded(schema_message: bytes, message: bytes, columns: tuple[int, ...]) -> pa.RecordBatch:
    try:
        batch = frame.decode(schema_message, message, columns)
        batch.validate(full=True)
    except _ARROW_ERRORS as error:
        raise _Damage("cannot be decoded") from error
    return batch


def _rows(schema_message: bytes, message: bytes, name: str, version: int) -> pa.RecordBatch:
    """The message's rows with the columns of their record type only, their values checked."""
    batch = _decoded(schema_message, message, versions.positions(version, name))
    if not 0 < batch.num_rows <= MAX_ROWS:
        raise _Damage("has an impossible number of rows")
    known = set(batch.schema.names) - nullable(ROWS[name])
    if any(batch.column(column).null_count for column in known):
        raise _Damage("lacks values that are always known")
    kinds = pc.min_max(batch.column("kind")).as_py()
    low, high = _KINDS[name]
    if kinds["min"] < low or kinds["max"] > high:
        raise _Damage("holds rows of another type")
    return batch


def _trailer(text: bytes) -> dict[str, Any]:
    trailer = _json(text)
    losses = trailer.get("losses")
    if not isinstance(losses, dict) or not all(_is_count(count) for count in losses.values()):
        raise _Damage("has no valid losses")
    if not isinstance(trailer.get("clean"), bool):
        raise _Damage("does not say how the recording ended")
    _pair(trailer.get("ended"))
    return trailer


def _json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Damage("is no valid JSON") from error
    if not isinstance(value, dict):
        raise _Damage("is no JSON object")
    return value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _INT64_MAX


def _integer(text: bytes | None) -> int | None:
    return int(text) if text and len(text) < 20 and text.isdigit() else None


def _pair(clock: object) -> tuple[int, int]:
    """(monotonic ns, realtime ns) of a clock pair from JSON."""
    if isinstance(clock, dict):
        pair = clock.get("monotonic_ns"), clock.get("realtime_ns")
        if _is_count(pair[0]) and _is_count(pair[1]):
            return pair  # type: ignore[return-value]
    raise _Damage("has no valid clock")


def _ascending(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs in the order of their monotonic times, one for each."""
    return sorted(dict(pairs).items())
