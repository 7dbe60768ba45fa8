"""Several recordings as one: connections and turns whose two ends were recorded on different hosts.

Ends are joined by addresses, ports and both initial sequence numbers; where addresses were translated, or a
sequence number is not known, they are not. Wall clocks may differ by any amount: the difference is estimated
from what both ends saw (analysis.clocks), and moments are given on the time line of the first recording. The
network's share needs no clock: it is the difference of two durations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tcptrace.analysis.clocks import Clock, clocks
from tcptrace.analysis.columns import Ints, Nullable, int_array, nullable, plain
from tcptrace.analysis.comparisons import comparisons
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import paired, sum_rows, turn_rows
from tcptrace.analysis.pairs import TOLERANCE_NS, other_ends, rough_isns
from tcptrace.analysis.rtt import clean_samples
from tcptrace.analysis.turns import Turns, raw_turns
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind

# Ids beyond are no recording's; they stay apart only if nobody forged them.
_LARGEST_ID = 1 << 48


@dataclass(frozen=True)
class Joined:
    """The tables of several recordings as one each.

    They have the columns of one recording's tables, with ids that are unique in all, then `trace`, the number
    of the recording from 0, and `trace_connection_id`, the id in it; `connections` also has
    `peer_connection_id`. Moments are on the time line of the recording clocks[trace].reference. pairs:
    connections whose ends are in different recordings; turns: turns of which both ends are. without_isn: ends
    that could not be looked for, a sequence number not being known; unmatched: others that have no other end.
    """

    connections: pa.Table
    exchanges: pa.Table
    sums: pa.Table
    clocks: list[Clock]
    pairs: int
    turns: int
    without_isn: int
    unmatched: int


def join(traces: Sequence[Trace]) -> Joined:
    """Joins one or more recordings."""
    tables = [connections(trace) for trace in traces]
    step = _step(traces)
    rows = pa.concat_tables(tables).combine_chunks()
    trace_of = np.repeat(np.arange(len(traces)), [table.num_rows for table in tables])
    ids = plain(rows, "connection_id") + trace_of * step
    rows = rows.set_column(0, "connection_id", int_array(ids))
    samples = _joined([clean_samples(trace, table) for trace, table in zip(traces, tables, strict=True)])
    singles, summed = (_turns(traces, kind, step) for kind in (Kind.EXCHANGE, Kind.EXCHANGES))

    rough = _joined([rough_isns(trace, table) for trace, table in zip(traces, tables, strict=True)])
    ends = other_ends(rows, rough, trace_of)
    across = np.where((ends >= 0) & (trace_of[ends] != trace_of), ends, -1)
    found = clocks(len(traces), comparisons(rows, trace_of, across, singles))
    rows = _on_one_time_line(rows, trace_of, found)
    for turns in (singles, summed):
        turns.columns["started_ns"] = _shifted(turns["started_ns"], turns["trace"].values, found)
    singles, summed = singles.ordered(), summed.ordered()

    reference = np.array([clock.reference for clock in found])[trace_of]
    comparable = np.where((ends >= 0) & (reference[ends] == reference), ends, -1)
    tolerance_ns = TOLERANCE_NS + max(clock.uncertainty_ns for clock in found)
    pairs = paired(singles, rows, samples, comparable, tolerance_ns)
    exchanges = _labelled(turn_rows(pairs), singles["trace"].values, step)
    known = (nullable(rows, "snd_isn").known | rough.known) & nullable(rows, "rcv_isn").known
    rows = _labelled(rows, trace_of, step)
    peers = Nullable(np.where(ends >= 0, ids[ends], 0), ends >= 0)
    started = nullable(rows, "started_ns")
    return Joined(
        connections=rows.append_column("peer_connection_id", peers.array()).take(
            int_array(np.lexsort((ids, started.values, started.known)))
        ),
        exchanges=exchanges,
        sums=_labelled(sum_rows(summed, pairs), summed["trace"].values, step),
        clocks=found,
        pairs=int((across >= 0).sum()) // 2,
        turns=_turns_across(exchanges, step),
        without_isn=int((~known & (ends < 0)).sum()),
        unmatched=int((known & (ends < 0)).sum()),
    )


def _step(traces: Sequence[Trace]) -> int:
    """How far the ids of one recording are moved from those of the last: a power of ten, easy to see."""
    largest = 0
    for table in (table for trace in traces for table in (trace.connections, trace.exchanges)):
        ids = plain(table, "connection_id")
        largest = max(largest, int(ids[(ids >= 0) & (ids < _LARGEST_ID)].max(initial=0)))
    return int(10 ** len(str(largest)))


def _turns(traces: Sequence[Trace], kind: Kind, step: int) -> Turns:
    """The turns of all recordings, with their unique connection ids and a column `trace`."""
    parts = [raw_turns(trace, kind) for trace in traces]
    number = np.repeat(np.arange(len(traces)), [len(part) for part in parts])
    made = {name: _joined([part.columns.pop(name) for part in parts]) for name in list(parts[0].columns)}
    made["trace"] = Nullable(number, np.ones(len(number), np.bool_))
    made["connection_id"].values += number * step
    return Turns(made)


def _joined(parts: Sequence[Nullable]) -> Nullable:
    return Nullable(
        np.concatenate([part.values for part in parts]), np.concatenate([part.known for part in parts])
    )


def _labelled(table: pa.Table, trace: Ints, step: int) -> pa.Table:
    own = plain(table, "connection_id") - trace * step
    return table.append_column("trace", int_array(trace)).append_column("trace_connection_id", int_array(own))


def _turns_across(exchanges: pa.Table, step: int) -> int:
    peer = nullable(exchanges, "peer_connection_id")
    trace = plain(exchanges, "trace")
    return int((peer.known & (peer.values // step != trace)).sum()) // 2


def _shifted(instant: Nullable, trace: Ints, found: Sequence[Clock]) -> Nullable:
    """Wall clock of each recording as that of its reference."""
    values = instant.values.copy()
    for number, clock in enumerate(found):
        own = trace == number
        values[own] = clock.shifted(values[own])
    return Nullable(np.where(instant.known, values, 0), instant.known)


def _on_one_time_line(rows: pa.Table, trace: Ints, found: Sequence[Clock]) -> pa.Table:
    for name in ("started_ns", "ended_ns"):
        shifted = _shifted(nullable(rows, name), trace, found).array()
        rows = rows.set_column(rows.schema.get_field_index(name), name, shifted)
    return rows
