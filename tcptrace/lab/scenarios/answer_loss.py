"""A lost answer is repeated by the server; the client can only wait."""

from __future__ import annotations

from tcptrace.lab import losses, losses_checks
from tcptrace.lab.losses import Case

# The server thinks until its delayed ACK is out: else the client, too, would repeat what nobody acknowledged.
CASES = {7001: Case("answer", losses.NO_KIND, {}, answer_lost=True, think_s=0.1)}


SCENARIO = losses_checks.scenario(
    CASES,
    name="answer-loss",
    title="The answer is lost: only the server's end knows",
    teaches="The client's request is acknowledged, and it cannot tell a lost answer from a slow one: its "
    "loss_recovery_ns is 0, and the wait is network_ns or, without a recording of the other end, peer_ns. "
    "The server's end tells: its turn has the retransmit and the kind. So look at both ends before you blame "
    "an application.",
    more=losses_checks.answers_checks,
    fast=True,
)
