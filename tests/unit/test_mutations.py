"""Whatever happens to a file, the reader refuses it, says what is missing, or returns its rows."""

import json
import random
import re
import resource
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from synthetic import Records
from test_reader import message_ends, sealed_schema

from tcptrace.cli import run
from tcptrace.errors import TraceError
from tcptrace.trace import frame, reader
from tcptrace.trace.reader import Trace

MUTATIONS = 200
SECONDS = 10
BYTES = 1 << 30


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Two recordings of the same shape on the same host."""
    folder = tmp_path_factory.mktemp("traces")
    found = []
    for seed, trace_id in ((1, "1" * 32), (2, "2" * 32)):
        rows = synthetic.connections(400, seed)
        path = synthetic.write_trace(
            folder / f"{seed}.tct",
            rows,
            synthetic.events(60, seed, of=rows),
            synthetic.exchanges(300, seed, of=rows, summed=0.1),
            header_changes={"trace_id": trace_id},
            batch_rows=50 if seed == 1 else 5,
        )
        found.append(path.read_bytes())
    return found[0], found[1]


def split(data: bytes) -> list[bytes]:
    """The messages of a trace, the end mark the last."""
    ends = [0, *message_ends(data), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def mutate(seed: int, one: bytes, other: bytes) -> tuple[str, bytes]:
    """A name for what was done, and the result."""
    chance = random.Random(seed)
    kind = ["flip", "flips", "cut", "hole", "splice", "shuffle", "overwrite", "version"][seed % 8]
    data = bytearray(one)
    place = chance.randrange(len(data))
    messages, others = split(one), split(other)
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif kind == "flips":
        for _ in range(chance.randrange(2, 40)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "hole":
        del data[place : place + chance.randrange(1, 300)]
    elif kind == "splice":
        at, source = chance.randrange(len(messages)), chance.randrange(len(others))
        messages[at : at + chance.randrange(2)] = [others[source]]
        data = bytearray(b"".join(messages))
    elif kind == "shuffle":
        at, to = chance.sample(range(len(messages)), 2)
        messages[at], messages[to] = messages[to], messages[at]
        if chance.random() < 0.5:
            del messages[chance.randrange(len(messages))]
        data = bytearray(b"".join(messages))
    elif kind == "overwrite":
        data[place : place + 64] = chance.choice([bytes(64), b"\xff" * 64, chance.randbytes(64)])
    else:
        header = synthetic.header(trace_id="1" * 32)
        key = chance.choice(["format_version", "wire_version"])
        other_versions = {*range(-1, header[key] + 2)} - {header[key]}
        header[key] = chance.choice([*other_versions, 99, 1 << 40, "1", None, 1.0])
        data = bytearray(b"".join([sealed_schema(header), *messages[1:]]))
    return kind, bytes(data)


def outcome(path: Path) -> Trace | TraceError:
    """What reading does, within the bounds of time and memory; any other exception fails the test."""
    resource_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        return reader.read(path)
    except TraceError as error:
        assert "\n" not in str(error)
        return error
    finally:
        assert time.monotonic() - start < SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resource_before) * 1024 < BYTES


def tables(trace: Trace) -> tuple[pa.Table, pa.Table, pa.Table]:
    return trace.connections, trace.events, trace.exchanges


def is_prefix(part: pa.Table, whole: pa.Table) -> bool:
    return bool(part.equals(whole.slice(0, part.num_rows)))


def judge(found: Trace | TraceError, whole: Trace) -> str:
    """Exit code 4, 5 or identical; fails on a wrong row."""
    if isinstance(found, TraceError):
        return "4"
    for part, rows in zip(tables(found), tables(whole), strict=True):
        assert is_prefix(part, rows)
        assert not found.complete or part.num_rows == rows.num_rows
    if found.complete:
        assert found.header == whole.header
        assert found.trailer == whole.trailer
        return "0"
    assert found.truncated or found.damaged
    return "5"


@pytest.fixture(scope="module")
def whole(traces: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trace]:
    path = tmp_path_factory.mktemp("whole") / "whole.tct"
    path.write_bytes(traces[0])
    trace = reader.read(path)
    assert trace.complete
    assert all(table.num_rows for table in tables(trace))
    yield trace


def test_200_seeded_mutations(tmp_path: Path, traces: tuple[bytes, bytes], whole: Trace) -> None:
    seen: dict[str, set[str]] = {}
    path = tmp_path / "mutated.tct"
    for seed in range(MUTATIONS):
        kind, data = mutate(seed, *traces)
        path.write_bytes(data)
        try:
            code = judge(outcome(path), whole)
        except BaseException:
            print(json.dumps({"seed": seed, "kind": kind}))
            raise
        assert code != "0" or data == traces[0], (seed, kind)
        seen.setdefault(kind, set()).add(code)
    assert seen.keys() == {"flip", "flips", "cut", "hole", "splice", "shuffle", "overwrite", "version"}
    assert seen["version"] == {"4"}
    assert {"4", "5"} <= set().union(*seen.values())


def test_every_bit_of_the_frame_of_a_message_counts(
    tmp_path: Path, traces: tuple[bytes, bytes], whole: Trace
) -> None:
    """Prefix, metadata and end mark: where a flip changes what the bytes mean, not what they hold."""
    data = traces[0]
    ends = message_ends(data)
    path = tmp_path / "flipped.tct"
    chance = random.Random(7)
    places = {*range(8), *range(ends[0], ends[0] + 64), *range(ends[-1], len(data))}
    places |= {chance.randrange(ends[0], ends[1]) for _ in range(150)}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert judge(outcome(path), whole) in "45", place


def test_damage_under_a_valid_checksum_raises_nothing_else(
    tmp_path: Path, traces: tuple[bytes, bytes]
) -> None:
    """A forged file: rows may be anything, but no other exception, no crash, no flood of memory."""
    messages = split(traces[0])
    path = tmp_path / "forged.tct"
    for seed in range(300):
        chance = random.Random(seed)
        at = chance.choice([0, chance.randrange(1, len(messages) - 2), len(messages) - 2])
        message = bytearray(messages[at])
        metadata = 8 + int.from_bytes(message[4:8], "little")
        for _ in range(chance.choice([1, 1, 2, 5])):
            message[chance.randrange(8, metadata)] ^= 1 << chance.randrange(8)
        checksum = re.search(rb'crc32="[0-9a-f]{8}"', message)
        if checksum is None:
            continue
        message[slice(*checksum.span())] = frame.CRC_PLACEHOLDER
        frame.seal(message)
        path.write_bytes(b"".join([*messages[:at], message, *messages[at + 1 :]]))
        outcome(path)


TABLES = ("connections", "exchanges")


@pytest.mark.parametrize("command", ["info", "summary", *TABLES])
def test_commands_pass_the_verdict_on(
    tmp_path: Path, traces: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "mutated.tct"
    for seed in range(0, MUTATIONS, 5):
        _, data = mutate(seed, *traces)
        path.write_bytes(data)
        found = outcome(path)
        expected = 4 if isinstance(found, TraceError) else 0 if found.complete else 5
        form = ["--format", "ndjson"] if command in TABLES else ["--json"]
        assert run([command, str(path), *form]) == expected, seed
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert bool(err) == (expected != 0)
        empty = command in TABLES and expected != 4 and not getattr(found, command).num_rows
        assert bool(out) == (expected != 4 and not empty)


def forged(rows: Records, seed: int) -> Records:
    """Any value anywhere but in the kind, as no kernel writes it."""
    random = np.random.default_rng(seed)
    for name in set(rows.dtype.names or ()) - {"kind"}:
        kind = rows.dtype[name]
        if kind.kind in "iu" and random.random() < 0.4:
            top, low = np.iinfo(kind).max, np.iinfo(kind).min
            extremes = np.array([0, 1, top, top // 2, low, -1 if kind.kind == "i" else 0], kind)
            which = random.random(len(rows)) < 0.3
            rows[name][which] = extremes[random.integers(0, len(extremes), which.sum())]
    return rows


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("command", ["info", "summary", *TABLES])
def test_values_of_any_size_cost_no_command_its_footing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "forged.tct"
    for seed in range(8):
        rows = forged(synthetic.connections(60, seed), seed)
        turns = synthetic.exchanges(200, seed, of=rows, summed=0.1)
        synthetic.write_trace(path, rows, forged(synthetic.events(40), seed), forged(turns, seed))
        assert run([command, str(path)]) == 0, seed
        path.unlink()
        out, err = capsys.readouterr()
        assert out
        assert "Traceback" not in err
