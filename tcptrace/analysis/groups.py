"""Which group an exchange belongs to: by the facts of its connection, its side and its time.

The keys of a group are raw values, ready for JSON; label() puts them in words, which are not escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import (
    Ints,
    Mask,
    Nullable,
    dictionary_codes,
    endpoint_text,
    nullable,
    plain,
    positions,
    text_equals,
)
from tcptrace.units import UNKNOWN

Key = dict[str, Any]

KEYS = {
    "side": ("side",),
    "remote": ("remote_addr", "remote_port"),
    "port": ("port",),
    "role": ("role",),
    "process": ("pid", "comm"),
    "program": ("comm",),
    "namespace": ("netns",),
    "time": ("from_ns", "to_ns"),
}
BY = tuple(name for name in KEYS if name != "side")

# Bins of time that people read easily; the first that makes at most MAX_BINS of them is taken.
MAX_BINS = 30
_S = 10**9
BINS_NS = (
    *(scale * step for scale in (10**6, 10**7, 10**8, _S) for step in (1, 2, 5)),
    *(_S * step for step in (10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)),
)

_NULL = -1


@dataclass(frozen=True)
class Grouping:
    """codes: the group of each row, from 0; keys: what its rows have in common, `side` first."""

    codes: Ints
    keys: list[Key]


@dataclass(frozen=True)
class _Column:
    """One part of the key as numbers >= 0, _NULL for null; names: what the numbers stand for, if not
    themselves."""

    name: str
    codes: Ints
    names: Sequence[str | None] | None = None

    def value(self, row: int) -> Any:
        code = int(self.codes[row])
        return None if code == _NULL else code if self.names is None else self.names[code]


def group(
    rows: pa.Table, connections: pa.Table, by: Sequence[str] = ("remote",), bin_ns: int | None = None
) -> Grouping:
    """Groups the rows of a table with `connection_id`, `side` and `started_ns` by side and by each of `by`.

    The side is always one of the keys: a turn that was seen at both ends is in the trace twice, and the sum
    of both would mean nothing. An exchange whose connection has no row has null keys.

    remote: address and port of the service; where this end is the service, the address alone, since the
    port of who connects is a new one each time. port: the service's own. The service is the end that
    accepted; where the role is not known, the end with the lower port. bin_ns: width of the bins of `time`,
    chosen from the extent of the table when None.
    """
    facts = [column for name in by if name != "time" for column in _facts(name, connections)]
    # Combined per connection first, of which there are fewer; the last entry, also at position -1, is that
    # of a connection without a row.
    of_connection = _combined(
        [_Column("", np.zeros(connections.num_rows + 1, np.int64))]
        + [_Column(column.name, np.append(column.codes, _NULL), column.names) for column in facts]
    )
    position = connection_rows(rows, connections)
    columns = [_text_column("side", rows, "side"), _Column("", of_connection.codes[position])]
    if "time" in by:
        columns += _time(nullable(rows, "started_ns"), bin_ns)
    made = _combined(columns)
    return Grouping(made.codes, [_in_order(key, of_connection.keys, by) for key in made.keys])


def _in_order(key: Key, facts: Sequence[Key], by: Sequence[str]) -> Key:
    """The key with the facts of its connections, in the order that was asked for."""
    found = facts[key.pop("")]
    found.pop("", None)
    whole = key | found
    return {name: whole[name] for part in ("side", *by) for name in KEYS[part]}


def label(key: Mapping[str, Any]) -> str:
    """A group in words, without its side: `10.0.0.2:5000, order-gw (4711)`. Not escaped."""
    return ", ".join(_words(key))


def process_text(key: Mapping[str, Any]) -> str:
    """`order-gw (4711)`, or what of it is known. Not escaped."""
    if key["pid"] is None:
        return _known(key["comm"])
    return f"{_known(key['comm'])} ({key['pid']})"


def connection_rows(rows: pa.Table, connections: pa.Table) -> Ints:
    """For each row the position of its connection in the table of connections; -1 where it has none."""
    return positions(plain(connections, "connection_id"), plain(rows, "connection_id"))


def services(connections: pa.Table) -> Mask:
    """Whether the remote end of each connection is the one that accepted."""
    local, remote = (_numbers(connections, name) for name in ("local_port", "remote_port"))
    active, passive = (text_equals(connections["role"], role) for role in ("active", "passive"))
    lower: Mask = (remote >= 0) & ((local < 0) | (remote <= local))
    return active | (~passive & lower)


def _words(key: Mapping[str, Any]) -> Iterator[str]:
    if "remote_addr" in key:
        yield endpoint_text(key["remote_addr"], key["remote_port"])
    if "port" in key:
        yield f"port {_known(key['port'])}"
    if "role" in key:
        yield _known(key["role"])
    if "pid" in key:
        yield process_text(key)
    elif "comm" in key:
        yield _known(key["comm"])
    if "netns" in key:
        yield f"namespace {_known(key['netns'])}"


def _known(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _facts(name: str, connections: pa.Table) -> list[_Column]:
    """The key's columns over the table of connections."""
    if name == "remote":
        port = np.where(services(connections), _numbers(connections, "remote_port"), _NULL)
        return [_text_column("remote_addr", connections, "remote_addr"), _Column("remote_port", port)]
    if name == "port":
        local, remote = (_numbers(connections, end) for end in ("local_port", "remote_port"))
        return [_Column("port", np.where(services(connections), remote, local))]
    if name == "role":
        return [_text_column("role", connections, "role")]
    if name == "process":
        return [_Column("pid", _numbers(connections, "pid")), _text_column("comm", connections, "comm")]
    if name == "program":
        return [_text_column("comm", connections, "comm")]
    if name == "namespace":
        return [_Column("netns", _numbers(connections, "netns"))]
    raise ValueError(f"{name} is none of {', '.join(BY)}")


def _time(started: Nullable, bin_ns: int | None) -> list[_Column]:
    """Wall clock from which and up to which each row's bin goes."""
    known = started.values[started.known]
    span = int(known.max() - known.min()) if len(known) else 0
    width = bin_ns or next((width for width in BINS_NS if span // width < MAX_BINS), span // MAX_BINS + 1)
    start = started.values - started.values % width
    ends = {"from_ns": start, "to_ns": start + width}
    return [_Column(name, np.where(started.known, ns, _NULL)) for name, ns in ends.items()]


def _numbers(table: pa.Table, name: str) -> Ints:
    column = nullable(table, name)
    return np.where(column.known, column.values, _NULL)


def _text_column(name: str, table: pa.Table, source: str) -> _Column:
    codes, names = dictionary_codes(table[source])
    return _Column(name, codes, names)


def _combined(columns: Sequence[_Column]) -> Grouping:
    """One number per combination that occurs, in the order of the columns' numbers."""
    codes = np.zeros(len(columns[0].codes), np.int64)
    for column in columns:
        values, dense = np.unique(column.codes, return_inverse=True)
        _, codes = np.unique(codes * max(1, len(values)) + dense, return_inverse=True)
    _, first = np.unique(codes, return_index=True)
    keys = [{column.name: column.value(row) for column in columns} for row in first.tolist()]
    return Grouping(codes.astype(np.int64), keys)
