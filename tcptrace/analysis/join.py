"""Several recordings as one: connections and turns whose two ends were recorded on different hosts.

Ends are joined by addresses, ports and both initial sequence numbers; where addresses were translated, or a
sequence number is not known, they are not. Wall clocks may differ by any amount: the difference is estimated
from what both ends saw (analysis.clocks), and moments are given on the time line of the first recording. The
network's share needs no clock: it is the difference of two durations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from tcptrace.analysis.clocks import Clock, Comparisons, clocks
from tcptrace.analysis.columns import Ints, Nullable, at, int_array, nullable, plain, positions, text_equals
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import sum_rows, turn_rows
from tcptrace.analysis.pairs import TOLERANCE_NS, other_ends, other_turns
from tcptrace.analysis.rtt import clean_samples, handshakes
from tcptrace.analysis.turns import RAW_STAGES, Turns, raw_turns
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind, Side

# How much faster one host's clock may be: more than crystals and time servers make of it.
_DRIFT = 500e-6

# Ids beyond are no recording's; they stay apart only if nobody forged them.
_LARGEST_ID = 1 << 48

_AFTER_WIRE = ("kernel_rx_ns", "wakeup_ns", "app_late_ns", "transfer_ns")
_BEFORE_WIRE = tuple(stage for stage in RAW_STAGES if stage not in ("wire_ns", *_AFTER_WIRE))


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

    ends = other_ends(rows, clock=trace_of)
    across = np.where((ends >= 0) & (trace_of[ends] != trace_of), ends, -1)
    found = clocks(len(traces), _comparisons(rows, trace_of, across, singles))
    rows = _on_one_time_line(rows, trace_of, found)
    for turns in (singles, summed):
        turns.columns["started_ns"] = _shifted(turns["started_ns"], turns["trace"].values, found)
    singles, summed = singles.ordered(), summed.ordered()

    reference = np.array([clock.reference for clock in found])[trace_of]
    comparable = np.where((ends >= 0) & (reference[ends] == reference), ends, -1)
    tolerance_ns = TOLERANCE_NS + max(clock.uncertainty_ns for clock in found)
    exchanges = turn_rows(singles, rows, samples, comparable, tolerance_ns)
    exchanges = _labelled(exchanges, singles["trace"].values, step)
    known = nullable(rows, "snd_isn").known & nullable(rows, "rcv_isn").known
    rows = _labelled(rows, trace_of, step)
    peers = Nullable(np.where(ends >= 0, ids[ends], 0), ends >= 0)
    started = nullable(rows, "started_ns")
    return Joined(
        connections=rows.append_column("peer_connection_id", peers.array()).take(
            int_array(np.lexsort((ids, started.values, started.known)))
        ),
        exchanges=exchanges,
        sums=_labelled(sum_rows(summed, singles, rows, samples), summed["trace"].values, step),
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


def _comparisons(rows: pa.Table, trace: Ints, across: Ints, turns: Turns) -> Comparisons:
    """What handshakes and turns with ends in two recordings tell about their clocks.

    across: per connection the row of its end in another recording, -1 for none. A handshake is certain to be
    the same one. A turn is, when it was as long after the handshake at both ends, drift granted.
    """
    start = _handshakes(rows)
    asked = np.flatnonzero((across >= 0) & start.known & text_equals(rows["role"], "active"))
    asked = asked[start.known[across[asked]]]
    answered = across[asked]
    shaken = Comparisons(
        here=trace[asked],
        there=trace[answered],
        here_ns=start.values[asked],
        there_ns=start.values[answered],
        error_ns=plain(rows, "handshake_ns")[asked] // 2,
    )
    of = positions(plain(rows, "connection_id"), turns["connection_id"].values)
    first, begun = at(start, of), turns["started_ns"]
    usable = first.known & begun.known
    since = Nullable(np.where(usable, begun.values - first.values, 0), usable)
    tolerance = TOLERANCE_NS + (np.abs(since.values) * _DRIFT).astype(np.int64)
    other = other_turns(turns, of, across, since, tolerance)
    return _appended(shaken, _turn_comparisons(turns, other))


def _handshakes(rows: pa.Table) -> Nullable:
    """A moment of each connection that is the same at both ends up to half of its round trip: when the
    SYN-ACK left, or the middle of the active end's handshake. Null where it was repeated or is not exact."""
    started, handshake = nullable(rows, "started_ns"), handshakes(rows)
    active, passive = text_equals(rows["role"], "active"), text_equals(rows["role"], "passive")
    once = plain(rows, "synack_retransmits") == 0
    middle = started.values + np.where(active, handshake.values // 2, 0)
    return Nullable(middle, started.known & ((passive & once) | (active & handshake.known)))


def _turn_comparisons(turns: Turns, other: Ints) -> Comparisons:
    """The middle of a client's wire time and that of its server's turn."""
    stages = {name: np.where(turns[name].known, turns[name].values, 0) for name in RAW_STAGES}
    slack = turns["total_ns"].values - np.sum(list(stages.values()), axis=0)
    loss, residence = turns["loss_recovery_ns"], turns["residence_ns"]
    here = (other >= 0) & (turns["side"].values == Side.CLIENT) & turns["wire_ns"].known
    here &= loss.known & (loss.values == 0) & residence.known[other]
    client = np.flatnonzero(here)
    server = other[client]
    wire = stages["wire_ns"][client]
    before = np.sum([stages[name][client] for name in _BEFORE_WIRE], axis=0)
    total = turns["total_ns"].values[server]
    away = np.maximum(wire - residence.values[server], 0)
    return Comparisons(
        here=turns["trace"].values[client],
        there=turns["trace"].values[server],
        here_ns=turns["started_ns"].values[client] + before + (slack[client] + wire) // 2,
        there_ns=turns["started_ns"].values[server] + total // 2,
        error_ns=(away + slack[client] + total - residence.values[server]) // 2,
    )


def _appended(one: Comparisons, two: Comparisons) -> Comparisons:
    return Comparisons(
        *(
            np.concatenate([getattr(part, column.name) for part in (one, two)])
            for column in fields(Comparisons)
        )
    )
