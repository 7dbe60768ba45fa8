"""Which rows are the two ends of one thing: of a connection, and of a turn on it.

The ends of a connection have each other's addresses and ports, and each other's initial sequence numbers.
Ports are reused, so the sequence numbers decide; translated addresses match nothing. A row that could have
two other ends has none: rather no pair than a wrong one.

The ends of a turn agree on the sequence number behind the request's last byte. The same number comes again
after 4 GiB of requests, so the turns must also have happened at the same time.
"""

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import (
    Ints,
    Mask,
    Nullable,
    dictionary_codes,
    nullable,
    numbered,
    plain,
    positions,
)
from tcptrace.analysis.turns import Turns
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Role, Side

# 4 GiB take a third of a second at 100 Gbit/s; clocks and stamps of one host differ by far less.
TOLERANCE_NS = 10_000_000

_SEQUENCES = 1 << 32
# Where so many connections with unknown sequence numbers had the same ports, nobody can tell them apart.
_MOST_CANDIDATES = 16


def other_ends(connections: pa.Table, rough: Nullable, clock: Ints | None = None) -> Ints:
    """Per row of a table of connections the row of its other end, -1 where none is known. Namespaces may
    differ.

    rough: rough_isns() of the connections. Ends of which a sequence number is not known are paired by
    addresses, ports and time, if no other pair is possible; their times must be of the same clock. clock: the
    number of each row's, None for one of all.
    """
    local, remote = _endpoints(connections)
    sent, received = (nullable(connections, name) for name in ("snd_isn", "rcv_isn"))
    for isn in (sent, received):
        isn.forget((isn.values < 0) | (isn.values >= _SEQUENCES))
    possible = (rough.values >= 0) & (rough.values < _SEQUENCES)
    rough = Nullable(rough.values, rough.known & possible & ~sent.known)
    # Where the own number is one of two, the row stands here twice.
    row = np.flatnonzero(received.known & (sent.known | rough.known))
    again = row[rough.known[row]]
    own = np.concatenate([np.where(sent.known, sent.values, rough.values)[row], rough.values[again] - 1])
    row = np.concatenate([row, again])
    own %= _SEQUENCES
    here, there = _numbers(
        [local[row], remote[row], own, received.values[row]],
        [remote[row], local[row], received.values[row], own],
    )
    found = _only_match(here, there, row, connections.num_rows)

    alone = np.flatnonzero(found < 0)
    clocks = np.zeros(len(alone), np.int64) if clock is None else clock[alone]
    here, there = _numbers([local[alone], remote[alone], clocks], [remote[alone], local[alone], clocks])
    one, two = _candidates(here, there)
    first, second = alone[one], alone[two]
    fits = ~(_contradict(sent, received, first, second) | _contradict(sent, received, second, first))
    fits &= _overlap(connections, first, second)
    match = _mutual(one[fits], two[fits], len(alone))
    found[alone] = np.where(match >= 0, alone[match], -1)
    return found


def other_turns(
    turns: Turns, of: Ints, ends: Ints, start: Nullable | None = None, tolerance_ns: Ints | int = TOLERANCE_NS
) -> Ints:
    """Per turn the row of the same turn at the connection's other end, -1 where none is known.

    of: the connection of each turn, as its row, -1 for none; ends: other_ends() of the connections; start:
    when each turn began, on a time line that both ends share, by default started_ns. A server's turn began
    while its client's lasted, give or take the tolerance, which may be one for each turn.
    """
    start = turns["started_ns"] if start is None else start
    tolerance = np.broadcast_to(np.asarray(tolerance_ns, np.int64), len(turns))
    side, end = turns["side"].values, turns["request_end"]
    paired = (of >= 0) & start.known & end.known & (end.values < _SEQUENCES)
    paired[paired] = ends[of[paired]] >= 0
    clients = np.flatnonzero(paired & (side == Side.CLIENT))
    servers = np.flatnonzero(paired & (side == Side.SERVER))
    rows = np.concatenate([clients, servers])
    answering = np.arange(len(rows)) >= len(clients)
    connection = np.where(answering, ends[of[rows]], of[rows])
    key = connection * _SEQUENCES + end.values[rows]
    time = start.values[rows] + np.where(answering, tolerance[rows], 0)

    # Of each server's turn: the last one of its client that began before.
    order = np.lexsort((answering, time, key))
    place = np.maximum.accumulate(np.where(answering[order], -1, np.arange(len(order))))
    before = answering[order] & (place >= 0)
    before[before] = key[order[before]] == key[order[place[before]]]
    server, client = rows[order[before]], rows[order[place[before]]]
    late = start.values[server] - start.values[client] - turns["total_ns"].values[client]
    together = late <= tolerance[server]
    server, client = server[together], client[together]

    once = np.bincount(client, minlength=len(turns))[client] == 1
    found = np.full(len(turns), -1)
    found[server[once]] = client[once]
    found[client[once]] = server[once]
    return found


def _endpoints(connections: pa.Table) -> tuple[Ints, Ints]:
    """Local and remote address and port of each row, the same as the same number."""
    chunks = [chunk for end in ("local", "remote") for chunk in connections[f"{end}_addr"].chunks]
    address, _ = dictionary_codes(pa.chunked_array(chunks, pa.string()))
    ports = [nullable(connections, f"{end}_port") for end in ("local", "remote")]
    port = np.concatenate([np.where(column.known, column.values, -1) for column in ports])
    (number,) = _numbers([address, port])
    return number[: connections.num_rows], number[connections.num_rows :]


def _numbers(*keys: list[Ints]) -> list[Ints]:
    """Keys of several columns each as numbers from 0: the same number for the same key, also across."""
    rows = np.concatenate([np.column_stack(columns) for columns in keys]).astype(np.int64)
    number = numbered(np.ascontiguousarray(rows).view(f"V{8 * rows.shape[1]}").ravel())
    return np.split(number, np.cumsum([len(columns[0]) for columns in keys])[:-1])


def _only_match(here: Ints, there: Ints, row: Ints, rows: int) -> Ints:
    """Per row the only other one of which an entry's `here` is an entry's `there` of its own; -1 when there
    is none, or not just one."""
    size = 1 + max(here.max(initial=-1), there.max(initial=-1))
    count = np.bincount(here, minlength=size)
    entry = np.zeros(size, np.int64)
    entry[here] = np.arange(len(here))
    match = row[entry[there]]
    only = (count[there] == 1) & (count[here] == 1) & (match != row)
    return _mutual(row[only], match[only], rows)


def _candidates(here: Ints, there: Ints) -> tuple[Ints, Ints]:
    """All pairs of entries (i, j) with there[i] == here[j], without those i that have too many."""
    order = np.argsort(here, kind="stable")
    first, last = (np.searchsorted(here[order], there, side=side) for side in ("left", "right"))
    count = np.where(last - first > _MOST_CANDIDATES, 0, last - first)
    one = np.repeat(np.arange(len(here)), count)
    within = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
    two = order[first[one] + within]
    return one[one != two], two[one != two]


def rough_isns(trace: Trace, connections: pa.Table) -> Nullable:
    """Per row of the table `connections`, where the end's role was not known: its own initial sequence
    number, or one more. The kernel counts an active end's SYN among the bytes that were acknowledged."""
    raw = trace.connections
    of = positions(plain(connections, "connection_id"), plain(raw, "connection_id"))
    sent = nullable(raw, "snd_isn")
    rows = np.flatnonzero(sent.known & (plain(raw, "role") == Role.UNKNOWN) & (of >= 0))
    found = Nullable(np.zeros(connections.num_rows, np.int64), np.zeros(connections.num_rows, np.bool_))
    found.values[of[rows]], found.known[of[rows]] = sent.values[rows], True
    return found


def _contradict(sent: Nullable, received: Nullable, one: Ints, two: Ints) -> Mask:
    both: Mask = sent.known[one] & received.known[two]
    both &= sent.values[one] != received.values[two]
    return both


def _overlap(connections: pa.Table, one: Ints, two: Ints) -> Mask:
    """Whether both connections existed at some moment; an unknown start or end sets no bound."""
    started, ended = nullable(connections, "started_ns"), nullable(connections, "ended_ns")
    bound = np.iinfo(np.int64)
    first = np.where(started.known, started.values, bound.min)
    last = np.where(ended.known, ended.values, bound.max)
    overlap: Mask = (first[one] <= last[two]) & (first[two] <= last[one])
    return overlap


def _mutual(one: Ints, two: Ints, entries: int) -> Ints:
    """Per entry its partner, where each of the two has only the other in the pairs (one, two)."""
    count = np.bincount(one, minlength=entries)
    match = np.full(entries, -1)
    match[one] = two
    match[count != 1] = -1
    mutual = match >= 0
    mutual[mutual] = match[match[mutual]] == np.flatnonzero(mutual)
    return np.where(mutual, match, -1)
