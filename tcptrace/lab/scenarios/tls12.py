"""TLS 1.2: two round trips more before the first request."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import tls
from tcptrace.lab.checks import Check
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import FIRST_PORT, Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

CONNECTIONS = 8


def server(part: Part) -> None:
    punctual()
    part.serve(FIRST_PORT, tls.answer(tls.server_context("1.2")))
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    context = tls.client_context("1.2")
    for _ in range(CONNECTIONS):
        tls.ask(part, FIRST_PORT, context)


def truth(witness: Witness) -> Truth:
    return tls.truth(witness, FIRST_PORT)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from tls.checks(truth, rows, FIRST_PORT, "TLS 1.2")


SCENARIO = Scenario(
    name="tls12",
    chapter="handshake",
    title="TLS 1.2: two round trips on top of TCP's",
    teaches="When TCP is connected, TLS 1.2 takes two round trips of its own before the first request may "
    "leave: the hellos with the certificate, then keys and Finished. With 10 ms each way the first answer "
    "comes 80 ms after connect(). For TCP they are turns like any other: each such connection has two turns "
    "before the one of its request. TLS 1.3 saves one of them, a session that is resumed too, a connection "
    "that stays open both.",
    topology=Topology(delay_ns=10_000_000),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
