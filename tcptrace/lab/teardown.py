"""How long each end of a connection was in which state, as the packets in the relay's log say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.link import Log
from tcptrace.lab.packet import ACK, FIN, RST, SYN
from tcptrace.lab.rows import Role, Row, column
from tcptrace.lab.scenario import Truth

STATES = ("established", "fin_wait1", "fin_wait2", "closing", "close_wait", "last_ack")
SIDES: dict[int, Role] = {packets.OUT: "active", packets.BACK: "passive"}


def opened_ns(flow: Log, side: int) -> int:
    """When the end that sends in direction `side` got its connection, by the relay's clock: the SYN-ACK out,
    or the client's answer to it. Raises TcptraceError when the log has none; the client opened it."""
    try:
        answer = packets.of_kind(flow, "synack", packets.BACK)[0]
        if side == packets.OUT:
            return int(answer["left_ns"])
        ways = (flow["direction"] == packets.OUT) & ((flow["flags"] & (SYN | RST | ACK)) == ACK)
        return int(flow[ways & (flow["arrived_ns"] >= answer["left_ns"])][0]["left_ns"])
    except IndexError:
        raise TcptraceError("the link's log does not have the whole of a handshake") from None


def state_times(flow: Log, side: int) -> dict[str, int]:
    """Time in each of STATES, in ns at the relay, for the end that sends in direction `side`; states that it
    was not in are left out. Right for an end but for both ends' own work.

    For a connection that both ends closed by FIN, and that the client opened.

    Raises:
        TcptraceError: the log lacks one of its packets.
    """
    fins = [packets.of_kind(flow, "fin", way) for way in (side, 1 - side)]
    if not all(map(len, fins)):
        raise TcptraceError("the link's log does not have both FINs of a connection")
    sent, came = int(fins[0]["arrived_ns"][0]), int(fins[1]["left_ns"][0])
    acknowledged = sent + packets.acknowledged_ns(flow, fins[0][0])
    times = {"established": min(sent, came) - opened_ns(flow, side)}
    if came < sent:
        return times | {"close_wait": sent - came, "last_ack": acknowledged - sent}
    times["fin_wait1"] = min(acknowledged, came) - sent
    return times | {"fin_wait2" if acknowledged <= came else "closing": abs(came - acknowledged)}


def lived_ns(flow: Log, side: int) -> int:
    """How long the connection was open at the end that sends in direction `side`, at the relay: up to its own
    FIN in, its own reset in or the peer's reset out. Raises TcptraceError when there is none of them."""
    own = flow[(flow["direction"] == side) & ((flow["flags"] & (FIN | RST)) != 0)]["arrived_ns"]
    ends = [*own, *packets.of_kind(flow, "rst", 1 - side)["left_ns"]]
    if not ends:
        raise TcptraceError("the link's log has neither a FIN nor a reset of a connection")
    return int(min(ends)) - opened_ns(flow, side)


def truth_of(log: Log, port: int) -> Truth:
    """`active_PORT_fin_wait1_ns` and so on: a list over this port's connections, by end and state."""
    found: Truth = {}
    for flow in packets.flows(log, port):
        for side, role in SIDES.items():
            for state, took in state_times(flow, side).items():
                found.setdefault(f"{role}_{port}_{state}_ns", []).append(took)
    return found


def state_checks(
    name: str, truth: Truth, role: Role, port: int, rows: Sequence[Row], *, hidden: Sequence[str] = ()
) -> Iterator[Check]:
    """Every state's time of these rows against the truth. hidden: states that the kernel keeps without a
    socket, and that have no time therefore; where a process is slow to close it keeps the socket at times,
    and then the time has to be right."""
    others = 0
    for state in STATES:
        true, measured = truth.get(f"{role}_{port}_{state}_ns"), column(rows, f"{state}_ns")
        if true is not None and state in hidden:
            kept = [(took, found) for took, found in zip(true, measured, strict=False) if found is not None]
            if not kept:
                continue
            true, measured = (list(values) for values in zip(*kept, strict=True))
        if true is None:
            others += len(measured) - measured.count(None)
            continue
        # Where only an application's clock tells of ESTABLISHED: it learns of that after the kernel.
        late_ns = 1_500_000 if state == "established" else 500_000
        yield each(f"{name}: {state.upper()}", true, measured, relative=0.02, absolute_ns=late_ns)
    yield same(f"{name}: times in states that it was not seen in", 0, others)
