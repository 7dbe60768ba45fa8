"""A lost SYN costs a second, because nothing is known of the path yet."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import openings
from tcptrace.lab.checks import Check
from tcptrace.lab.faults import Drop
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

ONCE, TWICE = PORTS = (7001, 7002)
CASES = {ONCE: "first SYN lost", TWICE: "first two SYNs lost"}


def truth(witness: Witness) -> Truth:
    """See :func:`tcptrace.lab.openings.truth`."""
    return openings.truth(witness, PORTS)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from openings.checks(truth, rows, CASES)


SCENARIO = Scenario(
    name="syn-loss",
    chapter="loss",
    title="The first SYN is lost, and the first two",
    teaches="With no round trip measured yet, the client waits a whole second before it repeats its SYN: one "
    "lost packet makes 1,020 ms of a connect() of 20 ms, and each further loss adds a second or, by "
    "exponential back-off, two and four. The server never saw the lost ones; its end of the handshake took "
    "one round trip, and only the client's handshake_ns and syn_retransmits tell. Cures: keep connections "
    "open, connect ahead of time; and see whether the server's listen queue is full, which drops SYNs as "
    "well.",
    topology=Topology(
        delay_ns=10_000_000,
        drops=(
            Drop("syn", nth=(1,), port=ONCE, name=f"first SYN to port {ONCE}"),
            Drop("syn", nth=(1, 2), port=TWICE, name=f"first two SYNs to port {TWICE}"),
        ),
    ),
    ports=len(PORTS),
    server=openings.server,
    client=openings.client,
    truth=truth,
    checks=checks,
    fast=True,
)
