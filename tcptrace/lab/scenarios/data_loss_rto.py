"""Nothing comes back: the retransmission time-out repeats the segment, and doubles when that is lost."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import losses, losses_checks
from tcptrace.lab.checks import Check
from tcptrace.lab.losses import Case
from tcptrace.lab.part import Part
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.witness import Witness

CASES = {
    7001: Case("request", "rto", {"TcpRetransSegs": 1, "TcpExtTCPTimeouts": 1}, lost=(1,)),
    7002: Case("request and its repeat", "rto", {"TcpRetransSegs": 2, "TcpExtTCPTimeouts": 2}, lost=(1, 2)),
}


def server(part: Part) -> None:
    losses.server(part, CASES)


def client(part: Part) -> None:
    losses.client(part, CASES)


def truth(witness: Witness) -> Truth:
    """See :func:`tcptrace.lab.losses_checks.truth`."""
    return losses_checks.truth(witness, CASES)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from losses_checks.checks(truth, rows, CASES)


SCENARIO = Scenario(
    name="data-loss-rto",
    chapter="loss",
    title="A lost request is repeated after the retransmission time-out",
    teaches="The last segment of a burst is lost, so no ACK comes that could tell, and the sender waits for "
    "its time-out: a round trip and at least 200 ms more, doubled each time that the repetition is lost, "
    "too. loss_recovery_ns is that wait, and network_ns stays one round trip. Tail loss probes, which are "
    "off here, shorten it (see data-loss-tlp).",
    topology=losses.topology(CASES),
    ports=len(CASES),
    sysctls={"client": {"net.ipv4.tcp_early_retrans": 0}},
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
