"""Later segments arrive, and their ACKs tell of the hole: fast retransmit."""

from __future__ import annotations

from tcptrace.lab import losses_checks
from tcptrace.lab.losses import Case

CASES = {
    7001: Case("one of ten", "fast", {"TcpRetransSegs": 1, "TcpExtTCPFastRetrans": 1}, (4,), segments=10),
    7002: Case(
        "three of ten", "fast", {"TcpRetransSegs": 3, "TcpExtTCPFastRetrans": 3}, (2, 4, 6), segments=10
    ),
}


SCENARIO = losses_checks.scenario(
    CASES,
    name="data-loss-fast",
    title="Segments in the middle of a request are lost and repeated after one round trip",
    teaches="What arrives behind a hole is acknowledged selectively (SACK), and after a round trip the "
    "sender knows what is missing and repeats it: a loss costs one round trip more, several in one flight "
    "hardly more than one. loss_recovery_ns is that wait, and retransmit_kind is fast. It takes segments "
    "behind the lost one: the last ones of a request have none (see data-loss-tlp).",
)
