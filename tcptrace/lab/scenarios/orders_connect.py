"""50-byte orders, each on a connection of its own: where the milliseconds go, and what each change saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tcptrace.lab import orders, packets
from tcptrace.lab.checks import Check, close, each, median
from tcptrace.lab.link import Log
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
    """By port, by the client's clock: connect(), the exchange of the order, and both together. By the link's
    log, where it has one: the handshake; and how much later than its header the body of an order came."""
    names = [f"{what}_{port}_ns" for port in PORTS for what in ("exchange", "order")]
    names += [f"connect_{port}_ns" for port in (FOUND, NODELAY)]
    found: Truth = {name: witness.client[name] for name in names}
    for port in (FOUND, NODELAY):
        found[f"set_up_{port}_ns"] = packets.set_ups_ns(witness.log, port, found[f"connect_{port}_ns"])
    if witness.log is not None:
        found["held_ns"] = [_between_pieces(flow) for flow in packets.flows(witness.log, FOUND)]
    return found


def _between_pieces(flow: Log) -> int:
    header, whole = packets.departures_ns(flow, [orders.HEADER, orders.ORDER])
    return whole - header


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
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
            yield each(
                f"{way}: order, with its set-up",
                truth[f"order_{port}_ns"],
                [
                    end["handshake_ns"] + turn["total_ns"] if end["handshake_ns"] is not None else None
                    for end, turn in zip(rows.ends("active", port), turns, strict=False)
                ],
                relative=0.05,
                absolute_ns=200_000,  # the way back into the application after connect() is in no row
            )
        set_up = truth[f"set_up_{port}_ns"] if port != KEPT else [0]
        yield close(
            f"{way}: mean order, by `budget` with set-up",
            round(statistics.fmean(truth[f"exchange_{port}_ns"]) + statistics.fmean(set_up)),
            rows.gap(port).measured_ns,
            relative=0.05,
            absolute_ns=150_000,
        )
    yield from _savings(truth, rows)


def _savings(truth: Truth, rows: Rows) -> Iterator[Check]:
    """What each change saves, against what its cause took in the rows; what `tcptrace budget` promises."""
    usual = {port: statistics.median(truth[f"order_{port}_ns"]) for port in PORTS}
    held = column(rows.turns("client", FOUND), "nagle_ns")
    if "held_ns" in truth:
        yield each(
            "nagle, of header to body on the link", truth["held_ns"], held, relative=0.05, absolute_ns=100_000
        )
    yield close(
        "nagle: what TCP_NODELAY saves",
        usual[FOUND] - usual[NODELAY],
        median(held),
        relative=0.25,
        absolute_ns=100_000,
    )
    # What else goes away with a connection (its sockets, accept) is in no handshake.
    yield close(
        "set-up: what one connection saves",
        usual[NODELAY] - usual[KEPT],
        median(column(rows.ends("active", NODELAY), "handshake_ns")),
        relative=0.25,
        absolute_ns=100_000,
    )
    promised = {change.cause: change.saving_ns for change in rows.changes(FOUND)}
    set_up = truth[f"set_up_{FOUND}_ns"]
    yield close(
        "set-up: promise of `budget`, of all handshakes but one",
        round((sum(set_up) - max(set_up)) / ORDERS),
        promised.get("setup_ns"),
        relative=0.05,
        absolute_ns=150_000,
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
)
