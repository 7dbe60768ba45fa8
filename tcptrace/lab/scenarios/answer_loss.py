"""A lost answer is repeated by the server; the client can only wait."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import losses, losses_checks
from tcptrace.lab.checks import Check
from tcptrace.lab.losses import Case
from tcptrace.lab.part import Part
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.witness import Witness

# The server thinks until its delayed ACK is out: else the client, too, would repeat what nobody acknowledged.
CASES = {7001: Case("answer", losses.NO_KIND, {}, answer_lost=True, think_s=0.1)}


def server(part: Part) -> None:
    losses.server(part, CASES)


def client(part: Part) -> None:
    losses.client(part, CASES)


def truth(witness: Witness) -> Truth:
    """See :func:`tcptrace.lab.losses_checks.truth`."""
    return losses_checks.truth(witness, CASES)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from losses_checks.checks(truth, rows, CASES)
    yield from losses_checks.answers_checks(truth, rows, CASES)


SCENARIO = Scenario(
    name="answer-loss",
    chapter="loss",
    title="The answer is lost: only the server's end knows",
    teaches="The client's request is acknowledged, and it cannot tell a lost answer from a slow one: its "
    "loss_recovery_ns is 0, and the wait is network_ns or, without a recording of the other end, peer_ns. "
    "The server's end tells: its turn has the retransmit and the kind. So look at both ends before you blame "
    "an application.",
    topology=losses.topology(CASES),
    ports=len(CASES),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
