"""Three-way handshakes: one round trip before a client may send."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import packets
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, receive, timed
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

MS = 1_000_000
DELAYS_NS = (1 * MS, 10 * MS, 50 * MS)
ROUNDS = 4
CASES = [(ipv6, delay_ns) for _ in range(ROUNDS) for ipv6 in (False, True) for delay_ns in DELAYS_NS]
"""One connection each, in this order: the link gives each the next of its delays."""
PORTS = {False: 7001, True: 7002}


def server(part: Part) -> None:
    for port in part.ports:
        part.serve(port, lambda connection: connection.sendall(connection.recv(1)))
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    for ipv6, _ in CASES:
        with timed(part, f"connect_{PORTS[ipv6]}_ns"):
            one = part.connect(PORTS[ipv6], ipv6=ipv6)
        with one:
            one.sendall(b"x")
            receive(one, 1)


def truth(witness: Witness) -> Truth:
    """How long connect() took, and what of it the relay had, as either end sees it; in the order of CASES."""
    assert witness.log is not None
    found: Truth = {}
    for port in PORTS.values():
        ways = [packets.handshake_ns(flow) for flow in packets.flows(witness.log, port)]
        found[f"connect_{port}_ns"] = witness.client[f"connect_{port}_ns"]
        found[f"active_{port}_ns"], found[f"passive_{port}_ns"] = zip(*ways, strict=True)
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for ipv6, port in PORTS.items():
        family = "ipv6" if ipv6 else "ipv4"
        active, passive = rows.ends("active", port), rows.ends("passive", port)
        yield same(f"{family}: connections that were opened", len(truth[f"connect_{port}_ns"]), len(active))
        yield same(f"{family}: of this family", len(active), sum(row["family"] == family for row in active))
        over = [took for took in column(active, "handshake_ns") if took is not None]
        shorter = sum(row < took for row, took in zip(over, truth[f"connect_{port}_ns"], strict=False))
        yield same(f"{family}: handshakes shorter than their connect()", len(active), shorter)
        delays = [delay for case, delay in CASES if case is ipv6]
        for delay in DELAYS_NS:
            mine = [number for number, found in enumerate(delays) if found == delay]
            for name, ends in (("active", active), ("passive", passive)):
                yield each(
                    f"{family}, {delay // MS} ms each way: handshake, {name} end",
                    [truth[f"{name}_{port}_ns"][number] for number in mine],
                    [column(ends, "handshake_ns")[number] for number in mine if number < len(ends)],
                    relative=0.02,
                    absolute_ns=200_000,
                )


SCENARIO = Scenario(
    name="handshake",
    chapter="handshake",
    title="The three-way handshake at 1, 10 and 50 ms each way, IPv4 and IPv6",
    teaches="A client may send only after one round trip: SYN out, SYN-ACK back. The server has its "
    "connection when the ACK arrives, one and a half round trips after the SYN left. handshake_ns is that "
    "round trip, seen from either end; nothing in the application shortens it but keeping connections open.",
    topology=Topology(flow_delays_ns=DELAYS_NS),
    ports=2,
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
