"""The relay's log of packets, by flow and by kind: the truth on the wire."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tcptrace.errors import TcptraceError
from tcptrace.lab.faults import Kind
from tcptrace.lab.link import Log
from tcptrace.lab.packet import ACK, FIN, RST, SYN

OUT, BACK = 0, 1
"""Directions: from the client's side to the server's, and back."""


def flows(log: Log, port: int) -> list[Log]:
    """The packets of each connection with this port at either end, in the order in which the connections
    began; within one, in the order in which they arrived at the relay."""
    mine = log[(log["source_port"] == port) | (log["destination_port"] == port)]
    mine = mine[np.argsort(mine["arrived_ns"], kind="stable")]
    return [mine[mine["flow"] == flow] for flow in np.unique(mine["flow"])]


def of_kind(packets: Log, kind: Kind, direction: int | None = None) -> Log:
    """The packets of a kind, as the link's rules have it (see :class:`tcptrace.lab.faults.Drop`)."""
    flags = packets["flags"]
    opening, acknowledging = (flags & SYN) != 0, (flags & ACK) != 0
    chosen: npt.NDArray[np.bool_] = {
        "syn": opening & ~acknowledging,
        "synack": opening & acknowledging,
        "data": (packets["payload"] > 0) & ~opening,
        "fin": (flags & FIN) != 0,
        "rst": (flags & RST) != 0,
        "any": np.ones(len(packets), bool),
    }[kind]
    if direction is not None:
        chosen = chosen & (packets["direction"] == direction)
    found: Log = packets[chosen]
    return found


def pure_acks(packets: Log, direction: int | None = None) -> Log:
    """Acknowledgements without data that neither open nor close."""
    flags = packets["flags"]
    chosen = ((flags & ACK) != 0) & ((flags & (SYN | FIN | RST)) == 0) & (packets["payload"] == 0)
    if direction is not None:
        chosen = chosen & (packets["direction"] == direction)
    found: Log = packets[chosen]
    return found


def dropped(packets: Log) -> Log:
    """What the link lost on purpose."""
    lost: Log = packets[packets["rule"] >= 0]
    return lost


def handshake_ns(flow: Log) -> tuple[int, int]:
    """How long the handshake took for the client's side and for the server's, at the relay: first SYN in to
    first SYN-ACK out; first SYN-ACK in to the client's answer out, in ns. Less than at the ends, by their own
    work. What was lost on the way is in it.

    For a flow that the client opened. Raises TcptraceError when it did not come about.
    """
    synacks = of_kind(flow, "synack")
    came = synacks[synacks["left_ns"] >= 0]
    if not len(came):
        raise TcptraceError("a connection in the link's log was never opened")
    received_ns = came["left_ns"].min()
    after = (flow["direction"] == OUT) & (flow["arrived_ns"] > received_ns) & ((flow["flags"] & SYN) == 0)
    after &= flow["left_ns"] >= 0
    if not after.any():
        raise TcptraceError("a SYN-ACK in the link's log was never answered")
    answered_ns = flow["left_ns"][after][0]
    return (
        int(received_ns - of_kind(flow, "syn")["arrived_ns"][0]),
        int(answered_ns - synacks["arrived_ns"][0]),
    )


def acknowledged_ns(flow: Log, packet: np.void) -> int:
    """How long a packet that passed was unacknowledged for its sender's side, at the relay: in, to the
    first packet that acknowledges all of it out, in ns. Less than at the end, by both ends' own work.

    Raises TcptraceError when nothing does.
    """
    flags = int(packet["flags"])
    end = int(packet["sequence"]) + int(packet["payload"]) + bool(flags & SYN) + bool(flags & FIN)
    back = flow[(flow["direction"] != packet["direction"]) & (flow["left_ns"] > packet["left_ns"])]
    ahead = (back["acknowledgement"].astype(np.int64) - end) % (1 << 32)
    covering = back[((back["flags"] & ACK) != 0) & (ahead < 1 << 31)]
    if not len(covering):
        raise TcptraceError("a packet in the link's log was never acknowledged")
    return int(covering["left_ns"].min() - packet["arrived_ns"])


def set_ups_ns(log: Log | None, port: int, connects: Sequence[int]) -> list[int]:
    """How long the handshake of each connection to a port took at the relay, for the client's side; without a
    log, how long connect() did. What a busy host adds after the handshake is in `connects` alone."""
    if log is None:
        return list(connects)
    return [handshake_ns(flow)[0] for flow in flows(log, port)]


def carried_ns(flow: Log) -> list[int]:
    """For how long the link had each turn of a flow, in ns: the last segment of the request and the first of
    its answer. What one side sends until the other does is a request or an answer; repetitions are left out.
    """
    data = of_kind(flow, "data")
    keys = np.stack([data["direction"], data["sequence"]], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    once = data[np.sort(first)]
    took = once["left_ns"] - once["arrived_ns"]
    side = once["direction"]
    asked = np.flatnonzero((side[:-1] == OUT) & (side[1:] == BACK))
    return [int(out + back) for out, back in zip(took[asked], took[asked + 1], strict=True)]


def departures_ns(flow: Log, ends: Sequence[int]) -> list[int]:
    """When the relay first had all of the first `end` bytes that the client's side sent, for each of `ends`,
    in ns of CLOCK_MONOTONIC. For flows without loss.

    Raises:
        TcptraceError: it never had.
    """
    data = of_kind(flow, "data", OUT)
    start = int(of_kind(flow, "syn", OUT)[0]["sequence"]) + 1
    upto = (data["sequence"].astype(np.int64) - start) % 2**32 + data["payload"]
    found = []
    for end in ends:
        enough = data["arrived_ns"][upto >= end]
        if not len(enough):
            raise TcptraceError(f"the link's log has less than {end} bytes of a connection")
        found.append(int(enough.min()))
    return found
