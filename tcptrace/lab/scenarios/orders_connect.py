"""50-byte orders, each on a connection of its own: where the milliseconds go, and what each change saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tcptrace.lab import orders
from tcptrace.lab.checks import Check, close, each
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

ORDERS = 60
DELAY_NS = 250_000
FOUND, NODELAY, KEPT = PORTS = range(7001, 7004)
WAYS = {FOUND: "as found", NODELAY: "TCP_NODELAY", KEPT: "TCP_NODELAY, one connection"}


def server(part: Part) -> None:
    orders.confirm(part)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    with part.connect(KEPT, nodelay=True) as kept:
        for _ in range(ORDERS):  # by turns, so that a busy host troubles all ways alike
            for port in (FOUND, NODELAY):
                begin = time.monotonic_ns()
                with part.connect(port, nodelay=port == NODELAY) as one:
                    part.note(f"connect_{port}_ns", time.monotonic_ns() - begin)
                    part.note(f"exchange_{port}_ns", orders.place(one, pieces=True))
                    part.note(f"order_{port}_ns", time.monotonic_ns() - begin)
            took = orders.place(kept, pieces=True)
            part.note(f"exchange_{KEPT}_ns", took)
            part.note(f"order_{KEPT}_ns", took)


def truth(witness: Witness) -> Truth:
    """By port, by the client's clock: connect(), the exchange of the order, and both together."""
    names = [f"{what}_{port}_ns" for port in PORTS for what in ("exchange", "order")]
    names += [f"connect_{port}_ns" for port in (FOUND, NODELAY)]
    return {name: witness.client[name] for name in names}


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    mean = {port: round(statistics.fmean(truth[f"order_{port}_ns"])) for port in PORTS}
    for port, way in WAYS.items():
        turns = rows.turns("client", port)
        yield each(
            f"{way}: exchange",
            truth[f"exchange_{port}_ns"],
            column(turns, "total_ns"),
            relative=0.02,
            absolute_ns=100_000,
        )
        if port != KEPT:
            yield each(
                f"{way}: handshake, of connect()",
                truth[f"connect_{port}_ns"],
                column(rows.ends("active", port), "handshake_ns"),
                relative=0.05,
                absolute_ns=200_000,
            )
        # The way back into the application after the handshake is in no row.
        yield close(
            f"{way}: mean order, with its set-up",
            mean[port],
            rows.gap(port).measured_ns,
            relative=0.05,
            absolute_ns=200_000,
        )
    for port, cause, after in ((FOUND, "nagle_ns", NODELAY), (NODELAY, "setup_ns", KEPT)):
        promised = [change.saving_ns for change in rows.changes(port) if change.cause == cause]
        # What else goes away with a connection (sockets, accept) is no part of the promise.
        yield close(
            f"{cause[:-3]}: what `budget` promises, of what {WAYS[after]} saves",
            mean[port] - mean[after],
            sum(promised) if promised else None,
            relative=0.25,
            absolute_ns=100_000,
        )


SCENARIO = Scenario(
    name="orders-connect",
    chapter="latency",
    title="50-byte orders, a connection for each: 2 ms and more where the wire takes 0.5 ms",
    teaches="The way there and back takes 0.5 ms, an order four times as long: one round trip opens its "
    "connection (set-up), one passes because its body waits until its header is acknowledged (Nagle), one is "
    "the order's own, and the server works, too. The change with the largest saving comes first in "
    "`tcptrace budget orders-connect.tct --physical-rtt 0.5ms --target 1ms`. Port 7001 is the system as it "
    "was found; 7002 has TCP_NODELAY; 7003 also keeps one connection open, and stays below 1 ms.",
    topology=Topology(delay_ns=DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
