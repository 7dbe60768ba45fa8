"""The raw exchange records of a trace as numpy columns, cleared of what no recording can have measured.

A trace may be forged: a duration that is negative or longer than its turn is unknown, and so is every stage
of a turn whose stages are more than its total. A turn without a total has no stage.
"""

from dataclasses import dataclass

import numpy as np

from tcptrace.analysis.columns import Nullable, bool_array, nullable, plain
from tcptrace.analysis.rtt import LONGEST_NS
from tcptrace.analysis.stages import STAGES
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind

# As records have them: wire_ns is what network_ns and peer_ns split.
RAW_STAGES = (*(stage for stage in STAGES if stage not in ("network_ns", "peer_ns")), "wire_ns")
_COUNTS = (
    "seq",
    "request_bytes",
    "response_bytes",
    "writes",
    "reads",
    "retransmits",
    "summed",
    "request_end",
)


@dataclass
class Turns:
    """Records as columns by name; started_ns is wall clock, and a value is 0 where it is not known."""

    columns: dict[str, Nullable]

    def __len__(self) -> int:
        return len(self.columns["connection_id"].values)

    def __getitem__(self, name: str) -> Nullable:
        return self.columns[name]

    def ordered(self) -> "Turns":
        """Itself, put in order: by start, unknown ones first."""
        keys = [self.columns[name].values for name in ("side", "seq", "connection_id", "started_ns")]
        order = np.lexsort((*keys, self.columns["started_ns"].known))
        for column in self.columns.values():  # one after the other: a million turns are 250 MB
            column.values, column.known = column.values[order], column.known[order]
        return self


def raw_turns(trace: Trace, kind: Kind) -> Turns:
    """The exchange records of one kind, in the order of the file."""
    records = trace.exchanges
    of_kind = plain(records, "kind") == kind
    if not of_kind.all():
        records = records.filter(bool_array(of_kind))
    columns = {name: nullable(records, name) for name in records.schema.names}
    started = columns["started_ns"]
    started.known &= (started.values >= 0) & (started.values < 1 << 62)
    _clear(columns)
    started.values = np.where(started.known, trace.to_wall_ns(started.values), 0)
    return Turns(columns)


def _clear(columns: dict[str, Nullable]) -> None:
    """Forgets what cannot be."""
    total = columns["total_ns"]
    total.known &= (total.values >= 0) & (total.values <= LONGEST_NS)
    limit = np.where(total.known, total.values, -1)
    spent = np.zeros(len(limit), np.int64)
    for name in RAW_STAGES:
        stage = columns[name]
        stage.known &= (stage.values >= 0) & (stage.values <= limit)
        spent += np.where(stage.known, stage.values, 0)
    for name in RAW_STAGES:
        columns[name].forget(spent > limit)
    columns["residence_ns"].forget(columns["residence_ns"].values > limit)
    columns["release_ns"].forget(columns["release_ns"].values > LONGEST_NS)
    for name in ("residence_ns", "release_ns", *_COUNTS):
        columns[name].forget(columns[name].values < 0)
    for column in columns.values():
        column.values = np.where(column.known, column.values, 0)
