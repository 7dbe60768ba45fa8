"""The table `connections`: one row per connection end, from the raw records of a trace.

Columns: int64 with units in their names (started_ns and ended_ns are wall clock, ns since 1970; every other
_ns is a duration), bool, or string. Null means not observed. See docs/measurement.md for each definition.
"""

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import (
    Ints,
    Nullable,
    address_text,
    bool_array,
    by_distinct,
    int_array,
    name_text,
    names,
    nullable,
    numbered,
    plain,
)
from tcptrace.analysis.schema import BUDGET, CONNECTIONS, STATE_TIMES
from tcptrace.analysis.sightings import with_sightings
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import CloseReason, Family, Flag, Initiator, Kind, Role

# include/net/tcp_states.h
STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "close",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "new_syn_recv",
}


def connections(trace: Trace) -> pa.Table:
    """The table, with the columns of schema.CONNECTIONS, sorted by start; unknown starts come first.

    left_censored: open before the recording began. A connection that the kernel hid from us at first but
    that began later is not: only its role is `unknown` and its start, handshake and state times are null.
    Null where that cannot be told: in a namespace that was not entered, or when only a sighting is left.
    right_censored: open when the recording ended, or was cut.
    """
    records = with_sightings(trace.connections, trace.events)
    raw = records.take(_one_per_connection(records))
    flags, seen = plain(raw, "flags"), plain(raw, "seen_ns")
    columns = {
        field.name: nullable(raw, field.name) for field in raw.schema if pa.types.is_integer(field.type)
    }

    first_missed = (flags & Flag.FIRST_MISSED) != 0
    before = first_missed & (((flags & Flag.SEEDED) != 0) | (seen <= _seeded_ns(trace)))
    skipped = first_missed & ~before
    # not known of a namespace that no walk entered, nor of a sighting of unknown birth
    unsure = skipped & ~_walked(trace, plain(raw, "netns"))
    broken = (flags & Flag.STATES_BROKEN) != 0
    unsure |= ~first_missed & broken & (columns["role"].values == Role.UNKNOWN)
    columns["snd_isn"].forget(columns["role"].values == Role.UNKNOWN)  # it may be one more
    for name in ("started_ns", "handshake_ns", *STATE_TIMES):
        columns[name].forget(skipped)
    columns["role"].values[skipped] = Role.UNKNOWN
    for name in STATE_TIMES:
        columns[name].forget(broken)

    _time_repeated_synacks(raw, columns, trace.events, seen)
    _amend_resets(columns, trace.events)
    columns["handshake_exact"].forget(~columns["handshake_ns"].known)
    columns["local_port"].forget(columns["local_port"].values == 0)  # never bound
    for name in BUDGET:
        columns[name].forget(columns[name].values < 0)

    started, ended = columns["started_ns"], columns["ended_ns"]
    for instant in (started, ended):
        instant.values = np.where(instant.known, trace.to_wall_ns(instant.values), 0).astype(np.int64)

    is_open = columns["close_reason"].values == CloseReason.OPEN
    columns["state"].forget(~is_open)
    nothing = Nullable(np.zeros(len(seen), np.int64), np.zeros(len(seen), np.bool_))
    made: dict[str, pa.Array] = {
        "family": names(columns["family"], _lower(Family)),
        "role": names(columns["role"], _lower(Role)),
        "close_reason": names(columns["close_reason"], _lower(CloseReason, but=CloseReason.UNKNOWN)),
        "initiator": names(columns["initiator"], _lower(Initiator, but=Initiator.UNKNOWN)),
        "state": names(columns["state"], STATES),
        "local_addr": by_distinct(raw["local_addr"], address_text),
        "remote_addr": by_distinct(raw["remote_addr"], address_text),
        "comm": by_distinct(raw["comm"], name_text),
        "congestion_control": by_distinct(raw["congestion_control"], name_text),
        "time_wait_ns": nothing.array(),
        "time_wait_exact": nothing.array(pa.bool_()),
        "left_censored": Nullable(before.astype(np.int64), ~unsure).array(pa.bool_()),
        "right_censored": bool_array(is_open),
        "pattern": _pattern(columns),
    }
    for field in CONNECTIONS:
        if field.name not in made:
            made[field.name] = columns[field.name].array(field.type)
    order = np.lexsort((plain(raw, "connection_id"), seen, started.values, started.known))
    return pa.table([made[name] for name in CONNECTIONS.names], schema=CONNECTIONS).take(int_array(order))


def _pattern(columns: dict[str, Nullable]) -> pa.Array:
    """How a connection was used: `turns` of request and answer, a `stream` without any, `mixed`, or `none`
    without payload. Null where turns were not looked for."""
    exchanges, pipelined = columns["exchanges"], columns["pipelined"]
    payload = [columns[name] for name in ("bytes_sent", "bytes_received")]
    moved = np.any([volume.known & (volume.values > 0) for volume in payload], axis=0)
    moved |= pipelined.values > 0
    pattern = np.select(
        [(exchanges.values > 0) & (pipelined.values > 0), exchanges.values > 0, moved], [1, 2, 3], 4
    )
    known = (
        exchanges.known
        & pipelined.known
        & ((pattern < 4) | np.all([volume.known for volume in payload], axis=0))
    )
    return names(Nullable(pattern, known), {1: "mixed", 2: "turns", 3: "stream", 4: "none"})


def _one_per_connection(records: pa.Table) -> pa.Array:
    """Positions of the record that tells most of each connection: its last, or the one of its end.

    A connection that stays open is recorded again and again, so that a cut file still has it; such an
    interim record can even come after the final one, which took another way.
    """
    ids = plain(records, "connection_id")
    final = plain(records, "close_reason") != CloseReason.OPEN
    position = np.arange(len(ids))
    order = np.lexsort((position, final, ids))
    last = np.ones(len(ids), np.bool_)
    last[:-1] = ids[order][1:] != ids[order][:-1]
    return int_array(np.sort(order[last]))


def _time_repeated_synacks(raw: pa.Table, columns: dict[str, Nullable], events: pa.Table, seen: Ints) -> None:
    """Passive handshakes whose SYN-ACK was repeated: from the first SYN-ACK to the child's creation.

    The kernel takes no RTT sample then; the repetition's event knows when the SYN-ACK was sent first (in
    microseconds), and is joined by namespace and tuple: the latest one before the child.
    """
    repeated = (columns["role"].values == Role.PASSIVE) & (columns["synack_retransmits"].values > 0)
    rows = np.flatnonzero(repeated)
    synacks = events.filter(bool_array(plain(events, "kind") == Kind.SYNACK_RETRANSMIT))
    first_sent = nullable(synacks, "first_sent_ns")
    found = _latest_before(
        _tuples(synacks), plain(synacks, "time_ns"), _tuples(raw.take(int_array(rows))), seen[rows]
    )
    known = found >= 0
    known[known] = first_sent.known[found[known]]
    sent = np.zeros(len(rows), np.int64)
    sent[known] = first_sent.values[found[known]]
    known &= sent <= seen[rows]

    states_known = (plain(raw, "flags")[rows] & Flag.STATES_BROKEN) == 0
    for name, values, valid in (
        ("started_ns", sent, known),
        ("handshake_ns", seen[rows] - sent, known),
        ("syn_recv_ns", seen[rows] - sent, known & states_known),
        ("handshake_exact", np.ones(len(rows), np.int64), known),
    ):
        columns[name].values[rows] = values
        columns[name].known[rows] = valid


def _tuples(table: pa.Table) -> np.ndarray:
    """Namespace and both endpoints of each row as one opaque 44-byte value."""
    made = np.zeros(
        table.num_rows,
        [
            ("netns", "<i8"),
            ("local", "V16"),
            ("remote", "V16"),
            ("local_port", "<u2"),
            ("remote_port", "<u2"),
        ],
    )
    if not len(made):
        return made.view("V44")
    for name in ("netns", "local_port", "remote_port"):
        made[name] = plain(table, name)
    for name in ("local", "remote"):
        column = table[f"{name}_addr"].combine_chunks()
        data = column.buffers()[1] if len(column) else None
        if data is not None:
            made[name] = np.frombuffer(data, "V16")[column.offset : column.offset + len(column)]
    return made.view("V44")


def _latest_before(keys: np.ndarray, times: Ints, wanted_keys: np.ndarray, wanted_times: Ints) -> np.ndarray:
    """Per wanted (key, time): the position of the latest entry with that key and no later time, or -1."""
    if not len(keys) or not len(wanted_keys):
        return np.full(len(wanted_keys), -1)
    number = numbered(np.concatenate([keys, wanted_keys]))
    ranks, rank = np.unique(np.concatenate([times, wanted_times]), return_inverse=True)
    joint = number * len(ranks) + rank  # orders by key, then by time
    entries, wanted = joint[: len(keys)], joint[len(keys) :]
    order = np.argsort(entries, kind="stable")
    place = np.searchsorted(entries[order], wanted, side="right") - 1
    found = order[np.maximum(place, 0)]
    same_key = number[: len(keys)][found] == number[len(keys) :]
    return np.where((place >= 0) & same_key, found, -1)


def _amend_resets(columns: dict[str, Nullable], events: pa.Table) -> None:
    """A reset that left after its connection's record is an event with the connection's id."""
    ids = nullable(events, "connection_id")
    late = ids.known & (plain(events, "kind") == Kind.RESET_SENT)
    rows = np.isin(columns["connection_id"].values, ids.values[late])
    columns["close_reason"].values[rows] = CloseReason.RESET_SENT
    unset = rows & (columns["initiator"].values == Initiator.UNKNOWN)
    columns["initiator"].values[unset] = Initiator.LOCAL


def _walked(trace: Trace, netns: Ints) -> np.ndarray:
    """Whether each namespace was entered when what is open was listed; true where the file does not say."""
    seeded = trace.header.get("seeded")
    inodes = seeded.get("inodes") if isinstance(seeded, dict) else None
    if not isinstance(inodes, list):
        return np.ones(len(netns), np.bool_)
    return np.isin(netns, [inode for inode in inodes if isinstance(inode, int) and 0 <= inode < 1 << 32])


def _seeded_ns(trace: Trace) -> int:
    """When everything that was open had been listed (monotonic); what the file does not say is never."""
    seeded = trace.header.get("seeded")
    instant = seeded.get("monotonic_ns") if isinstance(seeded, dict) else None
    return instant if isinstance(instant, int) else -1


def _lower(
    enum: type[Family] | type[Role] | type[CloseReason] | type[Initiator], but: int | None = None
) -> dict[int, str]:
    return {member.value: member.name.lower() for member in enum if member != but}
