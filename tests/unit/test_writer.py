"""What the writer leaves on the disk, and when."""

import json
import os
import stat
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from tcptrace.errors import TcptraceError
from tcptrace.trace import reader, wire
from tcptrace.trace.batch import SCHEMA, to_batch
from tcptrace.trace.wire import Kind
from tcptrace.trace.writer import FLUSH_AFTER_S, TraceWriter

ROWS = synthetic.connections(100)


def test_the_header_is_on_the_disk_at_once_and_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        writer = TraceWriter(tmp_path / "a.tct", synthetic.header())
    finally:
        os.umask(old)
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600
    trace = reader.read(writer.path)
    assert trace.header == synthetic.header()
    assert (trace.truncated, trace.clean_end, trace.complete) == (True, False, False)
    assert writer.bytes_written == writer.path.stat().st_size
    writer.abort()


def test_an_umask_that_forbids_the_owner_to_write_is_no_obstacle(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        synthetic.write_trace(tmp_path / "a.tct", ROWS)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.tct").stat().st_mode) == 0o600


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tct"
    path.write_text("mine")
    with pytest.raises(TcptraceError, match=r"a\.tct exists.*--force"):
        TraceWriter(path, synthetic.header())
    assert path.read_text() == "mine"


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, target_exists: bool) -> None:
    path, target = tmp_path / "a.tct", tmp_path / "target"
    if target_exists:
        target.write_text("mine")
    path.symlink_to(target)
    with pytest.raises(TcptraceError, match="exists"):
        TraceWriter(path, synthetic.header())
    with TraceWriter(path, synthetic.header(), force=True):
        pass
    assert not path.is_symlink()
    assert reader.read(path).header
    assert target.exists() == target_exists
    assert not target_exists or target.read_text() == "mine"


def test_force_replaces_by_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tct"
    path.write_text("old")
    path.chmod(0o666)
    with path.open() as old:
        with TraceWriter(path, synthetic.header(), force=True) as writer:
            writer.add(ROWS)
        assert os.fstat(old.fileno()).st_ino != path.stat().st_ino
        assert old.read() == "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert reader.read(path).connections.num_rows == len(ROWS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tct"]


def test_force_creates_what_is_not_there(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "new.tct", synthetic.header(), force=True):
        pass
    assert stat.S_IMODE((tmp_path / "new.tct").stat().st_mode) == 0o600


def test_force_replaces_no_directory_and_no_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(TcptraceError, match="not a regular file"):
            TraceWriter(path, synthetic.header(), force=True)
        with pytest.raises(TcptraceError):
            TraceWriter(path, synthetic.header())
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for force in (False, True):
        with pytest.raises(TcptraceError, match=r"cannot write .*nowhere/a\.tct: No such file"):
            TraceWriter(tmp_path / "nowhere" / "a.tct", synthetic.header(), force=force)


@pytest.mark.parametrize("force", [False, True])
def test_the_file_belongs_to_the_invoking_user(tmp_path: Path, force: bool) -> None:
    owner = (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    with TraceWriter(tmp_path / "a.tct", synthetic.header(), force=force, owner=owner):
        found = (tmp_path / "a.tct").stat()
    assert (found.st_uid, found.st_gid) == owner


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files away")
@pytest.mark.parametrize("force", [False, True])
def test_an_owner_that_cannot_be_set_leaves_nothing_behind(tmp_path: Path, force: bool) -> None:
    with pytest.raises(TcptraceError):
        TraceWriter(tmp_path / "a.tct", synthetic.header(), force=force, owner=(0, 0))
    assert not list(tmp_path.iterdir())


def test_rows_wait_for_a_second_and_no_longer(tmp_path: Path) -> None:
    now = 0.0
    with TraceWriter(tmp_path / "a.tct", synthetic.header()) as writer:
        writer._flushed = dict.fromkeys(writer._flushed, now)
        writer.add(ROWS)
        size = writer.bytes_written
        writer.tick(now + FLUSH_AFTER_S - 0.001)
        assert (writer.rows, writer.bytes_written) == (0, size)
        writer.tick(now + FLUSH_AFTER_S)
        assert writer.rows == len(ROWS)
        assert reader.read(writer.path).connections.num_rows == len(ROWS)
        writer.add(synthetic.events(5))
        # each type has its own second; the other's has passed
        writer.tick(now + 1.5)
        assert writer.rows == len(ROWS) + 5
        size = writer.bytes_written
        writer.tick(now + 100)
        assert writer.bytes_written == size  # nothing to say


def test_a_full_batch_is_written_at_once(tmp_path: Path) -> None:
    rows = synthetic.connections(1000)
    many = np.concatenate([rows] * 132)
    with TraceWriter(tmp_path / "a.tct", synthetic.header()) as writer:
        writer.add(many)
        assert writer.rows == 2 * 65536
        writer.close(synthetic.trailer(len(many), 0))
        assert writer.rows == len(many)
    trace = reader.read(writer.path)
    assert trace.complete
    expected = pa.Table.from_batches([to_batch(many)]).select(trace.connections.schema.names)
    assert trace.connections.equals(expected)


def test_any_arrow_reader_opens_the_file(tmp_path: Path) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS, synthetic.events(7), synthetic.exchanges(50))
    with pa.ipc.open_stream(path) as stream:
        assert stream.schema.equals(SCHEMA)
        assert json.loads(stream.schema.metadata[b"tcptrace"]) == synthetic.header()
        table = stream.read_all()
    kinds = table.column("kind").to_pylist()
    assert len(kinds) == 157
    assert (set(kinds[:100]), set(kinds[107:])) == ({Kind.CONNECTION}, {Kind.EXCHANGE})


def test_an_empty_recording_is_valid(tmp_path: Path) -> None:
    trace = reader.read(synthetic.write_trace(tmp_path / "a.tct"))
    assert trace.complete
    for table, dtype in (
        (trace.connections, wire.CONNECTION),
        (trace.events, wire.EVENT),
        (trace.exchanges, wire.EXCHANGE),
    ):
        assert table.num_rows == 0
        assert set(table.schema.names) == {name for name in dtype.names or () if not name.startswith("pad")}


def test_a_full_disk_is_one_sentence_and_the_file_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TraceWriter(tmp_path / "a.tct", synthetic.header())
    writer.add(ROWS)
    writer.tick(float("inf"))
    size, write = writer.bytes_written, os.write

    def half(fd: int, data: memoryview) -> int:
        if os.fstat(fd).st_size >= size + 100:
            raise OSError(28, "No space left on device")
        return write(fd, data[:100])

    writer.add(synthetic.events(5))
    monkeypatch.setattr(os, "write", half)
    with pytest.raises(TcptraceError, match=r"cannot write .*a\.tct: No space left"):
        writer.close(synthetic.trailer(100, 5))
    assert writer.path.stat().st_size == size
    assert reader.read(writer.path).connections.num_rows == len(ROWS)
    monkeypatch.undo()  # room again: nothing is lost
    writer.close(synthetic.trailer(100, 5))
    trace = reader.read(writer.path)
    assert trace.complete
    assert trace.events.num_rows == 5


def test_a_header_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TcptraceError, match="No space left"):
        TraceWriter(tmp_path / "a.tct", synthetic.header())
    assert not list(tmp_path.iterdir())


def test_a_trace_id_must_be_plain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trace_id"):
        TraceWriter(tmp_path / "a.tct", synthetic.header(trace_id='crc32="00000000"'))


@pytest.mark.parametrize(
    "text", ['crc32="00000000"', "crc32=", '"', "\udcff", "\0\x1b[31m", "</script>", "crc32=\\"]
)
def test_hostile_words_in_the_header_do_not_disturb_the_checksum(tmp_path: Path, text: str) -> None:
    header = synthetic.header(
        command_line=[text, "00000000", text + '"'], hostname=text, **{text: "00000000"}
    )
    path = tmp_path / "a.tct"
    with TraceWriter(path, header) as writer:
        writer.close(synthetic.trailer(0, 0, {text: 0}))
    trace = reader.read(path)
    assert trace.complete
    assert trace.header == header


@pytest.mark.parametrize("rate", [500, 2000, 100_000])
def test_an_exchange_takes_at_most_64_bytes_on_the_disk(tmp_path: Path, rate: int) -> None:
    """At so many a second, of 1000 connections in turn, each with times of its own."""
    n, random = min(100_000, 20 * rate), np.random.default_rng(rate)
    rows = random.permutation(synthetic.exchanges(n, of=synthetic.connections(1000)))
    rows["started_ns"] = synthetic.SEEDED_NS + np.cumsum(random.exponential(1e9 / rate, n)).astype(np.int64)
    path = synthetic.write_trace(tmp_path / "a.tct", exchanges=rows, batch_rows=rate)
    assert path.stat().st_size / n <= 64


def test_rows_take_less_than_120_bytes_on_the_disk(tmp_path: Path) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", synthetic.connections(100_000), batch_rows=2000)
    assert path.stat().st_size / 100_000 < 80


def test_writing_an_exchange_takes_little_of_a_cpu(tmp_path: Path) -> None:
    """0.5 us where this was written; a host may record 100,000 of them a second."""
    rows = np.concatenate([synthetic.exchanges(65_536)] * 3)
    with TraceWriter(tmp_path / "a.tct", synthetic.header()) as writer:
        before = time.process_time()
        for start in range(0, len(rows), 10_000):
            writer.add(rows[start : start + 10_000])
        writer.close(synthetic.trailer(0, 0))
        assert (time.process_time() - before) / len(rows) < 2e-6
