"""Connections without turns: no exchanges, but how long data was held back, by cause, and lay unread."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.analysis.columns import Nullable, bool_array, int_array, nullable
from tcptrace.output.report_text import endpoint

# Column -> what held the data, in the order of the stages.
HELD = {
    "held_sndbuf_ns": "send buffer",
    "held_nagle_ns": "Nagle",
    "held_cork_ns": "cork",
    "held_cwnd_ns": "congestion window",
    "held_rwnd_ns": "receive window",
    "held_pacing_ns": "pacing",
}
UNREAD = "unread_ns"
SHOWN = 40


@dataclass(frozen=True)
class StreamRow:
    """One connection end; times in ns, None where they were not observed."""

    remote: str
    local: str
    role: str
    process: str | None
    pid: int | None
    mixed: bool  # it had turns as well
    life_ns: int | None
    bytes_sent: int | None
    bytes_received: int | None
    held: list[int | None]  # as in HELD
    unread_ns: int | None

    @property
    def held_ns(self) -> int:
        return sum(ns or 0 for ns in self.held)


@dataclass(frozen=True)
class Streams:
    """The ends that hold data back or leave it unread longest, of all that are streams or pipeline."""

    rows: list[StreamRow]
    of: int
    mixed: int
    totals: list[int | None]  # as in HELD, over all of them
    unread_ns: int | None

    @property
    def causes(self) -> list[str]:
        return list(HELD.values())

    @property
    def largest(self) -> tuple[str, int] | None:
        """The cause with the longest time, unless nothing was held at all."""
        known = [(ns, cause) for ns, cause in zip(self.totals, HELD.values(), strict=True) if ns]
        if not known:
            return None
        ns, cause = max(known)
        return cause, ns


def streams(connections: pa.Table) -> Streams | None:
    """None when no connection is a stream, or the budget was off."""
    mixed = np.asarray(pc.fill_null(pc.equal(connections["pattern"], "mixed"), False), bool)
    chosen = mixed | np.asarray(pc.fill_null(pc.equal(connections["pattern"], "stream"), False), bool)
    if not chosen.any():
        return None
    own = connections.filter(bool_array(chosen))
    held = [nullable(own, name) for name in HELD]
    unread = nullable(own, UNREAD)
    together = np.sum([column.values for column in held], axis=0)
    order = np.lexsort((-unread.values, -together))[:SHOWN]
    top = own.take(int_array(order)).to_pylist()
    return Streams(
        [_row(entry) for entry in top],
        own.num_rows,
        int((mixed & chosen).sum()),
        [_total(column) for column in held],
        _total(unread),
    )


def _total(column: Nullable) -> int | None:
    """The sum of what is known, as float first: a forged file must not overflow it."""
    if not column.known.any():
        return None
    return int(min(column.values[column.known].astype(float).sum(), float(1 << 62)))


def _row(entry: dict[str, Any]) -> StreamRow:
    started, ended = entry["started_ns"], entry["ended_ns"]
    return StreamRow(
        remote=endpoint(entry["remote_addr"], entry["remote_port"]),
        local=endpoint(entry["local_addr"], entry["local_port"]),
        role=entry["role"] or "unknown",
        process=entry["comm"],
        pid=entry["pid"],
        mixed=entry["pattern"] == "mixed",
        life_ns=None if started is None or ended is None else ended - started,
        bytes_sent=entry["bytes_sent"],
        bytes_received=entry["bytes_received"],
        held=[entry[name] for name in HELD],
        unread_ns=entry[UNREAD],
    )
