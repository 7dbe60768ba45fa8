"""What the reader says of whole, cut and foreign files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from tcptrace.errors import TraceError
from tcptrace.trace import frame, reader, versions, wire
from tcptrace.trace.batch import ROWS as ROWS_OF
from tcptrace.trace.batch import SCHEMA, column_names, to_batch
from tcptrace.trace.writer import TraceWriter

ROWS = synthetic.connections(60)
EVENTS = synthetic.events(20, of=ROWS)
TURNS = synthetic.exchanges(30, of=ROWS, summed=0.2)
DATA = Path(__file__).resolve().parents[1] / "data"


def sealed_schema(header: object, schema: pa.Schema = SCHEMA) -> bytes:
    """A schema message as the writer makes it, around any header."""
    text = header if isinstance(header, str) else json.dumps(header)
    return bytes(frame.Encoder(schema.with_metadata({"tcptrace": text})).schema())


def sealed_batch(records: np.ndarray[Any, Any] | pa.RecordBatch, sequence: int = 1, **changes: str) -> bytes:
    """A batch message as the writer makes it, of any rows and metadata."""
    batch = records if isinstance(records, pa.RecordBatch) else to_batch(records)
    metadata = {
        "trace_id": synthetic.TRACE_ID,
        "sequence": str(sequence),
        "rows": "connection",
        "monotonic_ns": str(synthetic.STARTED_MONOTONIC_NS),
        "realtime_ns": str(synthetic.STARTED_REALTIME_NS),
    }
    schema = batch.schema.with_metadata({"tcptrace": "{}"})
    return bytes(frame.Encoder(schema).batch(batch, metadata | changes))


def written(tmp_path: Path, *messages: bytes) -> Path:
    path = tmp_path / "made.tct"
    path.write_bytes(b"".join(messages))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    losses = {"event_ring": 3, "exchange_ring": 2, "state": 0}
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS, EVENTS, TURNS, losses=losses)
    trace = reader.read(path)
    assert trace.path == path
    assert trace.header == synthetic.header()
    assert trace.trailer == synthetic.trailer(60, 20, losses, TURNS)
    assert trace.losses == losses
    assert (trace.clean_end, trace.truncated, trace.damaged, trace.complete) == (True, False, None, False)
    for table, records in ((trace.connections, ROWS), (trace.events, EVENTS), (trace.exchanges, TURNS)):
        assert table.equals(pa.Table.from_batches([to_batch(records)]).select(table.schema.names))
        assert not [name for name in table.schema.names if name.startswith("pad")]
    assert reader.read(str(path)).connections.equals(trace.connections)


KINDS = {"connection": range(1, 2), "event": range(2, 7), "exchange": range(7, 9)}


@st.composite
def pieces(draw: st.DrawFn) -> list[np.ndarray[Any, Any]]:
    """Runs of records of any type, in any order, of arbitrary bytes but for the kind."""
    found = []
    for name in draw(st.lists(st.sampled_from(list(ROWS_OF)), max_size=8)):
        dtype, count = ROWS_OF[name], draw(st.sampled_from([1, 2, 9, 70]))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        rows = np.frombuffer(random.bytes(count * dtype.itemsize), dtype).copy()
        rows["kind"] = draw(st.sampled_from(KINDS[name]))
        found.append(rows)
    return found


@given(pieces(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_records_of_all_types_come_back_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, parts: list[np.ndarray[Any, Any]], each_its_batch: bool
) -> None:
    path = tmp_path_factory.mktemp("mixed") / "a.tct"
    with TraceWriter(path, synthetic.header()) as writer:
        for part in parts:
            writer.add(part)
            if each_its_batch:
                writer.tick(float("inf"))
        writer.close(synthetic.trailer(0, 0))
    trace = reader.read(path)
    assert trace.complete
    for name, table in zip(ROWS_OF, (trace.connections, trace.events, trace.exchanges), strict=True):
        own = [part for part in parts if part.dtype == ROWS_OF[name]]
        expected = to_batch(np.concatenate(own)) if own else to_batch(np.zeros(0, ROWS_OF[name]))
        assert table.equals(pa.Table.from_batches([expected]).select(table.schema.names))


def test_zero_losses_are_complete(tmp_path: Path) -> None:
    assert reader.read(synthetic.write_trace(tmp_path / "a.tct", ROWS, losses={"state": 0})).complete


def test_rows_keep_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS, EVENTS, TURNS, batch_rows=7)
    trace = reader.read(path)
    assert trace.exchanges.column("started_ns").to_pylist() == TURNS["started_ns"].tolist()
    assert trace.connections.column("connection_id").to_pylist() == ROWS["connection_id"].tolist()
    assert trace.events.column("time_ns").to_pylist() == EVENTS["time_ns"].tolist()


def test_a_file_cut_anywhere_gives_the_batches_before_the_cut(tmp_path: Path) -> None:
    whole = synthetic.write_trace(tmp_path / "whole.tct", ROWS[:2], EVENTS[:1], batch_rows=1)
    data = whole.read_bytes()
    ends = message_ends(data)
    reference = reader.read(whole)
    path = tmp_path / "cut.tct"
    path.write_bytes(data)
    for size in range(len(data) - 1, -1, -1):
        os.truncate(path, size)
        if size < ends[0]:
            with pytest.raises(TraceError):
                reader.read(path)
            continue
        trace = reader.read(path)
        assert (trace.truncated, trace.damaged, trace.clean_end, trace.complete) == (True, None, False, False)
        batches = sum(end <= size for end in ends[1:])
        rows = min(batches, 2), min(max(0, batches - 2), 1)
        assert (trace.connections.num_rows, trace.events.num_rows) == rows
        assert (trace.trailer is not None) == (batches == len(ends) - 1)
        if size in ends or size + 1 in ends:
            assert trace.connections.equals(reference.connections.slice(0, rows[0]))
            assert trace.events.equals(reference.events.slice(0, rows[1]))


def message_ends(data: bytes) -> list[int]:
    """The positions at which the messages of a trace end, without the end mark."""
    with pa.BufferReader(data) as source:
        ends = []
        while True:
            try:
                pa.ipc.read_message(source)
            except EOFError:
                return ends
            ends.append(source.tell())


def test_a_recorder_killed_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "killed.tct"
    program = (
        "import os, sys, pathlib, synthetic; from tcptrace.trace.writer import TraceWriter\n"
        "w = TraceWriter(pathlib.Path(sys.argv[1]), synthetic.header())\n"
        "w.add(synthetic.connections(60)); w.tick(float('inf')); w.add(synthetic.events(20))\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert result.returncode == -9
    trace = reader.read(path)
    assert (trace.connections.num_rows, trace.events.num_rows) == (60, 0)
    assert trace.truncated
    assert not trace.complete


def test_an_end_mark_without_a_trailer_is_a_cut(tmp_path: Path) -> None:
    path = written(tmp_path, sealed_schema(synthetic.header()), sealed_batch(ROWS), frame.END_OF_STREAM)
    trace = reader.read(path)
    assert (trace.truncated, trace.clean_end, trace.connections.num_rows) == (True, False, 60)


def test_bytes_after_the_end_are_damage(tmp_path: Path) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS)
    path.write_bytes(path.read_bytes() + b"x")
    trace = reader.read(path)
    assert trace.damaged is not None
    assert "followed by other bytes" in trace.damaged
    assert (trace.connections.num_rows, trace.complete) == (60, False)


def test_a_recording_that_did_not_end_well_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.tct"
    with TraceWriter(path, synthetic.header()) as writer:
        writer.close(synthetic.trailer(0, 0, clean=False))
    trace = reader.read(path)
    assert (trace.clean_end, trace.truncated, trace.complete) == (False, False, False)


def plain_arrow(path: Path, metadata: dict[str, str] | None = None) -> None:
    schema = pa.schema([("kind", pa.int64())], metadata=metadata)
    with pa.ipc.new_stream(path, schema) as stream:
        stream.write_batch(pa.record_batch([[1, 2]], schema=schema))


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "elf": lambda path: path.write_bytes(Path(sys.executable).resolve().read_bytes()[:100_000]),
    "random": lambda path: path.write_bytes(np.random.default_rng(5).bytes(50_000)),
    "zeroes": lambda path: path.write_bytes(bytes(10_000)),
    "text": lambda path: path.write_text("not a trace\n" * 100),
    "end mark": lambda path: path.write_bytes(frame.END_OF_STREAM),
    "one byte of a mark": lambda path: path.write_bytes(b"\xff"),
    "huge metadata": lambda path: path.write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100)),
    "arrow": plain_arrow,
    "arrow, called ours": lambda path: plain_arrow(path, {"tcptrace": '{"format": "tcptrace"}'}),
    "arrow, with extensions": lambda path: plain_arrow(
        path, {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": "cos\nsystem\n"}
    ),
    "arrow, claiming a checksum": lambda path: plain_arrow(
        path, {"crc32": 'crc32="00000000"', "tcptrace": "{}"}
    ),
    "feather": lambda path: pa.feather.write_feather(pa.table({"a": [1]}), str(path)),
    "directory": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "pipe": os.mkfifo,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    import pyarrow.feather  # noqa: F401

    path = tmp_path / "file.tct"
    FOREIGN[kind](path)
    with pytest.raises(TraceError) as caught:
        reader.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_names_that_no_file_can_have_are_errors_too(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 300, "\udcff"):
        with pytest.raises(TraceError):
            reader.read(tmp_path / name)


def test_an_unreadable_file_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct")
    if os.geteuid() == 0:

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    else:
        path.chmod(0)
    with pytest.raises(TraceError, match=r"cannot read .*Permission denied"):
        reader.read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2, "tcptrace_version": "9.8"}, ["format version 2", "up to 1", "tcptrace 9.8"]),
        ({"wire_version": 77}, ["record version 77", f"up to {wire.WIRE_VERSION}"]),
        ({"format_version": "1"}, ["no format version"]),
        ({"format_version": 0}, ["no format version"]),
        ({"format_version": True}, ["no format version"]),
        ({"format": "other"}, ["not a trace"]),
        ({"trace_id": 5}, ["identity"]),
        ({"started": {}}, ["start time"]),
        ({"started": {"monotonic_ns": 1 << 70, "realtime_ns": 1}}, ["start time"]),
        ({"started": {"monotonic_ns": True, "realtime_ns": 1}}, ["start time"]),
    ],
)
def test_headers_of_other_versions_or_none(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    # A newer format may have other columns: its version is what the user must hear.
    schema = pa.schema([("other", pa.int8())]) if changes.get("format_version") == 2 else SCHEMA
    path = written(tmp_path, sealed_schema(synthetic.header(**changes), schema))
    with pytest.raises(TraceError) as caught:
        reader.read(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "9" * 5000, '{"format": "\\ud800"}'])
def test_a_header_that_is_no_object_is_foreign(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match="not a trace"):
        reader.read(written(tmp_path, sealed_schema(text)))


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([]),
        pa.schema([("kind", pa.int64())]),
        SCHEMA.set(3, pa.field(SCHEMA.names[3], pa.int32())),
        SCHEMA.set(3, pa.field("renamed", pa.int64())),
        SCHEMA.append(pa.field("more", pa.int64())),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, schema: pa.Schema) -> None:
    with pytest.raises(TraceError, match="columns"):
        reader.read(written(tmp_path, sealed_schema(synthetic.header(), schema)))


@pytest.mark.parametrize("version", range(1, wire.WIRE_VERSION + 1))
@pytest.mark.parametrize("other", range(1, wire.WIRE_VERSION + 1))
def test_a_version_comes_with_its_own_columns(tmp_path: Path, version: int, other: int) -> None:
    """A header that claims one version over the columns of another is a forgery, or damage."""
    header = synthetic.header(wire_version=version)
    path = written(tmp_path, sealed_schema(header, versions.schema(other)), frame.END_OF_STREAM)
    if other == version:
        assert reader.read(path).connections.num_rows == 0
    else:
        with pytest.raises(TraceError, match=f"columns are not those of record version {version}$"):
            reader.read(path)


def test_a_file_has_no_rows_that_its_version_did_not_know(tmp_path: Path) -> None:
    old = versions.schema(1)
    header = sealed_schema(synthetic.header(wire_version=1), old)
    batch = to_batch(ROWS).select(old.names)
    trace = reader.read(
        written(tmp_path, header, sealed_batch(batch), sealed_batch(batch, 2, rows="exchange"))
    )
    assert trace.damaged is not None
    assert "message 2" in trace.damaged
    assert "unknown type" in trace.damaged
    assert trace.connections.num_rows == len(ROWS)
    assert trace.exchanges.num_rows == 0


@pytest.mark.parametrize("batch_rows", [None, 7])
def test_a_file_of_version_1_reads_with_nulls(tmp_path: Path, batch_rows: int | None) -> None:
    old, step, rows = versions.schema(1), batch_rows or len(ROWS), ROWS.copy()
    for name in set(column_names(rows.dtype)) - set(old.names):
        rows[name] = -1
    pieces = [rows[start : start + step] for start in range(0, len(rows), step)]
    batches = [
        sealed_batch(to_batch(piece).select(old.names), number) for number, piece in enumerate(pieces, 1)
    ]
    path = written(tmp_path, sealed_schema(synthetic.header(wire_version=1), old), *batches)
    table = reader.read(path).connections
    table.validate(full=True)
    assert table.column("pipelined").null_count == len(rows)
    assert table.equals(pa.Table.from_batches([to_batch(rows)]).select(table.schema.names))


def second_message(message: bytes) -> tuple[bytes, ...]:
    return sealed_schema(synthetic.header()), sealed_batch(ROWS), message


WRONG_KIND = ROWS[:3].copy()
WRONG_KIND["kind"] = wire.Kind.DROP
WRONG_TURNS = TURNS[:3].copy()
WRONG_TURNS["kind"] = wire.Kind.SIGHTING
NULL_SIDE = to_batch(TURNS[:1])
NULL_SIDE = NULL_SIDE.set_column(NULL_SIDE.schema.names.index("side"), "side", pa.array([None], pa.int64()))
NULL_KIND = to_batch(ROWS[:2]).set_column(0, "kind", pa.array([1, None], pa.int64()))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (sealed_batch(ROWS, 3), "out of order"),
        (sealed_batch(ROWS, 1), "out of order"),
        (sealed_batch(ROWS, 2, trace_id="f" * 32), "another recording"),
        (sealed_batch(ROWS, 2, rows="other"), "unknown type"),
        (sealed_batch(ROWS, 2, rows="trailer"), "unknown type"),
        (sealed_batch(ROWS, 2, rows="event"), "always known"),
        (sealed_batch(EVENTS, 2), "always known"),
        (sealed_batch(WRONG_KIND, 2), "another type"),
        (sealed_batch(TURNS, 2), "always known"),
        (sealed_batch(ROWS, 2, rows="exchange"), "always known"),
        (sealed_batch(EVENTS, 2, rows="exchange"), "always known"),
        (sealed_batch(WRONG_TURNS, 2, rows="exchange"), "another type"),
        (sealed_batch(NULL_SIDE, 2, rows="exchange"), "always known"),
        (sealed_batch(ROWS[:0], 2), "number of rows"),
        (sealed_batch(NULL_KIND, 2), "always known"),
        (sealed_batch(ROWS, 2, monotonic_ns="x"), "clock"),
        (sealed_batch(ROWS, 2, realtime_ns="9" * 30), "clock"),
        (sealed_batch(ROWS[:0], 2, rows="trailer"), "JSON"),
        (sealed_batch(ROWS[:0], 2, rows="trailer", trailer="{}"), "losses"),
        (sealed_batch(ROWS[:0], 2, rows="trailer", trailer='{"losses": {"a": -1}}'), "losses"),
        (sealed_batch(ROWS[:0], 2, rows="trailer", trailer='{"losses": {}}'), "how the recording ended"),
        (sealed_batch(ROWS[:0], 2, rows="trailer", trailer='{"losses": {}, "clean": true}'), "clock"),
        (sealed_batch(pa.record_batch({"kind": [1] * 9}), 2), "decoded"),
        (sealed_schema(synthetic.header()), "no batch"),
        (b"garbage!", "not a message"),
        (b"\xff\xff\xff\xff" + bytes.fromhex("f0ffff7f"), "impossible length"),
    ],
)
def test_a_message_that_does_not_belong_ends_the_reading(tmp_path: Path, message: bytes, words: str) -> None:
    trace = reader.read(written(tmp_path, *second_message(message)))
    assert trace.damaged is not None
    assert words in trace.damaged
    assert "message 2, at byte" in trace.damaged
    assert trace.connections.num_rows == 60
    assert not trace.complete


def test_damage_before_the_first_batch_is_an_error(tmp_path: Path) -> None:
    for message in (b"garbage!", sealed_batch(ROWS, 1, trace_id="f" * 32)):
        with pytest.raises(TraceError, match="damaged before its first rows"):
            reader.read(written(tmp_path, sealed_schema(synthetic.header()), message))


def test_what_would_fill_the_memory_is_not_decoded(tmp_path: Path) -> None:
    message = bytearray(sealed_batch(ROWS, 1))
    body = len(message) - pa.ipc.read_message(bytes(message)).body.size
    message[body : body + 8] = (1 << 40).to_bytes(8, "little")
    start = message.index(b'crc32="') + 7
    message[start : start + 8] = b"0" * 8
    frame.seal(message)
    with pytest.raises(TraceError, match="too large"):
        reader.read(written(tmp_path, sealed_schema(synthetic.header()), bytes(message)))


def test_wall_time_follows_the_clock_pairs(tmp_path: Path) -> None:
    trace = reader.read(synthetic.write_trace(tmp_path / "a.tct", ROWS, EVENTS, batch_rows=10))
    start, wall = synthetic.STARTED_MONOTONIC_NS, synthetic.STARTED_REALTIME_NS
    times = np.array([start - 5, start, start + 30 * 10**9, start + 60 * 10**9, start + 70 * 10**9], np.int64)
    expected = [-5, 0, 30 * 10**9 + 12_500, 60 * 10**9 + 25_000, 70 * 10**9 + 25_000]
    assert (trace.to_wall_ns(times) - wall).tolist() == expected
    assert trace.clocks == sorted(trace.clocks)
    assert trace.to_wall_ns(np.array([], np.int64)).tolist() == []


def test_a_stepped_clock_keeps_each_pair(tmp_path: Path) -> None:
    pairs = iter([(2000, 5_000_000), (1000, 900)])
    with TraceWriter(
        tmp_path / "a.tct",
        synthetic.header(started={"monotonic_ns": 500, "realtime_ns": 1_000}),
        clock=lambda: next(pairs),
    ) as writer:
        writer.add(ROWS)
        writer.tick(float("inf"))
        writer.add(EVENTS)
        writer.tick(float("inf"))
    trace = reader.read(tmp_path / "a.tct")
    assert trace.clocks == [(500, 1_000), (1000, 900), (2000, 5_000_000)]
    assert trace.to_wall_ns(np.array([500, 1000, 2000])).tolist() == [1_000, 900, 5_000_000]


def test_thousands_of_small_batches_become_one_chunk(tmp_path: Path) -> None:
    trace = reader.read(synthetic.write_trace(tmp_path / "a.tct", synthetic.connections(600), batch_rows=1))
    assert trace.connections.column(0).num_chunks == 1
    assert trace.connections.num_rows == 600


def test_reading_100_000_rows_is_quick_and_small(tmp_path: Path) -> None:
    rows = synthetic.connections(100_000)
    path = synthetic.write_trace(tmp_path / "a.tct", rows, synthetic.events(5000, of=rows))
    program = (
        "import re, sys, time; from tcptrace.trace import reader\n"
        "t = time.perf_counter(); trace = reader.read(sys.argv[1]); t = time.perf_counter() - t\n"
        "assert trace.complete and trace.connections.num_rows == 100_000\n"
        # not ru_maxrss: that of the parent survives fork and exec
        "print(t, int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, result.stdout.split())
    assert seconds < 1
    assert megabytes < 200
