"""A trace of each wire version, kept as it was written, still says the same.

`python tests/unit/test_formats.py RECORDING` makes the files of the present version, only until it is
released: a recording, with what it says of its host replaced. That of version 1 is synthetic.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import synthetic

from tcptrace.trace import frame, reader, versions, wire
from tcptrace.trace.batch import ROWS, SCHEMA, column_names
from tcptrace.trace.writer import HEADER_KEY

DATA = Path(__file__).resolve().parents[1] / "data"
TABLES = ("connections", "events", "exchanges")


def contents(path: Path) -> dict[str, Any]:
    """All that a reader learns from a trace, as JSON; bytes in hexadecimal."""
    trace = reader.read(path)

    def columns(table: pa.Table) -> dict[str, list[Any]]:
        return {
            name: [value.hex() if isinstance(value, bytes) else value for value in values]
            for name, values in table.to_pydict().items()
        }

    return {
        "header": trace.header,
        "connections": columns(trace.connections),
        "events": columns(trace.events),
        "exchanges": columns(trace.exchanges),
        "losses": trace.losses,
        "trailer": trace.trailer,
        "clean_end": trace.clean_end,
        "truncated": trace.truncated,
        "damaged": trace.damaged,
        "clocks": [list(pair) for pair in trace.clocks],
    }


@pytest.mark.parametrize("version", range(1, wire.WIRE_VERSION + 1))
def test_the_trace_of_each_version_reads_as_ever(version: int) -> None:
    """What a later version added is null; the rest is what was written."""
    expected = json.loads((DATA / f"v{version}.json").read_text())
    found = contents(DATA / f"v{version}.tct")
    for rows, table in zip(ROWS, TABLES, strict=True):
        written, present = expected.pop(table, {}), found.pop(table)
        assert any(map(len, written.values())) == (rows in versions.row_types(version))
        assert list(present) == list(column_names(ROWS[rows]))
        assert {name: present[name] for name in written} == written
        assert {value for name in present.keys() - written for value in present[name]} <= {None}
    assert found == expected


def test_the_trace_of_version_2_has_rows_and_sums() -> None:
    expected = json.loads((DATA / "v2.json").read_text())["exchanges"]
    assert set(expected["kind"]) == {wire.Kind.EXCHANGE, wire.Kind.EXCHANGES}
    assert set(expected["side"]) == {wire.Side.CLIENT, wire.Side.SERVER}
    assert max(expected["nagle_ns"]) > 30_000_000
    assert {wire.ExchangeFlag.DELAYED_ACK, 0} <= set(expected["flags"])


HOST = ("trace_id", "hostname", "boot_id", "kernel", "command_line", "nics", "namespaces")


def make(recording: Path) -> None:
    """Both files of the present version: batches as they were recorded, under a host's header of ours."""
    path = DATA / f"v{wire.WIRE_VERSION}.tct"
    header = reader.read(recording).header | {name: synthetic.header()[name] for name in HOST}
    encoder = frame.Encoder(SCHEMA.with_metadata({HEADER_KEY: json.dumps(header)}))
    with recording.open("rb") as old, path.open("wb") as new:
        schema = frame.read_message(old)
        assert schema
        new.write(encoder.schema())
        while (message := frame.read_message(old)) is not None:
            texts = {key.decode(): text.decode() for key, text in frame.metadata_of(message).items()}
            texts["trace_id"] = header["trace_id"]
            del texts[frame.CRC_KEY]
            new.write(encoder.batch(frame.decode(schema, message), texts))
        new.write(frame.END_OF_STREAM)
    path.with_suffix(".json").write_text(json.dumps(contents(path), indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
