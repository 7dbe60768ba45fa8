"""What the ends of connections in different recordings tell of their hosts' clocks: see analysis.clocks."""

from dataclasses import fields

import numpy as np
import pyarrow as pa

from tcptrace.analysis.clocks import Comparisons
from tcptrace.analysis.columns import Ints, Nullable, at, nullable, plain, positions, text_equals
from tcptrace.analysis.pairs import TOLERANCE_NS, other_turns
from tcptrace.analysis.rtt import handshakes
from tcptrace.analysis.turns import RAW_STAGES, Turns
from tcptrace.trace.wire import Side

# How much faster one host's clock may be: more than crystals and time servers make of it.
_DRIFT = 500e-6

_AFTER_WIRE = ("kernel_rx_ns", "wakeup_ns", "app_late_ns", "transfer_ns")
_BEFORE_WIRE = tuple(stage for stage in RAW_STAGES if stage not in ("wire_ns", *_AFTER_WIRE))


def comparisons(rows: pa.Table, trace: Ints, across: Ints, turns: Turns) -> Comparisons:
    """What handshakes and turns with ends in two recordings tell about their clocks.

    across: per connection the row of its end in another recording, -1 for none. A handshake is certain to be
    the same one. A turn is, when it was as long after the handshake at both ends, drift granted.
    """
    start = _handshakes(rows)
    asked = np.flatnonzero((across >= 0) & start.known & text_equals(rows["role"], "active"))
    asked = asked[start.known[across[asked]]]
    answered = across[asked]
    shaken = Comparisons(
        here=trace[asked],
        there=trace[answered],
        here_ns=start.values[asked],
        there_ns=start.values[answered],
        error_ns=plain(rows, "handshake_ns")[asked] // 2,
    )
    of = positions(plain(rows, "connection_id"), turns["connection_id"].values)
    since = _since(turns, of, across, start)
    tolerance = TOLERANCE_NS + (np.abs(since.values) * _DRIFT).astype(np.int64)
    other = other_turns(turns, of, across, since, tolerance)
    return _appended(shaken, _turn_comparisons(turns, other))


def _since(turns: Turns, of: Ints, across: Ints, start: Nullable) -> Nullable:
    """When each turn began on a time line of its connection, which both its ends share.

    It begins at the handshake where both ends know when that was. Where they do not, most turns of the same
    sequence number are the same, so that their median difference is that of the clocks.
    """
    begun, partner = turns["started_ns"], at(Nullable(across, across >= 0), of)
    first, other_first = at(start, of), at(start, np.where(partner.known, partner.values, -1))
    shaken = first.known & other_first.known & begun.known

    alone = Nullable(np.zeros(len(of), np.int64), partner.known & begun.known & ~shaken)
    other = other_turns(turns, of, across, alone, 1 << 62)
    one = np.flatnonzero((other >= 0) & (of < partner.values))  # of each pair, the end in the lower row
    two = other[one]
    difference = begun.values[two] - begun.values[one]
    order = np.lexsort((difference, of[one]))
    _, begin, count = np.unique(of[one][order], return_index=True, return_counts=True)
    middle = order[begin + count // 2]
    zero = Nullable(np.zeros(len(across), np.int64), np.zeros(len(across), np.bool_))
    for turn in (one[middle], two[middle]):
        zero.values[of[turn]], zero.known[of[turn]] = begun.values[turn], True
    zero = at(zero, of)
    values = begun.values - np.where(shaken, first.values, zero.values)
    known = shaken | (alone.known & zero.known)
    return Nullable(np.where(known, values, 0), known)


def _handshakes(rows: pa.Table) -> Nullable:
    """A moment of each connection that is the same at both ends up to half of its round trip: when the
    SYN-ACK left, or the middle of the active end's handshake. Null where it was repeated or is not exact."""
    started, handshake = nullable(rows, "started_ns"), handshakes(rows)
    active, passive = text_equals(rows["role"], "active"), text_equals(rows["role"], "passive")
    once = plain(rows, "synack_retransmits") == 0
    middle = started.values + np.where(active, handshake.values // 2, 0)
    return Nullable(middle, started.known & ((passive & once) | (active & handshake.known)))


def _turn_comparisons(turns: Turns, other: Ints) -> Comparisons:
    """The middle of a client's wire time and that of its server's turn."""
    stages = {name: np.where(turns[name].known, turns[name].values, 0) for name in RAW_STAGES}
    slack = turns["total_ns"].values - np.sum(list(stages.values()), axis=0)
    loss, residence = turns["loss_recovery_ns"], turns["residence_ns"]
    here = (other >= 0) & (turns["side"].values == Side.CLIENT) & turns["wire_ns"].known
    here &= loss.known & (loss.values == 0) & residence.known[other]
    client = np.flatnonzero(here)
    server = other[client]
    wire = stages["wire_ns"][client]
    before = np.sum([stages[name][client] for name in _BEFORE_WIRE], axis=0)
    total = turns["total_ns"].values[server]
    away = np.maximum(wire - residence.values[server], 0)
    return Comparisons(
        here=turns["trace"].values[client],
        there=turns["trace"].values[server],
        here_ns=turns["started_ns"].values[client] + before + (slack[client] + wire) // 2,
        there_ns=turns["started_ns"].values[server] + total // 2,
        error_ns=(away + slack[client] + total - residence.values[server]) // 2,
    )


def _appended(one: Comparisons, two: Comparisons) -> Comparisons:
    return Comparisons(
        *(
            np.concatenate([getattr(part, column.name) for part in (one, two)])
            for column in fields(Comparisons)
        )
    )
