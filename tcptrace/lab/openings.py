"""Connections that are opened at the same moment over a link that loses packets of their handshakes."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, alike, bounded, each, fold, same
from tcptrace.lab.part import Part, drain, punctual
from tcptrace.lab.rows import Rows, chosen, column
from tcptrace.lab.scenario import Truth
from tcptrace.lab.witness import Witness

AT_ONCE = 4
"""Connections to each port: the median of several, and all wait for the same second."""


def server(part: Part) -> None:
    """Accept, and keep each connection until its client closes."""
    for port in part.ports:
        part.serve(port, _until_closed)
    part.ready()
    part.until_done()


def _until_closed(connection: socket.socket) -> None:
    drain(connection)


def client(part: Part) -> None:
    """Open all connections, then close them. Notes `connect_PORT_ns`: how long each connect() took, in the
    order in which they were begun."""
    punctual()
    begun: list[tuple[socket.socket, int]] = []
    took: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        for port in part.ports:
            for _ in range(AT_ONCE):
                one = part.unconnected()
                one.setblocking(False)
                begun.append((one, time.monotonic_ns()))
                one.connect_ex((part.peer, port))
                selector.register(one, selectors.EVENT_WRITE)
        while len(took) < len(begun):
            ready = selector.select(part.limit_s)
            if not ready:
                raise TcptraceError(f"connect() is not over after {part.limit_s:g} s")
            for key, _ in ready:
                took[key.fd] = time.monotonic_ns()
                selector.unregister(key.fileobj)
    for one, since_ns in begun:
        part.note(f"connect_{one.getpeername()[1]}_ns", took[one.fileno()] - since_ns)
        one.close()


def truth(witness: Witness, ports: Sequence[int]) -> Truth:
    """By port, one value per connection in the order of their first SYNs: its client's port, how long
    connect() took, the handshake as either end sees it at the relay, how often it repeated SYN and SYN-ACK.
    And what the kernels of either end counted."""
    assert witness.log is not None
    found: Truth = {}
    for port in ports:
        flows = packets.flows(witness.log, port)
        ways = [packets.handshake_ns(flow) for flow in flows]
        found[f"client_ports_{port}"] = [int(flow["source_port"][0]) for flow in flows]
        found[f"connect_{port}_ns"] = witness.client[f"connect_{port}_ns"]
        found[f"active_{port}_ns"], found[f"passive_{port}_ns"] = (
            list(way) for way in zip(*ways, strict=True)
        )
        for kind in ("syn", "synack"):
            found[f"{kind}s_repeated_{port}"] = [len(packets.of_kind(flow, kind)) - 1 for flow in flows]
    for role, notes in (("client", witness.client), ("server", witness.server)):
        found[f"{role}_kernel_repeated"] = notes.kernel.get("TcpExtTCPSynRetrans", 0)
    return found


def checks(truth: Truth, rows: Rows, cases: dict[int, str]) -> Iterator[Check]:
    """`cases`: what is lost on each port, in words."""
    for port, lost in cases.items():
        clients = truth[f"client_ports_{port}"]
        active = chosen(rows.ends("active", port), "local_port", clients)
        passive = chosen(rows.ends("passive", port), "remote_port", clients)
        yield same(f"{lost}: connections", AT_ONCE, len(rows.ends("active", port)))
        took = column(active, "handshake_ns")
        # Between the relay and connect() is what either process waited for its turn.
        at_client = bounded(truth[f"active_{port}_ns"], truth[f"connect_{port}_ns"], took)
        for name, ends, true in (
            ("active", active, at_client),
            ("passive", passive, truth[f"passive_{port}_ns"]),
        ):
            yield each(
                f"{lost}: handshake, {name} end",
                true,
                column(ends, "handshake_ns"),
                relative=0.002,
                absolute_ns=500_000,
            )
        shorter = [
            found is not None and found < whole
            for found, whole in zip(took, truth[f"connect_{port}_ns"], strict=False)
        ]
        yield same(f"{lost}: handshakes shorter than their connect()", AT_ONCE, sum(shorter))
        for kind, name, ends in (("syn", "SYNs", active), ("synack", "SYN-ACKs", passive)):
            yield alike(
                f"{lost}: connections with as many repeated {name} as the link carried",
                truth[f"{kind}s_repeated_{port}"],
                column(ends, f"{kind}_retransmits"),
            )
        yield alike(
            f"{lost}: ends to which no repeated data is charged",
            [0] * (2 * AT_ONCE),
            column([*active, *passive], "retransmits"),
        )
    repeated: dict[str, list[float | None]] = {"client": [], "server": []}
    for port in cases:
        repeated["client"] += column(rows.ends("active", port), "syn_retransmits")
        repeated["server"] += column(rows.ends("passive", port), "synack_retransmits")
    for role, kind in (("client", "SYNs"), ("server", "SYN-ACKs")):
        yield same(
            f"repeated {kind} in all, as the {role}'s kernel counted",
            truth[f"{role}_kernel_repeated"],
            fold(sum, repeated[role]),
        )
