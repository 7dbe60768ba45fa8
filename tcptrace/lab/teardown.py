"""How long each end of a connection was in which state, as the packets in the relay's log say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.link import Log
from tcptrace.lab.packet import ACK, RST, SYN
from tcptrace.lab.rows import Role, Row, column
from tcptrace.lab.scenario import Truth

STATES = ("established", "fin_wait1", "fin_wait2", "closing", "close_wait", "last_ack")
SIDES: dict[int, Role] = {packets.OUT: "active", packets.BACK: "passive"}


def state_times(flow: Log, side: int) -> dict[str, int]:
    """Time in each of STATES, in ns at the relay, for the end that sends in direction `side`; states that it
    was not in are left out. Right for an end but for both ends' own work.

    For a connection that both ends closed by FIN, and that the client opened.

    Raises:
        TcptraceError: the log lacks one of its packets.
    """
    try:
        mine, theirs = (packets.of_kind(flow, "fin", way)[0] for way in (side, 1 - side))
        answer = packets.of_kind(flow, "synack")[0]
        opened = answer["left_ns"]
        if side == packets.BACK:
            ways = (flow["direction"] == packets.OUT) & ((flow["flags"] & (SYN | RST | ACK)) == ACK)
            opened = flow[ways & (flow["arrived_ns"] >= opened)][0]["left_ns"]
    except IndexError:
        raise TcptraceError("the link's log does not have the whole of a connection") from None
    sent, came = int(mine["arrived_ns"]), int(theirs["left_ns"])
    acknowledged = sent + packets.acknowledged_ns(flow, mine)
    first = "fin_wait1" if sent < came else "close_wait"
    times = {"established": min(sent, came) - int(opened)}
    if first == "close_wait":
        return times | {"close_wait": sent - came, "last_ack": acknowledged - sent}
    times["fin_wait1"] = min(acknowledged, came) - sent
    return times | {"fin_wait2" if acknowledged <= came else "closing": abs(came - acknowledged)}


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
    socket, and that have no time therefore."""
    others = 0
    for state in STATES:
        true, measured = truth.get(f"{role}_{port}_{state}_ns"), column(rows, f"{state}_ns")
        if true is None or state in hidden:
            others += len(measured) - measured.count(None)
            continue
        # Where only an application's clock tells of ESTABLISHED: it learns of that after the kernel.
        late_ns = 1_500_000 if state == "established" else 500_000
        yield each(f"{name}: {state.upper()}", true, measured, relative=0.02, absolute_ns=late_ns)
    yield same(f"{name}: times in states that it was not seen in", 0, others)
