"""A lost SYN-ACK costs a second as well, and both ends repeat."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import openings
from tcptrace.lab.checks import Check
from tcptrace.lab.faults import Drop
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

PORT = 7001


def truth(witness: Witness) -> Truth:
    """See :func:`tcptrace.lab.openings.truth`."""
    return openings.truth(witness, (PORT,))


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from openings.checks(truth, rows, {PORT: "first SYN-ACK lost"})


SCENARIO = Scenario(
    name="synack-loss",
    chapter="loss",
    title="The first SYN-ACK is lost",
    teaches="The client cannot tell this from a lost SYN and repeats its SYN after a second. The server, "
    "which has the request half open, repeats its SYN-ACK after a second as well, and once more for each SYN "
    "that comes again. So both ends show a handshake of a second, with syn_retransmits at the client and "
    "synack_retransmits at the server. Where only the client's end shows it, the SYN was lost on its way.",
    topology=Topology(
        delay_ns=10_000_000,
        drops=(Drop("synack", nth=(1,), name="first SYN-ACK of each connection"),),
    ),
    server=openings.server,
    client=openings.client,
    truth=truth,
    checks=checks,
    fast=True,
)
