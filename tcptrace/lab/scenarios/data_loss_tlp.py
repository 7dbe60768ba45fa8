"""The end of a request is lost, and nothing comes behind it: the tail loss probe."""

from __future__ import annotations

from tcptrace.lab import losses_checks
from tcptrace.lab.losses import Case

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


SCENARIO = losses_checks.scenario(
    CASES,
    name="data-loss-tlp",
    title="The end of a request is lost, and a tail loss probe repeats it",
    teaches="With nothing behind the lost segment no ACK tells of the hole. After two round trips without "
    "any, and 200 ms more where only one segment is out, since its ACK may be delayed, the sender repeats "
    "the last segment as a probe; its ACK tells of other holes. When the probe is lost as well, the time-out "
    "is left. retransmit_kind says tlp, fast+tlp, rto+tlp. On short paths those 200 ms are all of it: small "
    "requests suffer most.",
    fast=True,
)
