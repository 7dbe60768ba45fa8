"""The table `exchanges`: one row per turn and end, from the raw records of a trace; and the sums over turns
that have no row, because the ring was too full for a record of each.

Columns: int64 with units in their names (started_ns is wall clock, ns since 1970; every other _ns a
duration), bool, or string. Null means not observed. In every row the stages and unattributed_ns add up to
total_ns exactly, nulls counting 0, and none is negative; without a total all of them are null. See
docs/measurement.md for each definition.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Ints, Nullable, at, names, plain, positions
from tcptrace.analysis.pairs import TOLERANCE_NS, other_ends, other_turns, rough_isns
from tcptrace.analysis.rtt import RoundTrips, clean_samples, round_trips
from tcptrace.analysis.schema import EXCHANGES, SUMS
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.analysis.turns import Turns, raw_turns
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import ExchangeFlag, Kind, Side

# How long after the round trip a delayed ACK comes: net/ipv4/tcp_output.c, tcp_send_delayed_ack() waits from
# TCP_DELACK_MIN (40 ms) to TCP_DELACK_MAX (200 ms); with tolerance for jiffies and for a round trip that
# varies.
_DELAYED_NS = (30_000_000, 210_000_000)

# An answer after less than this share of the least round trip is no jitter.
_EARLY = 7 / 8

_SIDES = {side.value: side.name.lower() for side in Side}
_RETRANSMITS = {"rto": ExchangeFlag.RTO, "fast": ExchangeFlag.FAST, "tlp": ExchangeFlag.TLP}


def exchanges(trace: Trace, connections: pa.Table) -> pa.Table:
    """The table, with the columns of schema.EXCHANGES, ordered by start; unknown starts come first.

    connections: the table of analysis.connections for this trace.
    """
    turns = raw_turns(trace, Kind.EXCHANGE).ordered()
    return turn_rows(_paired(trace, turns, connections))


def sums(trace: Trace, connections: pa.Table) -> pa.Table:
    """The turns that have no row of their own, summed by connection and side, with the columns of
    schema.SUMS.

    Every duration and count is a sum over `exchanges` turns; seq and started_ns are those of the first.
    """
    summed = raw_turns(trace, Kind.EXCHANGES)
    if not len(summed):
        return pa.table([pa.nulls(0, column.type) for column in SUMS], schema=SUMS)
    singles = raw_turns(trace, Kind.EXCHANGE)
    return sum_rows(summed.ordered(), _paired(trace, singles, connections))


def without_rows(trace: Trace) -> int:
    """How many exchanges are in sums alone."""
    kind, summed = plain(trace.exchanges, "kind"), plain(trace.exchanges, "summed")
    return int(summed[kind == Kind.EXCHANGES].clip(1, 1 << 32).sum())


@dataclass(frozen=True)
class Paired:
    """Turns of one exchange each, and what is known about them: ids, the connections' ids in the order of
    their rows; partner, the row of the same turn at the other end, -1 for none; rtt, the round trips of the
    connections."""

    turns: Turns
    ids: Ints
    partner: Ints
    rtt: RoundTrips


def paired(
    turns: Turns, connections: pa.Table, samples: Nullable, ends: Ints, tolerance_ns: int = TOLERANCE_NS
) -> Paired:
    """samples, ends: rtt.clean_samples(), pairs.other_ends() of the connections; tolerance_ns: by how much
    the clocks of both ends may differ."""
    ids = plain(connections, "connection_id")
    of = positions(ids, turns["connection_id"].values)
    partner = other_turns(turns, of, ends, tolerance_ns=tolerance_ns)
    wire, loss, residence = turns["wire_ns"], turns["loss_recovery_ns"], at(turns["residence_ns"], partner)
    undisturbed = (turns["side"].values == Side.CLIENT) & loss.known & (loss.values == 0)
    # A round trip took at most as long as the answer, less the time for which the other end had the request.
    travel = np.maximum(wire.values - residence.values, 0)
    evidence = Nullable(travel, wire.known & undisturbed)
    return Paired(turns, ids, partner, round_trips(connections, samples, of, evidence))


def _paired(trace: Trace, turns: Turns, connections: pa.Table) -> Paired:
    ends = other_ends(connections, rough_isns(trace, connections))
    return paired(turns, connections, clean_samples(trace, connections), ends)


def turn_rows(pairs: Paired) -> pa.Table:
    """`exchanges`, in the order of the turns."""
    turns, partner = pairs.turns, pairs.partner
    rtt = pairs.rtt.of(positions(pairs.ids, turns["connection_id"].values))
    split = _split(turns, rtt, partner, np.ones(len(turns), np.int64))
    made = _columns(turns, split) | {
        "delayed_ack": _delayed_ack(turns, rtt).array(pa.bool_()),
        "peer_connection_id": at(turns["connection_id"], partner).array(),
        "peer_seq": at(turns["seq"], partner).array(),
    }
    return pa.table([made[name] for name in EXCHANGES.names], schema=EXCHANGES)


def sum_rows(summed: Turns, pairs: Paired) -> pa.Table:
    """`sums`, in the order of `summed`; the single turns tell of the round trips of their connections."""
    count = summed["summed"].values.clip(1, 1 << 32)
    rtt = pairs.rtt.of(positions(pairs.ids, summed["connection_id"].values))
    split = _split(summed, rtt, np.full(len(summed), -1), count)
    nothing = Nullable(np.zeros(len(summed), np.int64), np.zeros(len(summed), np.bool_))
    delayed = (summed["flags"].values & ExchangeFlag.DELAYED_ACK) != 0
    made = _columns(summed, split) | {
        # That none was delayed cannot be told from sums.
        "delayed_ack": Nullable(delayed.astype(np.int64), delayed).array(pa.bool_()),
        "peer_connection_id": nothing.array(),
        "peer_seq": nothing.array(),
        "exchanges": Nullable(count, np.ones(len(summed), np.bool_)).array(),
    }
    return pa.table([made[name] for name in SUMS.names], schema=SUMS)


@dataclass
class _Split:
    """What became of the wire time of each row, and whether that is exact."""

    loss: Nullable
    network: Nullable
    peer: Nullable
    exact: Nullable


def _split(turns: Turns, rtt: RoundTrips, partner: Ints, count: Ints) -> _Split:
    """The wire time as network and peer: by what the other end says, else by the minimum round trip.

    rtt: of each row's connection; partner: the row of the same turn at the other end, -1 unknown; count:
    how many turns a row is.
    """
    client = turns["side"].values == Side.CLIENT
    wire, loss = (
        Nullable(turns[name].values.copy(), turns[name].known & client)
        for name in ("wire_ns", "loss_recovery_ns")
    )
    residence = at(turns["residence_ns"], partner)
    # A retransmission for which the answer did not wait: the other end had the request before; or, where that
    # is not known, the answer came clearly sooner than any to that handshake and to other data did.
    early = rtt.least.known & rtt.shaken & rtt.carried & (wire.values < rtt.least.values * _EARLY)
    early = np.where(residence.known, wire.values < residence.values, early)
    spurious = wire.known & loss.known & (loss.values > 0) & (count == 1) & early
    wire.values += np.where(spurious, loss.values, 0)
    loss.values[spurious] = 0

    exact = wire.known & residence.known
    least = rtt.least.values
    travel = np.where(count > wire.values // np.maximum(least, 1), wire.values, count * least)
    peer = np.where(exact, np.minimum(residence.values, wire.values), wire.values - travel)
    known = exact | (wire.known & rtt.least.known)
    # departures that were seen too early leave the wait in the queueing discipline to the network
    early_departure = (turns["flags"].values | at(turns["flags"], partner).values) & ExchangeFlag.BEFORE_QUEUE
    exact &= early_departure == 0
    return _Split(
        loss=loss,
        network=Nullable(wire.values - peer, known),
        peer=Nullable(peer, known),
        exact=Nullable(exact.astype(np.int64), known),
    )


def _columns(turns: Turns, split: _Split) -> dict[str, pa.Array]:
    """What turns and sums of them have in common."""
    found = {name: turns[name] for name in EXCHANGES.names if name in turns.columns}
    found |= {
        "loss_recovery_ns": split.loss,
        "network_ns": split.network,
        "peer_ns": split.peer,
    }
    total = turns["total_ns"]
    rest = total.values.copy()
    for stage in STAGES:
        rest -= np.where(found[stage].known, found[stage].values, 0)
    found[UNATTRIBUTED] = Nullable(rest, total.known)
    flags = turns["flags"].values
    everywhere = np.ones(len(turns), np.bool_)
    repeated = turns["retransmits"].known & (turns["retransmits"].values > 0)
    made = {name: column.array() for name, column in found.items() if name != "side"}
    return made | {
        "side": names(turns["side"], _SIDES),
        "network_exact": split.exact.array(pa.bool_()),
        "hold_ambiguous": Nullable(flags & ExchangeFlag.HOLD_AMBIGUOUS, everywhere).array(pa.bool_()),
        "retransmit_kind": names(Nullable(flags & sum(_RETRANSMITS.values()), repeated), _kinds()),
    }


def _kinds() -> dict[int, str]:
    """Flags of retransmissions in any combination -> their names joined by +."""
    combined = {0: ""}
    for name, flag in _RETRANSMITS.items():
        combined |= {flags | flag: f"{text}+{name}".lstrip("+") for flags, text in combined.items()}
    return {flags: text for flags, text in combined.items() if text}


def _delayed_ack(turns: Turns, rtt: RoundTrips) -> Nullable:
    """Whether a delayed ACK took part: this end's own, or the one that released what Nagle held.

    rtt: of each row's connection; without a handshake it is no more than an upper bound. Null when it cannot
    be told: the hold is not known, or the release is and the round trip is not, or not well enough.
    """
    release, held = turns["release_ns"], turns["nagle_ns"]
    shortest, longest = _DELAYED_NS
    # How late the ACK was, at least and at most.
    least = np.where(rtt.least.known, release.values - rtt.least.values, 0)
    most = np.where(rtt.shaken, least, release.values)
    late = release.known & (least >= shortest) & (most <= longest)
    prompt = ~release.known | (most < shortest) | (least > longest)
    own = (turns["flags"].values & ExchangeFlag.DELAYED_ACK) != 0
    return Nullable((own | late).astype(np.int64), own | late | (held.known & prompt))
