"""A trace of each wire version, kept as it was written, still says the same.

`python tests/unit/test_formats.py` writes the files of the present version anew: only until it is released.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from tcptrace.trace import reader, versions, wire
from tcptrace.trace.batch import ROWS, column_names
from tcptrace.trace.wire import CloseReason

DATA = Path(__file__).resolve().parents[1] / "data"
TABLES = ("connections", "events", "exchanges")
LOSSES = {"connection_ring": 2, "recursion.set_state": 1}


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


@pytest.mark.parametrize("version", range(1, wire.WIRE_VERSION))
def test_the_trace_of_each_version_reads_as_ever(version: int) -> None:
    """What a later version added is null; the rest is what was written."""
    expected = json.loads((DATA / f"v{version}.json").read_text())
    found = contents(DATA / f"v{version}.tct")
    for rows, table in zip(ROWS, TABLES, strict=True):
        written, present = expected.pop(table, {}), found.pop(table)
        assert bool(written) == (rows in versions.row_types(version))
        assert list(present) == list(column_names(ROWS[rows]))
        assert {name: present[name] for name in written} == written
        assert {value for name in present.keys() - written for value in present[name]} <= {None}
    assert found == expected


def make() -> None:
    """Both files of the present version: two rows of each close reason and events of each kind."""
    path = DATA / f"v{wire.WIRE_VERSION}.tct"
    rows, events = synthetic.connections(2000), synthetic.events(200, of=synthetic.connections(2000))
    picks = [np.flatnonzero(rows["close_reason"] == reason)[:2] for reason in CloseReason]
    seeded = np.flatnonzero(rows["flags"])[:1]
    rows = rows[np.unique(np.concatenate([*picks, seeded]))]
    events = events[
        np.unique(np.concatenate([np.flatnonzero(events["kind"] == kind)[:2] for kind in range(2, 6)]))
    ]
    path.unlink(missing_ok=True)
    synthetic.write_trace(path, rows, events, losses=LOSSES)
    path.chmod(0o644)
    text = json.dumps(contents(path), indent=1)
    path.with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    make()
