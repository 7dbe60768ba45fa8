"""A trace of each format version, kept as it was written, still says the same.

`python tests/unit/test_formats.py` writes the files of the present version anew: only until it is released.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from tcptrace.trace import FORMAT_VERSION, reader
from tcptrace.trace.wire import CloseReason

DATA = Path(__file__).resolve().parents[1] / "data"
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
        "losses": trace.losses,
        "trailer": trace.trailer,
        "clean_end": trace.clean_end,
        "truncated": trace.truncated,
        "damaged": trace.damaged,
        "clocks": [list(pair) for pair in trace.clocks],
    }


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_the_trace_of_each_version_reads_as_ever(version: int) -> None:
    expected = json.loads((DATA / f"v{version}.json").read_text())
    assert contents(DATA / f"v{version}.tct") == expected
    assert expected["connections"]["kind"] and expected["events"]["kind"]


def make() -> None:
    """Both files of the present version: two rows of each close reason and events of each kind."""
    path = DATA / f"v{FORMAT_VERSION}.tct"
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
