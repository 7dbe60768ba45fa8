"""TLS 1.3: one round trip more before the first request."""

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
    part.serve(FIRST_PORT, tls.answer(tls.server_context("1.3")))
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    context = tls.client_context("1.3")
    for _ in range(CONNECTIONS):
        tls.ask(part, FIRST_PORT, context)


def truth(witness: Witness) -> Truth:
    return tls.truth(witness, FIRST_PORT)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from tls.checks(truth, rows, FIRST_PORT, "TLS 1.3")


SCENARIO = Scenario(
    name="tls13",
    chapter="handshake",
    title="TLS 1.3: one round trip on top of TCP's",
    teaches="TLS 1.3 sends its keys with the hellos: one round trip after TCP's the client is done, and its "
    "Finished leaves together with the request. With 10 ms each way the first answer comes 60 ms after "
    "connect(), 20 ms sooner than with TLS 1.2. Each such connection has one turn before the one of its "
    "request. Set TCP_NODELAY: Finished and request are two small writes, and Nagle would hold the second.",
    topology=Topology(delay_ns=10_000_000),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
