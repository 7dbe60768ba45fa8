"""Resumed TLS sessions: a round trip less with TLS 1.2, none less with TLS 1.3."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab import tls
from tcptrace.lab.checks import Check
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

FULL, RESUMED = tls.CONNECTIONS, 5
PORTS: dict[int, tls.Version] = {7001: "1.2", 7002: "1.3"}
IN_FULL, AGAIN = slice(FULL), slice(FULL, None)


def server(part: Part) -> None:
    punctual()
    contexts = {version: tls.server_context(version) for version in PORTS.values()}
    for port, version in PORTS.items():
        part.serve(port, tls.answer(contexts[version]))
    contexts["1.3"].num_tickets = 1
    part.ready()
    part.hear("enough tickets")
    contexts["1.3"].num_tickets = 0
    part.tell("no more tickets")
    part.until_done()


def client(part: Part) -> None:
    punctual()
    contexts = {port: tls.client_context(version) for port, version in PORTS.items()}
    for _ in range(FULL):
        sessions = {port: tls.ask(part, port, contexts[port]) for port in PORTS}
    part.tell("enough tickets")
    part.hear("no more tickets")
    for _ in range(RESUMED):
        for port in PORTS:
            tls.ask(part, port, contexts[port], sessions[port])


def truth(witness: Witness) -> Truth:
    """As for the other scenarios of TLS; the first connections to each port are those in full."""
    found: Truth = {}
    for port, version in PORTS.items():
        found |= tls.truth(witness, port)
        if found[f"resumed_{port}"] != [False] * FULL + [True] * RESUMED:
            raise TcptraceError(f"this host's OpenSSL resumes no session of TLS {version}")
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, version in PORTS.items():
        yield from tls.checks(truth, rows, port, f"TLS {version} in full", IN_FULL)
        yield from tls.checks(truth, rows, port, f"TLS {version} resumed", AGAIN)


SCENARIO = Scenario(
    name="tls-resumed",
    chapter="handshake",
    title="TLS sessions resumed: a round trip less with 1.2, none less with 1.3",
    teaches="Who resumes a session of TLS 1.2 (port 7001) has one round trip instead of two: the first turn "
    "of its connection brings the server's Finished already. With TLS 1.3 (port 7002) there is one "
    "in any case; resuming saves the certificate and the work for it, which shows in response_bytes and "
    "peer_ns, and no round trip: that takes early data (0-RTT), which few servers allow. The first eight "
    "connections to each port are full handshakes.",
    topology=Topology(delay_ns=tls.DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
