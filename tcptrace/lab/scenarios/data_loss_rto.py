"""Nothing comes back: the retransmission time-out repeats the segment, and doubles when that is lost."""

from __future__ import annotations

from tcptrace.lab import losses_checks
from tcptrace.lab.losses import Case

CASES = {
    7001: Case("request", "rto", {"TcpRetransSegs": 1, "TcpExtTCPTimeouts": 1}, lost=(1,)),
    7002: Case("request and its repeat", "rto", {"TcpRetransSegs": 2, "TcpExtTCPTimeouts": 2}, lost=(1, 2)),
}


SCENARIO = losses_checks.scenario(
    CASES,
    name="data-loss-rto",
    title="A lost request is repeated after the retransmission time-out",
    teaches="The last segment of a burst is lost, so no ACK comes that could tell, and the sender waits for "
    "its time-out: a round trip and at least 200 ms more, doubled each time that the repetition is lost, "
    "too. loss_recovery_ns is that wait, and network_ns stays one round trip. Tail loss probes, which are "
    "off here, shorten it (see data-loss-tlp).",
    sysctls={"client": {"net.ipv4.tcp_early_retrans": 0}},
    fast=True,
)
