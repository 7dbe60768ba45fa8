"""The course of one connection: handshake, turns, what lay between them, rare events, states, end.

All times are int64 ns; those called start_ns count from the origin of the course.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import plain, rows_at
from tcptrace.analysis.happenings import Event, events_of
from tcptrace.analysis.timeline import Turn, timed, turn
from tcptrace.trace.reader import Trace

# Of a long connection: so many of the first, of the last and of the slowest turns, and events of each end.
FIRST = LAST = SLOWEST = 8
EVENTS = 12

_ORDER = (
    *("syn_sent_ns", "syn_recv_ns", "established_ns", "fin_wait1_ns", "fin_wait2_ns", "closing_ns"),
    *("time_wait_ns", "close_wait_ns", "last_ack_ns"),
)
_CLOSING = _ORDER[3:]
_HELD = ("nagle", "cork", "cwnd", "rwnd", "pacing", "sndbuf")


@dataclass(frozen=True)
class Handshake:
    """exact: false when the duration is an estimate; repeats: SYNs or SYN-ACKs sent again."""

    start_ns: int
    duration_ns: int
    exact: bool
    repeats: int | None


@dataclass(frozen=True)
class Gap:
    """Time outside turns. waits_for: `application` (this end had not written), `other end` (it had not),
    `close` (after the last turn), `first turn`; `stream` (data that makes no turns), `quiet` (no turn was
    seen), `unknown`."""

    start_ns: int
    duration_ns: int
    waits_for: str


@dataclass(frozen=True)
class Passage:
    """A turn that is shown."""

    start_ns: int
    turn: Turn


@dataclass(frozen=True)
class Omission:
    """Turns or events that are not shown one by one, and what lay between them.

    recorded: turns with a row; busy_ns: their totals added up; longest_ns: the slowest of them. unrecorded:
    turns without a row of their own. events: events left out here.
    """

    start_ns: int
    duration_ns: int
    recorded: int = 0
    busy_ns: int = 0
    longest_ns: int = 0
    unrecorded: int = 0
    events: int = 0


@dataclass(frozen=True)
class Happening:
    start_ns: int
    event: Event


@dataclass(frozen=True)
class End:
    """How it ended, as in the table `connections`; reason `open`: it did not."""

    start_ns: int
    reason: str | None
    initiator: str | None


Entry = Handshake | Gap | Passage | Omission | Happening | End


@dataclass(frozen=True)
class State:
    """Time in a TCP state. start_ns: null when its place is not known."""

    name: str
    start_ns: int | None
    duration_ns: int


@dataclass(frozen=True)
class Course:
    """connection: the row of the table `connections`. origin_ns: wall clock of offset 0; origin: what that
    is, the connection's `start`, the start of the `recording` for one that was open before, or what was
    `first seen`. duration_ns: from start to end, or to the recording's end; null when the start is not known.
    turns: complete ones, null without a budget; recorded: those with a row; shown: those in entries. held:
    cause -> ns that unsent bytes were held over the whole connection, nulls left out."""

    connection: Mapping[str, Any]
    origin_ns: int
    origin: str
    duration_ns: int | None
    entries: tuple[Entry, ...]
    states: tuple[State, ...]
    turns: int | None
    recorded: int
    shown: int
    held: Mapping[str, int]

    @property
    def longest_ns(self) -> int:
        """The total of the slowest turn that is shown; 0 without one."""
        return max((each.turn.total_ns for each in self.entries if isinstance(each, Passage)), default=0)


def course(trace: Trace, connections: pa.Table, exchanges: pa.Table, connection_id: int) -> Course | None:
    """The course of a connection; None when there is no such one. The tables are those of this trace."""
    found = np.flatnonzero(plain(connections, "connection_id") == connection_id)
    if not len(found):
        return None
    row = rows_at(connections, found[:1])[0]
    starts, totals = plain(exchanges, "started_ns"), plain(exchanges, "total_ns")
    own = np.flatnonzero((plain(exchanges, "connection_id") == connection_id) & timed(exchanges))
    own = own[np.lexsort((plain(exchanges, "seq")[own], starts[own]))]
    events = events_of(trace, row)
    spans = list(zip(starts[own].tolist(), totals[own].tolist(), strict=True))
    seqs = plain(exchanges, "seq")[own].tolist()

    recorded_ns = trace.clocks[0][1], trace.clocks[-1][1]
    origin, of = _origin(row, spans, events, recorded_ns[0])
    shown = _chosen([total for _, total in spans])
    turns = {
        place: turn(each, trace.header)
        for place, each in zip(shown, rows_at(exchanges, own[shown]), strict=True)
    }
    end = row["ended_ns"] if row["ended_ns"] is not None else recorded_ns[1]
    states = _states(row, origin, end)
    begun = origin if of == "recording" else _established(row, origin)
    closing = _close_begins(row, begun, end)
    entries: list[Entry] = []
    if row["handshake_ns"] is not None and row["started_ns"] is not None:
        repeats = [row[name] for name in ("syn_retransmits", "synack_retransmits") if row[name] is not None]
        entries.append(
            Handshake(
                row["started_ns"] - origin,
                row["handshake_ns"],
                row["handshake_exact"] is not False,
                sum(repeats) if repeats else None,
            )
        )
    entries += _between(row, spans, seqs, turns, origin, begun, closing)
    entries += _happenings(events, origin)
    if row["ended_ns"] is not None or row["close_reason"] is not None:
        entries.append(End(end - origin, row["close_reason"], row["initiator"]))
    return Course(
        connection=row,
        origin_ns=origin,
        origin=of,
        duration_ns=end - origin if of == "start" else None,
        entries=tuple(sorted(entries, key=lambda entry: (entry.start_ns, isinstance(entry, End)))),
        states=states,
        turns=row["exchanges"],
        recorded=len(spans),
        shown=len(shown),
        held={cause: row[f"held_{cause}_ns"] for cause in _HELD if row[f"held_{cause}_ns"] is not None},
    )


def _origin(
    row: Mapping[str, Any], spans: Sequence[tuple[int, int]], events: Sequence[Event], recording_ns: int
) -> tuple[int, str]:
    """Wall clock of offset 0, and what it is: see Course."""
    if row["started_ns"] is not None:
        return int(row["started_ns"]), "start"
    known = [*(start for start, _ in spans[:1]), *(event.at_ns for event in events[:1])]
    if row["ended_ns"] is not None:
        known.append(row["ended_ns"] - sum(row[name] or 0 for name in _ORDER))
    if row["left_censored"]:
        return min([recording_ns, *known]), "recording"
    return min(known, default=recording_ns), "first seen"


def _chosen(totals: Sequence[int]) -> list[int]:
    """Places of the turns that are shown: of a long connection the first, the last and the slowest, and any
    single one between two of these, since a line that it is left out would be as long."""
    n = len(totals)
    if n <= FIRST + LAST + SLOWEST:
        return list(range(n))
    edges = {*range(FIRST), *range(n - LAST, n)}
    middle = sorted(range(FIRST, n - LAST), key=lambda place: (-totals[place], place))
    chosen = edges | set(middle[:SLOWEST])
    return sorted(chosen | {place for place in middle if {place - 1, place + 1} <= chosen})


def _established(row: Mapping[str, Any], origin: int) -> int | None:
    """Wall clock of ESTABLISHED."""
    if row["started_ns"] is None or row["handshake_ns"] is None:
        return None
    return origin + int(row["handshake_ns"])


def _close_begins(row: Mapping[str, Any], begun: int | None, end: int) -> int:
    """Wall clock of the first FIN or reset, or of the recording's end."""
    if begun is not None and row["established_ns"] is not None:
        return begun + int(row["established_ns"])
    return end - sum(row[name] or 0 for name in _CLOSING)


def _states(row: Mapping[str, Any], origin: int, end: int) -> tuple[State, ...]:
    known = [(name.removesuffix("_ns").upper(), row[name]) for name in _ORDER if row[name] is not None]
    at: int | None = None
    if row["started_ns"] is not None:
        at = 0
    elif row["ended_ns"] is not None:
        at = end - origin - sum(length for _, length in known)
    made = []
    for name, length in known:
        made.append(State(name, at, length))
        at = None if at is None else at + length
    return tuple(made)


def _between(
    row: Mapping[str, Any],
    spans: Sequence[tuple[int, int]],
    seqs: Sequence[int],
    turns: Mapping[int, Turn],
    origin: int,
    begun: int | None,
    closing: int,
) -> list[Entry]:
    """The turns that are shown, and what lies before, between and after them."""
    made: list[Entry] = []
    at, place, expected = begun, 0, 0
    for number, each in sorted(turns.items()):
        start, total = spans[number]
        left = spans[place:number]
        missing = seqs[number] - expected - len(left)
        made += _pause(at, start, origin, left, missing, "first turn" if not number else _waits_for(each))
        made.append(Passage(start - origin, each))
        at, place, expected = start + total, number + 1, seqs[number] + 1
    after = (row["exchanges"] or 0) - expected
    waits_for = "close" if turns or row["pattern"] == "none" else "unknown"
    if not turns and row["pattern"] in ("stream", "mixed"):
        # What was open before may have had its data then.
        waits_for = "quiet" if row["left_censored"] and not row["pipelined"] else "stream"
    return made + _pause(at, closing, origin, (), after, waits_for)


def _waits_for(following: Turn) -> str:
    return "application" if following.side == "client" else "other end"


def _pause(
    start: int | None,
    end: int,
    origin: int,
    left: Sequence[tuple[int, int]],
    missing: int,
    waits_for: str,
) -> list[Entry]:
    """Between two turns: nothing, a gap, or the turns that are left out. start: null when it is not known."""
    missing = max(0, missing)
    if left or missing:
        first = start if start is not None else left[0][0] if left else end
        totals = [total for _, total in left]
        length = max(0, end - first)
        return [Omission(first - origin, length, len(left), sum(totals), max(totals, default=0), missing)]
    if start is None or end <= start:
        return []
    return [Gap(start - origin, end - start, waits_for)]


def _happenings(events: Sequence[Event], origin: int) -> list[Entry]:
    """All events, or the first and the last of many."""
    if len(events) <= 2 * EVENTS:
        return [Happening(event.at_ns - origin, event) for event in events]
    head, middle, tail = events[:EVENTS], events[EVENTS:-EVENTS], events[-EVENTS:]
    left = Omission(middle[0].at_ns - origin, middle[-1].at_ns - middle[0].at_ns, events=len(middle))
    return [*(Happening(event.at_ns - origin, event) for event in (*head, *tail)), left]
