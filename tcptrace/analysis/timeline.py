"""The time line of one exchange: where in it each stage lies, at one end or at both.

Within a link of the chain the order of stages is a convention: several causes can hold the same byte in
turns, and only the sum of each is recorded. Time that no stage explains is put at the end, so starts are the
earliest possible ones. All times are int64 ns; those called start_ns count from the exchange's own start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Mask, nullable, plain, rows_at
from tcptrace.analysis.happenings import Event, events_of
from tcptrace.analysis.stages import GROUPS, STAGES, UNATTRIBUTED
from tcptrace.analysis.unknowns import why_unknown
from tcptrace.trace.reader import Trace

GROUP_OF = {stage: group for group, stages in GROUPS.items() for stage in stages}

_OUTGOING = (
    *("app_ns", "sndbuf_ns", "nagle_ns", "cork_ns", "cwnd_ns", "rwnd_ns", "pacing_ns"),
    "kernel_tx_ns",
)
_INCOMING = ("kernel_rx_ns", "wakeup_ns", "app_late_ns", "transfer_ns")
CHAINS = {"client": STAGES, "server": (*_INCOMING, *_OUTGOING)}
"""Side -> the stages that it has, in order of time."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    start_ns: int
    duration_ns: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


@dataclass(frozen=True)
class Bar:
    """A stage in time: one span, or two with another stage between them (the network, there and back)."""

    stage: str
    group: str
    spans: tuple[Span, ...]
    estimated: bool

    @property
    def start_ns(self) -> int:
        return self.spans[0].start_ns

    @property
    def duration_ns(self) -> int:
        return sum(span.duration_ns for span in self.spans)


@dataclass(frozen=True)
class Unknown:
    """A stage that is null, and why."""

    stage: str
    why: str


@dataclass(frozen=True)
class Turn:
    """One row of the table `exchanges` in time.

    bars: every stage that is known, 0 included, in order, what is unattributed last; they never overlap and
    add up to total_ns. The other fields are the row's, null where it has null.
    """

    connection_id: int
    seq: int
    side: str
    started_ns: int
    total_ns: int
    bars: tuple[Bar, ...]
    unknown: tuple[Unknown, ...]
    request_bytes: int | None
    response_bytes: int | None
    writes: int | None
    reads: int | None
    retransmits: int | None
    retransmit_kind: str | None
    network_exact: bool | None
    delayed_ack: bool | None
    hold_ambiguous: bool | None

    @property
    def end_ns(self) -> int:
        """Wall clock."""
        return self.started_ns + self.total_ns

    def bar(self, stage: str) -> Bar | None:
        return next((bar for bar in self.bars if bar.stage == stage), None)


@dataclass(frozen=True)
class ExchangeLine:
    """An exchange as one end saw it, and as the other end saw it where that is known.

    other_start_ns: when the other end's turn began, after own's start (it can be negative); exact when one
    clock timed both ends, else by the estimated offset between two. events: this end's, during the exchange.
    """

    own: Turn
    other: Turn | None = None
    other_start_ns: int = 0
    placement_exact: bool = True
    events: tuple[Event, ...] = ()

    @property
    def low_ns(self) -> int:
        """Where the axis begins, after own's start: 0, or earlier."""
        return min(0, self.other_start_ns) if self.other else 0

    @property
    def high_ns(self) -> int:
        end = self.own.total_ns
        return max(end, self.other_start_ns + self.other.total_ns) if self.other else end


def turn(row: Row, header: Mapping[str, Any]) -> Turn:
    """A row of the table `exchanges` in time; its start and total are known.

    header: of its trace, for why a stage is unknown.
    """
    bars, unknown = [], []
    wire = row["network_ns"] is not None and row["peer_ns"] is not None
    at = 0
    for stage in (*CHAINS.get(row["side"], STAGES), UNATTRIBUTED):
        length = row[stage]
        if length is None:
            unknown.append(Unknown(stage, why_unknown(stage, row, header)))
            continue
        estimated = stage in ("network_ns", "peer_ns") and row["network_exact"] is False
        if wire and stage == "network_ns":
            spans: tuple[Span, ...] = _around(at, length, length - length // 2, row["peer_ns"])
        elif wire and stage == "peer_ns":
            network = row["network_ns"]
            spans = (Span(at - network + network // 2, length),)
        else:
            spans = (Span(at, length),)
        bars.append(Bar(stage, GROUP_OF[stage], spans, estimated))
        at += length
    same = {name: row[name] for name in Turn.__dataclass_fields__ if name not in ("bars", "unknown")}
    return Turn(**same, bars=tuple(bars), unknown=tuple(unknown))


def _around(at: int, length: int, back: int, middle: int) -> tuple[Span, ...]:
    """Two spans of this length together, the second of length `back`, around what lies between them."""
    there = length - back
    if not middle:
        return (Span(at, length),)
    spans = (Span(at, there), Span(at + there + middle, back))
    return tuple(span for span in spans if span.duration_ns) or (Span(at, 0),)


def exchange_line(
    own: Turn, other: Turn | None = None, clock_offset_ns: int | None = None, events: tuple[Event, ...] = ()
) -> ExchangeLine:
    """Both ends of an exchange on one axis, that of `own`.

    clock_offset_ns: what to add to the other end's wall clock to have own's; None when both ends are in one
    trace and so were timed by one clock. Between two clocks the offset is an estimate.
    """
    if other is None:
        return ExchangeLine(own, events=events)
    start = other.started_ns + (clock_offset_ns or 0) - own.started_ns
    exact = clock_offset_ns is None
    if own.side == "client":
        own = _legs(own, start + other.total_ns)
    else:
        other = _legs(other, own.total_ns - start)
    return ExchangeLine(own, other, start, exact, events)


def exchange_in(trace: Trace, connections: pa.Table, exchanges: pa.Table, row: Row) -> ExchangeLine:
    """The time line of a row of `exchanges`, with the other end when that is in the same trace.

    The tables are those of this trace.
    """
    own = turn(row, trace.header)
    mate = other_row(exchanges, row)
    places = np.flatnonzero(plain(connections, "connection_id") == own.connection_id)
    found = events_of(trace, rows_at(connections, places[:1])[0]) if len(places) else ()
    during = tuple(event for event in found if own.started_ns <= event.at_ns <= own.end_ns)
    return exchange_line(own, None if mate is None else turn(mate, trace.header), events=during)


def _legs(client: Turn, answered_ns: int) -> Turn:
    """The client's turn with its network time divided as the answer's departure says.

    answered_ns: when the answer's last byte left the server, after the client's start. Where that does not
    fit, as with an answer of many packets, there and back stay halves.
    """
    network, peer = client.bar("network_ns"), client.bar("peer_ns")
    if network is None or peer is None:
        return client
    length, middle = network.duration_ns, peer.duration_ns
    end = max(span.end_ns for bar in (network, peer) for span in bar.spans)
    back = end - answered_ns
    if not 0 <= back <= length:
        return client
    start = end - length - middle
    moved = {
        "network_ns": replace(network, spans=_around(start, length, back, middle)),
        "peer_ns": replace(peer, spans=(Span(end - back - middle, middle),)),
    }
    return replace(client, bars=tuple(moved.get(bar.stage, bar) for bar in client.bars))


def timed(exchanges: pa.Table) -> Mask:
    """Which rows have a place in time."""
    return nullable(exchanges, "started_ns").known & nullable(exchanges, "total_ns").known


def find_row(exchanges: pa.Table, connection_id: int, seq: int) -> Row | None:
    """The row of an exchange whose start and total are known."""
    places = np.flatnonzero(
        (plain(exchanges, "connection_id") == connection_id)
        & (plain(exchanges, "seq") == seq)
        & timed(exchanges)
    )
    return rows_at(exchanges, places[:1])[0] if len(places) else None


def other_row(exchanges: pa.Table, row: Row) -> Row | None:
    """The other end's row of the same turn, when it is in the same table."""
    if row["peer_connection_id"] is not None and row["peer_seq"] is not None:
        return find_row(exchanges, row["peer_connection_id"], row["peer_seq"])
    if row["side"] == "client":
        return None
    # A server's row need not name its client's, which names it.
    found = np.flatnonzero(
        (plain(exchanges, "peer_connection_id") == row["connection_id"])
        & (plain(exchanges, "peer_seq") == row["seq"])
        & timed(exchanges)
    )
    candidates = [each for each in rows_at(exchanges, found) if each["peer_connection_id"] is not None]
    return candidates[0] if candidates else None
