"""Connections whose ends keep writing without turns: no exchanges, but what held their bytes back.

Over the whole of a connection it is known how long unsent bytes were held by each cause, and how long
received ones waited for a read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Ints, bool_array, exact_sum, int_array, nullable, text_equals
from tcptrace.analysis.groups import Key, group

HELD = {
    "held_sndbuf_ns": "sndbuf_ns",
    "held_nagle_ns": "nagle_ns",
    "held_cork_ns": "cork_ns",
    "held_cwnd_ns": "cwnd_ns",
    "held_rwnd_ns": "rwnd_ns",
    "held_pacing_ns": "pacing_ns",
}
"""Column of `connections` -> the stage of exchanges with the same cause."""
UNREAD = "unread_ns"

_VOLUMES = ("bytes_sent", "bytes_received", "open_ns")


@dataclass(frozen=True)
class Stream:
    """The streams of one group: sums over their connections, None when no connection knows.

    held: by column of HELD, ns. mixed: how many of them had turns as well. open_ns: from set-up to the end,
    since bytes still go out after this end has closed; the time in ESTABLISHED where that is not known.
    """

    key: Key
    connections: int
    mixed: int
    held: dict[str, int | None]
    unread_ns: int | None
    bytes_sent: int | None
    bytes_received: int | None
    open_ns: int | None

    @property
    def held_ns(self) -> int:
        return sum(ns or 0 for ns in self.held.values())

    def json(self) -> dict[str, Any]:
        facts = {name: value for name, value in self.key.items() if name != "side"}
        return facts | {
            "connections": self.connections,
            "mixed": self.mixed,
            "open_ns": self.open_ns,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            **self.held,
            UNREAD: self.unread_ns,
        }


def streams(connections: pa.Table, limit: int | None = None) -> list[Stream]:
    """The streams of a trace by remote and program, longest held first; none where the budget was off.

    limit: only so many of them.
    """
    mixed = text_equals(connections["pattern"], "mixed")
    chosen = mixed | text_equals(connections["pattern"], "stream")
    own = connections.filter(bool_array(chosen))
    if not own.num_rows:
        return []
    own = own.append_column("open_ns", _open(own))
    unsided = own.append_column("side", pa.nulls(own.num_rows, pa.string()))
    grouping = group(unsided, own, ("remote", "program"))
    size = len(grouping.keys)
    columns = {name: _sums(own, name, grouping.codes, size) for name in (*HELD, UNREAD, *_VOLUMES)}
    number = np.bincount(grouping.codes, minlength=size).tolist()
    both = np.bincount(grouping.codes[mixed[chosen]], minlength=size).tolist()
    made = [
        Stream(
            key,
            number[place],
            both[place],
            {name: columns[name][place] for name in HELD},
            columns[UNREAD][place],
            *(columns[name][place] for name in _VOLUMES),
        )
        for place, key in enumerate(grouping.keys)
    ]
    return sorted(made, key=lambda one: (-one.held_ns, -(one.unread_ns or 0)))[:limit]


def _open(connections: pa.Table) -> pa.Array:
    started, ended, established = (
        nullable(connections, name) for name in ("started_ns", "ended_ns", "established_ns")
    )
    whole = started.known & ended.known
    return int_array(
        np.where(whole, ended.values - started.values, established.values), whole | established.known
    )


def _sums(table: pa.Table, name: str, codes: Ints, groups: int) -> list[int | None]:
    """The column's sum in each group; None where no row of it knows."""
    column = nullable(table, name)
    order = np.argsort(codes, kind="stable")
    parts = np.split(column.values[order], np.cumsum(np.bincount(codes, minlength=groups))[:-1])
    known = np.bincount(codes[column.known], minlength=groups)
    return [exact_sum(part) if n else None for part, n in zip(parts, known.tolist(), strict=True)]
