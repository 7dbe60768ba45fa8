"""Two SYNs cross: one connection, two ends that both opened it, and no listener."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.link import Log
from tcptrace.lab.part import Part, receive
from tcptrace.lab.rows import Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

PORTS = (7001, 7002, 7003)
"""One connection each: the same port at both ends."""
DELAY_NS = 100_000_000
ENDS = {"client": packets.OUT, "server": packets.BACK}


def begin(part: Part, port: int) -> socket.socket:
    """Bind to a port and connect to the same port of the other end, without waiting."""
    one = part.unconnected()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT of the last time
    one.bind(("", port))
    one.setblocking(False)
    if one.connect_ex((part.peer, port)) != errno.EINPROGRESS:
        raise TcptraceError(f"no connection to {part.peer} port {port} was begun")
    one.settimeout(part.limit_s)
    return one


def talk(part: Part, port: int, one: socket.socket, first: bool) -> None:
    """One byte each way, then one end closes first."""
    part.note("address", one.getsockname()[0])
    if first:
        one.sendall(b"x")  # waits for the connection
        receive(one, 1)
        one.close()
        part.hear("closed")
        return
    one.sendall(receive(one, 1))
    if one.recv(1):
        raise TcptraceError("the client sent more than it should")
    one.close()
    part.tell("closed")


def server(part: Part) -> None:
    part.ready()
    for port in PORTS:
        part.hear("begin")
        with contextlib.closing(begin(part, port)) as one:
            part.tell("begun")  # beside the link, on which the SYN takes much longer
            talk(part, port, one, first=False)
    part.until_done()


def client(part: Part) -> None:
    for port in PORTS:
        part.tell("begin")
        part.hear("begun")
        with contextlib.closing(begin(part, port)) as one:
            talk(part, port, one, first=True)


def opening_ns(flow: Log, side: int) -> tuple[int, int]:
    """How long the end on a side was in SYN_SENT and then in SYN_RECV, at the relay: own SYN in, the other's
    SYN out, its SYN-ACK out."""
    syn, other = (packets.of_kind(flow, "syn", way)[0] for way in (side, 1 - side))
    answer = packets.of_kind(flow, "synack", 1 - side)[0]
    return int(other["left_ns"] - syn["arrived_ns"]), int(answer["left_ns"] - other["left_ns"])


def truth(witness: Witness) -> Truth:
    """By end, from the relay's log. Raises TcptraceError when a host was so late that the SYNs did not
    cross."""
    assert witness.log is not None
    flows = [flow for port in PORTS for flow in packets.flows(witness.log, port)]
    found: Truth = {
        "addresses": {notes.part: notes["address"][0] for notes in (witness.client, witness.server)}
    }
    for flow in flows:
        syns = packets.of_kind(flow, "syn")
        if syns["arrived_ns"].max() > syns["left_ns"].min():
            raise TcptraceError("the SYNs did not cross: a part connected later than the link's delay")
    for name, side in ENDS.items():
        times = [opening_ns(flow, side) for flow in flows]
        found[f"{name}_syn_sent_ns"], found[f"{name}_syn_recv_ns"] = zip(*times, strict=True)
        found[f"{name}_handshake_ns"] = [sum(both) for both in times]
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    both = [row for port in PORTS for row in rows.ends("active", port)]
    passive = [row for port in PORTS for row in rows.ends("passive", port)]
    yield same("ends that only answered", 0, len(passive))
    for name in ENDS:
        ends = [row for row in both if row["local_addr"] == truth["addresses"][name]]
        yield same(f"{name}: rows of role active", len(PORTS), len(ends))
        yield same(f"{name}: close_reason", "fin", common(ends, "close_reason"))
        yield same(f"{name}: handshake_exact", "False", common(ends, "handshake_exact"))
        for what in ("syn_sent", "syn_recv", "handshake"):
            yield each(
                f"{name}: {what}",
                truth[f"{name}_{what}_ns"],
                column(ends, f"{what}_ns"),
                relative=0.02,
                absolute_ns=500_000,
            )


SCENARIO = Scenario(
    name="simultaneous-open",
    chapter="handshake",
    title="Two SYNs cross: both ends open the same connection",
    teaches="When both ends connect to each other from the ports that the other expects, and the SYNs cross, "
    "there is one connection, and both ends have role active: SYN_SENT until the other's SYN comes, SYN_RECV "
    "until its SYN-ACK does. No listener is needed, which is how some programs pass through NAT. Where a "
    "client connects to a port of its own host's ephemeral range, it may so connect to itself by accident.",
    topology=Topology(delay_ns=DELAY_NS, relay=True),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
