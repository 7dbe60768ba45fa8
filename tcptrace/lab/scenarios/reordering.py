"""Packets overtake one another: nothing is lost, whatever the sender thinks."""

from __future__ import annotations

from tcptrace.lab import losses, losses_checks
from tcptrace.lab.losses import Case

DELAY_NS = 20_000_000
# tcp_rack_reo_wnd(): a hole is a loss when segments were acknowledged that were sent a quarter of the minimum
# round trip later, here 10 ms, or three of them, as long as no reordering was met on the connection.
CASES = {
    7001: Case("by two", losses.NO_KIND, {}, late=(8,), late_ns=4_000_000, segments=10),
    7002: Case(
        "by six",
        "fast",
        {"TcpRetransSegs": 1, "TcpExtTCPFastRetrans": 1, "TcpExtTCPDSACKRecv": 1},
        late=(4,),
        late_ns=8_000_000,
        segments=10,
    ),
}


SCENARIO = losses_checks.scenario(
    CASES,
    name="reordering",
    title="A segment is overtaken by two others, and by six",
    teaches="Nothing is lost: one segment of a request takes another way and comes a few milliseconds later "
    "than those that were sent after it. Where two overtake it, the sender waits. Where three or more do, "
    "the sender takes it for lost and repeats it in vain, until the receiver tells (DSACK). The milliseconds "
    "are the network's: loss_recovery_ns is 0 in both cases, and retransmits counts the vain one. Look at "
    "the path: several links, queues or CPUs that share the packets of one flow.",
    delay_ns=DELAY_NS,
    # Or a connection would start with the reordering that those before it met.
    sysctls={"client": {"net.ipv4.tcp_no_metrics_save": 1}},
)
