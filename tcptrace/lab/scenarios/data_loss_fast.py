"""Later segments arrive, and their ACKs tell of the hole: fast retransmit."""

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
    7001: Case("one of ten", "fast", {"TcpRetransSegs": 1, "TcpExtTCPFastRetrans": 1}, (4,), segments=10),
    7002: Case(
        "three of ten", "fast", {"TcpRetransSegs": 3, "TcpExtTCPFastRetrans": 3}, (2, 4, 6), segments=10
    ),
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
    name="data-loss-fast",
    chapter="loss",
    title="Segments in the middle of a request are lost and repeated after one round trip",
    teaches="What arrives behind a hole is acknowledged selectively (SACK), and after a round trip the "
    "sender knows what is missing and repeats it: a loss costs one round trip more, several in one flight "
    "hardly more than one. loss_recovery_ns is that wait, and retransmit_kind is fast. It takes segments "
    "behind the lost one: the last ones of a request have none (see data-loss-tlp).",
    topology=losses.topology(CASES),
    ports=len(CASES),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
