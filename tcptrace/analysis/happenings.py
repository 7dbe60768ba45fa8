"""The rare events of one connection: what was sent again, reset or dropped, and when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tcptrace.analysis.columns import address_text, nullable, plain, rows_at
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind

# include/net/tcp_states.h, include/uapi/linux/tcp.h (enum tcp_ca_state), include/net/inet_connection_sock.h
_SYN_SENT, _SYN_RECV = 2, 3
_CA_OPEN, _CA_RECOVERY, _CA_LOSS = 0, 3, 4
_TIMER_NONE, _TIMER_PROBE = 0, 5
_FIN = 1

_SHOWN = {
    Kind.RETRANSMIT: "retransmission",
    Kind.SYNACK_RETRANSMIT: "retransmission",
    Kind.RESET_SENT: "reset sent",
    Kind.DROP: "drop",
}


@dataclass(frozen=True)
class Event:
    """at_ns: wall clock. what: retransmission, reset sent, drop. of: what was sent again (SYN, SYN-ACK, FIN,
    data); detail: why, null when not known; for drops and resets the kernel's own word."""

    at_ns: int
    what: str
    of: str | None
    detail: str | None
    bytes: int | None


def events_of(trace: Trace, connection: Mapping[str, Any]) -> tuple[Event, ...]:
    """The events of a connection, in order of time. connection: a row of the table `connections`.

    Dropped packets and repeated SYN-ACKs know no connection: they are those with the same two endpoints, in
    the same namespace as far as that is known, in the connection's time.
    """
    events = trace.events
    kind = plain(events, "kind")
    owner = nullable(events, "connection_id")
    chosen = owner.known & (owner.values == connection["connection_id"]) & np.isin(kind, list(_SHOWN))
    tuples = ~owner.known & np.isin(kind, [Kind.DROP, Kind.SYNACK_RETRANSMIT])
    for name in ("local_port", "remote_port"):
        tuples &= plain(events, name) == (connection[name] if connection[name] is not None else -1)
    netns = nullable(events, "netns")
    tuples &= ~netns.known | (netns.values == connection["netns"])
    made = []
    for row in rows_at(events, np.flatnonzero(chosen | tuples)):
        at = int(trace.to_wall_ns(np.array([row["time_ns"]], np.int64))[0])
        if row["connection_id"] is None and not _same_tuple(row, connection, at):
            continue
        made.append(_event(row, at, trace.header))
    return tuple(sorted(made, key=lambda event: event.at_ns))


def _same_tuple(row: Mapping[str, Any], connection: Mapping[str, Any], at: int) -> bool:
    for end in ("local_addr", "remote_addr"):
        if connection[end] is None or address_text(row[end]) != connection[end]:
            return False
    started, ended = connection["started_ns"], connection["ended_ns"]
    return (started is None or at >= started) and (ended is None or at <= ended)


def _event(row: Mapping[str, Any], at: int, header: Mapping[str, Any]) -> Event:
    what = _SHOWN[row["kind"]]
    if row["kind"] == Kind.SYNACK_RETRANSMIT:
        return Event(at, what, "SYN-ACK", None, None)
    if row["kind"] == Kind.RETRANSMIT:
        length = row["length_bytes"]
        of = {_SYN_SENT: "SYN", _SYN_RECV: "SYN-ACK"}.get(row["state"])
        if of is None:
            of = "FIN" if not length and row["tcp_flags"] & _FIN else "data"
        return Event(at, what, of, _cause(row) if of == "data" else None, length if of == "data" else None)
    table = "drop_reasons" if row["kind"] == Kind.DROP else "reset_reasons"
    names, number = header.get(table), row["reason"]
    known = names.get(str(number)) if isinstance(names, dict) else None
    return Event(at, what, None, None if number is None else str(known or number), None)


def _cause(row: Mapping[str, Any]) -> str | None:
    """See tcp_send_loss_probe(), tcp_retransmit_timer() -> tcp_enter_loss(), tcp_enter_recovery()."""
    state, pending = row["ca_state"], row["pending"]
    if state == _CA_LOSS:
        return "RTO" if pending == _TIMER_NONE else "recovery after an RTO"
    if state == _CA_RECOVERY:
        return "fast retransmit"
    return "tail loss probe" if state == _CA_OPEN and pending == _TIMER_PROBE else None
