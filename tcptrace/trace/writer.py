"""The writer of trace files: readable up to the last complete batch however the recording ends."""

import contextlib
import json
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from tcptrace.errors import TcptraceError
from tcptrace.trace import FORMAT, FORMAT_VERSION, frame, wire
from tcptrace.trace.batch import ROWS, SCHEMA, ColumnBuffer, Records

HEADER_KEY = "tcptrace"
TRAILER_KEY = "trailer"

FLUSH_AFTER_S = 1.0
_TRACE_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


def clock_pair() -> tuple[int, int]:
    """CLOCK_MONOTONIC and CLOCK_REALTIME of one moment, ns; off by at most the shortest of three reads."""
    readings = []
    for _ in range(3):  # between two clocks the host may run something else for a long while
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        readings.append((after - before, (before + after) // 2, wall))
    return min(readings)[1:]


class TraceWriter:
    """Writes one recording to `path`: the header at once, rows in batches, the trailer at `close`.

    The file has mode 0600 and belongs to `owner` (uid, gid) where given. It must not exist, unless `force`:
    then a regular file or a symbolic link of that name is replaced by a new file, never followed. Missing
    keys `format`, `format_version`, `wire_version` and `trace_id` of the header are filled in. `clock` gives
    the (monotonic ns, realtime ns) pair that each batch carries.
    All methods raise TcptraceError, naming the file, when it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        *,
        force: bool = False,
        owner: tuple[int, int] | None = None,
        clock: Callable[[], tuple[int, int]] = clock_pair,
    ) -> None:
        self.path = path
        self._clock = clock
        self.rows = 0
        self.bytes_written = 0
        own = {"format": FORMAT, "format_version": FORMAT_VERSION, "wire_version": wire.WIRE_VERSION}
        header = {**own, "trace_id": uuid.uuid4().hex, **header}
        if not _TRACE_ID.fullmatch(header["trace_id"]):
            raise ValueError(f"trace_id {header['trace_id']!r} is not a plain identifier")
        self._trace_id: str = header["trace_id"]
        self._messages = 0  # written; the schema is number 0
        self._buffers = {name: ColumnBuffer(dtype) for name, dtype in ROWS.items()}
        self._flushed = dict.fromkeys(ROWS, time.monotonic())
        schema = SCHEMA.with_metadata({HEADER_KEY: json.dumps(header)})
        self._encoder = frame.Encoder(schema)
        self._fd = _create(path, force, owner)
        try:
            self._write(self._encoder.schema())
        except TcptraceError:
            _discard(self._fd, path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def add(self, records: Records) -> None:
        """Takes records of one of the types of ROWS, shape (n,); copies them, and writes full batches."""
        name = next(name for name, dtype in ROWS.items() if dtype == records.dtype)
        buffer = self._buffers[name]
        while len(records):
            taken = records[: buffer.capacity - buffer.rows]
            buffer.append(taken)
            records = records[len(taken) :]
            if buffer.rows == buffer.capacity:
                self._flush(name, time.monotonic())

    def tick(self, now: float) -> None:
        """Writes what has waited for a second. `now`: time.monotonic()."""
        for name, flushed in self._flushed.items():
            if self._buffers[name].rows and now - flushed >= FLUSH_AFTER_S:
                self._flush(name, now)

    def close(self, trailer: dict[str, Any]) -> None:
        """Writes what waits, the trailer and the end of the stream, and sees them onto the disk."""
        for name in ROWS:
            if self._buffers[name].rows:
                self._flush(name, time.monotonic())
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in SCHEMA], schema=SCHEMA)
        message = self._message(empty, "trailer", {TRAILER_KEY: json.dumps(trailer)})
        self._write(message + frame.END_OF_STREAM)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._error(error) from error
        self._close()

    def abort(self) -> None:
        """Closes the file without a trailer, so that it reads as truncated; nothing after `close`."""
        if self._fd < 0:
            return
        try:
            for name in ROWS:
                if self._buffers[name].rows:
                    self._flush(name, time.monotonic())
        finally:
            self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _flush(self, name: str, now: float) -> None:
        buffer = self._buffers[name]
        self._write(self._message(buffer.batch(), name, {}))
        self.rows += buffer.rows
        buffer.clear()
        self._flushed[name] = now

    def _message(self, batch: pa.RecordBatch, rows: str, extra: dict[str, str]) -> bytearray:
        monotonic_ns, realtime_ns = self._clock()
        metadata = {
            "trace_id": self._trace_id,
            "sequence": str(self._messages),
            "rows": rows,
            "monotonic_ns": str(monotonic_ns),
            "realtime_ns": str(realtime_ns),
        }
        return self._encoder.batch(batch, metadata | extra)

    def _write(self, message: bytearray) -> None:
        """Writes the message as a whole, or takes back what got written of it."""
        rest = memoryview(message)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BaseException as error:
            os.ftruncate(self._fd, self.bytes_written)
            os.lseek(self._fd, self.bytes_written, os.SEEK_SET)
            if isinstance(error, OSError):
                raise self._error(error) from error
            raise
        self.bytes_written += len(message)
        self._messages += 1

    def _error(self, error: OSError) -> TcptraceError:
        return TcptraceError(f"cannot write {self.path}: {error.strerror}")


def _create(path: Path, force: bool, owner: tuple[int, int] | None) -> int:
    """A new, empty file at `path`, open for writing."""
    try:
        if not force:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            return _prepared(fd, path, owner)
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                raise TcptraceError(f"cannot replace {path}: it is not a regular file")
        # Beside it and renamed: there is no moment without the old file or with a name to be hijacked.
        fd, name = tempfile.mkstemp(prefix=".tcptrace-", dir=path.parent)
        _prepared(fd, Path(name), owner)
        try:
            Path(name).rename(path)
        except OSError:
            _discard(fd, Path(name))
            raise
        return fd
    except FileExistsError:
        raise TcptraceError(f"{path} exists; name another file with -o, or replace it with --force") from None
    except OSError as error:
        raise TcptraceError(f"cannot write {path}: {error.strerror}") from error


def _prepared(fd: int, path: Path, owner: tuple[int, int] | None) -> int:
    try:
        os.fchmod(fd, 0o600)
        if owner is not None:
            os.fchown(fd, *owner)
    except OSError:
        _discard(fd, path)
        raise
    return fd


def _discard(fd: int, path: Path) -> None:
    os.close(fd)
    path.unlink()
