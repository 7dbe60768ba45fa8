"""What a trace says in a few numbers, and what stands between it and completeness."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace import __version__
from tcptrace.analysis import hooks
from tcptrace.analysis.columns import bool_array, nullable, plain, rows_with
from tcptrace.analysis.quantiles import quantiles
from tcptrace.analysis.question import Brief, brief
from tcptrace.analysis.sampling import exchange_counts
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind

ROLES = ("active", "passive", "unknown")
EVENTS = {
    Kind.RETRANSMIT: hooks.RETRANSMISSION,
    Kind.SYNACK_RETRANSMIT: hooks.SYNACK_RETRANSMISSION,
    Kind.RESET_SENT: hooks.RESET_SENT,
    Kind.DROP: hooks.DROP,
}

GROUPS = 20
"""So many groups of exchanges are in a summary, those with most time."""


def describe(trace: Trace) -> dict[str, Any]:
    """Where a trace comes from and how healthy it is, ready for JSON; null where the file does not say.

    started_ns and ended_ns are wall clock, duration_ns is monotonic. Without a trailer the end is the
    last clock pair in the file, and what was lost is not known.
    """
    header, trailer = trace.header, trace.trailer or {}
    start, end = header.get("started") or {}, trailer.get("ended") or {}
    if not end and trace.clocks:
        monotonic, realtime = max(trace.clocks)
        end = {"monotonic_ns": monotonic, "realtime_ns": realtime}
    first, last = start.get("monotonic_ns"), end.get("monotonic_ns")
    sighted = int((plain(trace.events, "kind") == Kind.SIGHTING).sum())
    return {
        "path": str(trace.path),
        "complete": trace.complete,
        "clean_end": trace.clean_end,
        "truncated": trace.truncated,
        "damaged": trace.damaged,
        "problems": problems(trace),
        "started_ns": start.get("realtime_ns"),
        "ended_ns": end.get("realtime_ns"),
        "duration_ns": last - first if isinstance(first, int) and isinstance(last, int) else None,
        "records": {
            "connections": trace.connections.num_rows,
            "events": trace.events.num_rows - sighted,
            "sightings": sighted,
        },
        "exchanges": exchange_counts(trace),
        "lost": lost(trace),
        "header": header,
        "trailer": trace.trailer,
    }


def lost(trace: Trace) -> dict[str, int | None]:
    """Cause -> count of the causes that occurred, after `total`; total is null when the trailer, where
    losses are kept, is missing."""
    causes = sorted(
        ((cause, count) for cause, count in trace.losses.items() if count),
        key=lambda entry: (-entry[1], entry[0]),
    )
    total = None if trace.trailer is None else sum(count for _, count in causes)
    return {"total": total, **dict(causes)}


def problems(trace: Trace) -> list[str]:
    """Sentences, without a full stop, on why the trace is not complete; none when it is."""
    found = []
    losses = lost(trace)
    if losses["total"] != 0 and len(losses) > 1:
        causes = ", ".join(f"{cause} {count}" for cause, count in losses.items() if cause != "total")
        found.append(f"the recording lost something: {causes}")
    if trace.damaged:
        found.append(f"the file is damaged, and what follows is missing: {trace.damaged}".rstrip("."))
    elif trace.truncated:
        found.append("the file is truncated: the recording was cut short, its last rows may be missing")
    elif not trace.clean_end:
        found.append("the recording did not end cleanly, so rows may be missing")
    if not found and not trace.complete:
        found.append("the recording is not complete")
    return found


def summarise(trace: Trace, connections: pa.Table, turns: Brief | None = None) -> dict[str, Any]:
    """The summary as INTERFACE's JSON: see `tcptrace summary --help` for its keys.

    connections: the table of analysis.connections for this trace; turns: its brief(), when it is there.
    """
    turns = turns or brief(trace, connections, GROUPS)
    return {
        "tcptrace": __version__,
        "trace": describe(trace),
        "lost": lost(trace),
        "connections": {
            "rows": connections.num_rows,
            "by_role": dict.fromkeys(ROLES, 0) | _counts(connections["role"]),
            "by_close_reason": _counts(connections["close_reason"]),
            "left_censored": _true(connections["left_censored"]),
            "right_censored": _true(connections["right_censored"]),
            "only_sighted": _only_sighted(trace),
        },
        "handshake": {role: _handshakes(connections, role) for role in ("active", "passive")},
        "retransmits": _retransmits(connections),
        "exchanges": turns.totals,
        "budget": [group.json() for group in turns.groups],
        "events": _events(trace),
    }


def _handshakes(connections: pa.Table, role: str) -> dict[str, int | None]:
    """Quantiles over the ends of one role whose handshake was observed.

    not_observed counts ends of that role without one: open before the recording, failed, or missed.
    estimated counts those among n that are not exact.
    """
    own = rows_with(connections, "role", role)
    times = nullable(own, "handshake_ns")
    made = quantiles(times.values[times.known])
    exact = _true(own["handshake_exact"])
    n = int(times.known.sum())
    return {**made, "not_observed": own.num_rows - n, "estimated": n - exact}


def _retransmits(connections: pa.Table) -> dict[str, int]:
    """Segments by kind, ends with any of them, and ends for which none of the three counts is known."""
    kinds = {"data": "retransmits", "syn": "syn_retransmits", "synack": "synack_retransmits"}
    counts = {kind: nullable(connections, name) for kind, name in kinds.items()}
    any_, known = np.zeros(connections.num_rows, bool), np.zeros(connections.num_rows, bool)
    made = {}
    for kind, column in counts.items():
        made[kind] = int(column.values[column.known].sum())
        any_ |= column.known & (column.values > 0)
        known |= column.known
    return {**made, "connections": int(any_.sum()), "connections_not_known": int((~known).sum())}


def _events(trace: Trace) -> dict[str, Any]:
    """Rare events by kind, null where the host had no hook for it; reasons by the kernel's name."""
    kind = plain(trace.events, "kind")
    made: dict[str, Any] = {
        member.name.lower(): None if hooks.missing(trace.header, fact) else int((kind == member).sum())
        for member, fact in EVENTS.items()
    }
    owned = nullable(trace.events, "connection_id").known
    made["reset_sent_without_connection"] = (
        None
        if hooks.limited(trace.header, hooks.RESET_SENT)
        else int(((kind == Kind.RESET_SENT) & ~owned).sum())
    )
    for member, key in ((Kind.DROP, "drop_reasons"), (Kind.RESET_SENT, "reset_reasons")):
        reasons = nullable(trace.events.filter(bool_array(kind == member)), "reason")
        table = trace.header.get(key)
        known: Mapping[str, Any] = table if isinstance(table, dict) else {}
        numbers, counts = np.unique(reasons.values[reasons.known], return_counts=True)
        named = {
            str(known.get(str(number), number)): int(count)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        }
        if missing := int((~reasons.known).sum()):
            named["unknown"] = named.get("unknown", 0) + missing
        made[key] = dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))
    return made


def _only_sighted(trace: Trace) -> int:
    """Connections known by a sighting alone: the kernel skipped the programs at their end."""
    ids = plain(trace.events, "connection_id")[plain(trace.events, "kind") == Kind.SIGHTING]
    return int((~np.isin(np.unique(ids), plain(trace.connections, "connection_id"))).sum())


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Value -> count, most frequent first; null counts as `unknown`."""
    counted = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
    if None in counted:
        counted["unknown"] = counted.pop(None) + counted.get("unknown", 0)
    return dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))


def _true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
