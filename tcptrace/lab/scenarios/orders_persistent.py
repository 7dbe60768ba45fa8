"""50-byte orders on one connection that stays open: what is left of them, and what it uncovers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tcptrace.lab import orders, packets
from tcptrace.lab.checks import Check, close, each, same
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

DELAY_NS = 250_000
# Header and body written one by one; the whole order in one write.
PIECES, WHOLE = PORTS = range(7001, 7003)
ORDERS = {PIECES: 12, WHOLE: 100}
WAYS = {PIECES: "two writes", WHOLE: "one write"}


def server(part: Part) -> None:
    orders.confirm(part)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    for port in PORTS:
        begin = time.monotonic_ns()
        with part.connect(port) as one:
            part.note(f"connect_{port}_ns", time.monotonic_ns() - begin)
            for _ in range(ORDERS[port]):
                part.note(f"order_{port}_ns", orders.place(one, pieces=port == PIECES))


def truth(witness: Witness) -> Truth:
    """By port, by the client's clock: connect() and each order. By the link: for how long it had each order
    of one write and its confirmation; without a log, what it was told."""
    names = [f"{what}_{port}_ns" for port in PORTS for what in ("connect", "order")]
    found: Truth = {name: witness.client[name] for name in names}
    if witness.log is not None:
        (flow,) = packets.flows(witness.log, WHOLE)
        found["link_ns"] = packets.carried_ns(flow)
    elif witness.delay_ns is not None:
        found["link_ns"] = [2 * witness.delay_ns] * ORDERS[WHOLE]
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, way in WAYS.items():
        took = truth[f"order_{port}_ns"]
        turns = rows.turns("client", port)
        yield each(f"{way}: order", took, column(turns, "total_ns"), relative=0.02, absolute_ns=100_000)
        gap = rows.gap(port)
        paid = truth[f"connect_{port}_ns"][0] / ORDERS[port]
        yield close(
            f"{way}: mean order, by `budget` with set-up",
            round(statistics.fmean(took) + paid),
            gap.measured_ns,
            relative=0.02,
            absolute_ns=100_000,
        )
        setup = [step.ns for step in gap.steps if step.name == "setup_ns"]
        yield close(
            f"{way}: set-up, paid once for {ORDERS[port]}",
            round(paid),
            sum(setup) or None,
            relative=0.05,
            absolute_ns=500_000 / ORDERS[port],
        )
    usual = statistics.median(truth[f"order_{WHOLE}_ns"])
    held = rows.turns("client", PIECES)
    stalls = [number for number, took in enumerate(truth[f"order_{PIECES}_ns"]) if took > 10 * usual]
    yield each(
        "two writes: nagle, what an order takes longer",
        [truth[f"order_{PIECES}_ns"][number] - usual for number in stalls],
        [held[number]["nagle_ns"] for number in stalls if number < len(held)],
        relative=0.05,
        absolute_ns=500_000,
    )
    yield same(
        "two writes: delayed ACKs told", len(stalls), sum(held[n]["delayed_ack"] is True for n in stalls)
    )
    turns = rows.turns("client", WHOLE)
    yield same("one write: nagle", 0, sum(column(turns, "nagle_ns")))
    yield each(
        "one write: network, of what the link took",
        truth["link_ns"],
        column(turns, "network_ns"),
        relative=0.05,
        absolute_ns=150_000,
    )


SCENARIO = Scenario(
    name="orders-persistent",
    chapter="latency",
    title="50-byte orders on one connection: below 1 ms, or 40 ms and more",
    teaches="A connection that stays open pays for its handshake once. But whoever changes only that makes "
    "it worse: on a young connection the kernel acknowledges at once, on an older one it waits 40 ms, and an "
    "order that is written in two pieces waits with it (Nagle; port 7001). Written at once (port 7002) it "
    "takes a round trip and the server's work, less than 1 ms; most of that is the network, which only a "
    "shorter route changes.",
    topology=Topology(delay_ns=DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
