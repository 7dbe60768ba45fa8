"""50-byte orders, several in flight on one connection: round trips that overlap."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tcptrace.lab import orders, packets
from tcptrace.lab.checks import Check, at_most, close, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

DELAY_NS = 250_000
ORDERS = 200
IN_FLIGHT = 4
APART_SECONDS = 0.0001
NODELAY, NAGLE = PORTS = range(7001, 7003)
WAYS = {NODELAY: "TCP_NODELAY", NAGLE: "with Nagle"}


def server(part: Part) -> None:
    orders.confirm(part)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    for port in PORTS:
        with part.connect(port, nodelay=port == NODELAY) as one:
            begin = time.monotonic_ns()
            for number in range(ORDERS + IN_FLIGHT):
                if number >= IN_FLIGHT:
                    receive(one, orders.CONFIRMATION)
                else:  # written at once, the first would be one request in the eyes of anybody outside
                    time.sleep(APART_SECONDS)
                if number < ORDERS:
                    part.note(f"written_{port}_ns", time.monotonic_ns())
                    orders.write(one)
            part.note(f"all_{port}_ns", time.monotonic_ns() - begin)


def truth(witness: Witness) -> Truth:
    """By port: from the first order to the last confirmation by the client's clock; and, where the link has a
    log, for how long an order with Nagle was written and not yet on the link, less the time that each takes
    from the write to the link without Nagle."""
    found: Truth = {f"all_{port}_ns": witness.client.one(f"all_{port}_ns") for port in PORTS}
    if witness.log is not None:
        written = {port: witness.client[f"written_{port}_ns"] for port in PORTS}
        ends = range(orders.ORDER, (ORDERS + 1) * orders.ORDER, orders.ORDER)
        left = {}
        for port in PORTS:
            (flow,) = packets.flows(witness.log, port)
            left[port] = packets.departures_ns(flow, ends)
        ways = [departed - wrote for wrote, departed in zip(written[NODELAY], left[NODELAY], strict=True)]
        usual = round(statistics.median(ways))
        found["held_ns"] = _covered(written[NAGLE], [departed - usual for departed in left[NAGLE]])
    return found


def _covered(begins: list[int], ends: list[int]) -> int:
    """How long at least one of the intervals lasts, ns; both lists ascend."""
    covered, upto = 0, 0
    for begin, end in zip(begins, ends, strict=True):
        covered += max(0, end - max(begin, upto))
        upto = max(upto, end)
    return covered


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, way in WAYS.items():
        ends = rows.ends("active", port)
        yield same(f"{way}: connections", 1, len(ends))
        row = ends[0]
        yield same(f"{way}: bytes of orders", ORDERS * orders.ORDER, row["bytes_sent"])
        yield same(f"{way}: bytes of confirmations", ORDERS * orders.CONFIRMATION, row["bytes_received"])
        yield at_most(
            f"{way}: orders in flight together that were taken for turns", 2, row["exchanges"], "count"
        )
        yield close(
            f"{way}: connection's time, of all orders",
            truth[f"all_{port}_ns"],
            row["established_ns"],
            relative=0.02,
            absolute_ns=500_000,
        )
    yield same("TCP_NODELAY: held by Nagle", 0, rows.ends("active", NODELAY)[0]["held_nagle_ns"])
    if "held_ns" in truth:
        yield close(
            "with Nagle: held by Nagle",
            truth["held_ns"],
            rows.ends("active", NAGLE)[0]["held_nagle_ns"],
            relative=0.05,
            absolute_ns=500_000,
        )


SCENARIO = Scenario(
    name="orders-pipelined",
    chapter="latency",
    title="50-byte orders, four in flight on one connection",
    teaches="Who does not wait for each confirmation pays the round trip once for several orders: with four "
    "in flight one is done every 0.2 ms, at 0.5 ms there and back (port 7001). Such a connection has hardly "
    "a turn: its rows say pipelined, and what there is to know is under Streams in its report: how long data "
    "was held, and how long it lay unread. Nagle holds orders here, too, until the one before is "
    "acknowledged (port 7002): held_nagle_ns. Set TCP_NODELAY.",
    topology=Topology(delay_ns=DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
