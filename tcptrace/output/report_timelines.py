"""The time lines of a report's slowest exchanges, of one recording or of joined ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tcptrace.analysis.clocks import Clock
from tcptrace.analysis.columns import plain, rows_at
from tcptrace.analysis.happenings import Event, events_of
from tcptrace.analysis.timeline import exchange_line, other_row, turn
from tcptrace.output.timeline_html import exchange_html
from tcptrace.trace.reader import Trace

Row = Mapping[str, Any]


def timelines(
    rows: Sequence[Row],
    exchanges: pa.Table,
    connections: pa.Table,
    traces: Sequence[Trace],
    clocks: Sequence[Clock],
) -> dict[tuple[int, int], Markup]:
    """(connection_id, seq) -> time line, of those `rows` of the table `exchanges` that have a place in time.

    exchanges, connections: of one recording, or of joined ones, whose column `trace` says whose of the traces
    and clocks is a row's.
    """
    found = {}
    for row in rows:
        if row["started_ns"] is not None and row["total_ns"] is not None:
            found[row["connection_id"], row["seq"]] = _timeline(row, exchanges, connections, traces, clocks)
    return found


def _timeline(
    row: Row, exchanges: pa.Table, connections: pa.Table, traces: Sequence[Trace], clocks: Sequence[Clock]
) -> Markup:
    number = row.get("trace", 0)
    own, mate = turn(row, traces[number].header), other_row(exchanges, row)
    ids = [row["connection_id"], *([] if mate is None else [mate["connection_id"]])]
    places = np.flatnonzero(np.isin(plain(connections, "connection_id"), ids))
    ends = {end["connection_id"]: end for end in rows_at(connections, places)}
    end = ends.get(row["connection_id"])
    happened = () if end is None else _events(traces[number], end, clocks[number])
    during = tuple(event for event in happened if own.started_ns <= event.at_ns <= own.end_ns)
    if mate is None:
        return exchange_html(exchange_line(own, events=during), ends)
    there = mate.get("trace", 0)
    # Joined recordings are on one time line; the other host's clock was brought there by an estimate.
    offset_ns = None if there == number else 0
    other = turn(mate, traces[there].header)
    return exchange_html(exchange_line(own, other, offset_ns, during), ends)


def _events(trace: Trace, end: Row, clock: Clock) -> tuple[Event, ...]:
    """What happened to a connection, on the time line of its row."""
    own = {**end, "connection_id": end.get("trace_connection_id", end["connection_id"])}
    for name in ("started_ns", "ended_ns"):
        own[name] = None if end[name] is None else end[name] + clock.ahead_ns
    found = events_of(trace, own)
    if not found:
        return ()
    moments = clock.shifted(np.array([event.at_ns for event in found], np.int64))
    return tuple(replace(event, at_ns=at) for event, at in zip(found, moments.tolist(), strict=True))
