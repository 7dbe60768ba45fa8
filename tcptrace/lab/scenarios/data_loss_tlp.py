"""The end of a request is lost, and nothing comes behind it: the tail loss probe."""

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
    7001: Case(
        "last two of four",
        "fast+tlp",
        {"TcpRetransSegs": 2, "TcpExtTCPLossProbes": 1, "TcpExtTCPFastRetrans": 1},
        (3, 4),
        segments=4,
    ),
    7002: Case("only segment", "tlp", {"TcpRetransSegs": 1, "TcpExtTCPLossProbes": 1}, (1,)),
    7003: Case(
        "only segment and its probe",
        "rto+tlp",
        {"TcpRetransSegs": 2, "TcpExtTCPLossProbes": 1, "TcpExtTCPTimeouts": 1},
        (1, 2),
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
    name="data-loss-tlp",
    chapter="loss",
    title="The end of a request is lost, and a tail loss probe repeats it",
    teaches="With nothing behind the lost segment no ACK tells of the hole. After two round trips without "
    "any, and 200 ms more where only one segment is out, since its ACK may be delayed, the sender repeats "
    "the last segment as a probe; its ACK tells of other holes. When the probe is lost as well, the time-out "
    "is left. retransmit_kind says tlp, fast+tlp, rto+tlp. On short paths those 200 ms are all of it: small "
    "requests suffer most.",
    topology=losses.topology(CASES),
    ports=len(CASES),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
