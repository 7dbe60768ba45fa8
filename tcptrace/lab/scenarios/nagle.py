"""write, write, read: Nagle's algorithm waits for an ACK that the other end delays."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from tcptrace.lab.checks import Check, at_least, close, count, each, median
from tcptrace.lab.part import Part, receive
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

TURNS = 8
HALF = 50
DELAY_NS = 5_000_000
DELAYED_ACK_NS = 35_000_000
"""Less than the kernel's least delay of an ACK (40 ms, TCP_DELACK_MIN), more than a busy host adds."""
# One port per way of writing: with Nagle, and its four cures.
NAGLE, NODELAY, ONE_WRITE, QUICKACK, CORK = PORTS = range(7001, 7006)
CURES = {
    NODELAY: "TCP_NODELAY",
    ONE_WRITE: "one write",
    QUICKACK: "TCP_QUICKACK at the receiver",
    CORK: "TCP_CORK",
}


def answer(connection: socket.socket) -> None:
    """Read 100 bytes, answer 10, until the client closes."""
    quick = connection.getsockname()[1] == QUICKACK
    while True:
        wanted = 2 * HALF
        while wanted:
            if quick:  # not lasting: the kernel goes back to delayed ACKs by itself
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            data = connection.recv(wanted)
            if not data:
                return
            wanted -= len(data)
        connection.sendall(bytes(10))


def server(part: Part) -> None:
    for port in part.ports:
        part.serve(port, answer)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    for port in part.ports:
        with part.connect(port, nodelay=port == NODELAY) as one:
            for _ in range(TURNS):
                begin = time.monotonic_ns()
                if port == ONE_WRITE:
                    one.sendall(bytes(2 * HALF))
                else:
                    if port == CORK:
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                    one.sendall(bytes(HALF))
                    one.sendall(bytes(HALF))
                    if port == CORK:
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
                receive(one, 10)
                part.note(f"turn_{port}_ns", time.monotonic_ns() - begin)


def truth(witness: Witness) -> Truth:
    """Each turn as the application saw it, by port."""
    return {f"turn_{port}_ns": witness.client[f"turn_{port}_ns"] for port in PORTS}


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    held, turns = truth[f"turn_{NAGLE}_ns"], rows.turns("client", NAGLE)
    base = median(truth[f"turn_{NODELAY}_ns"]) or 0
    # The first turns of a connection wait a round trip only: the receiver acknowledges at once there.
    stalls = [number for number, total in enumerate(held) if total - base > DELAYED_ACK_NS]
    yield at_least("stalled turns", TURNS // 2, len(stalls), "count")
    yield each("total", held, column(turns, "total_ns"), relative=0.02, absolute_ns=300_000)
    yield each(
        "nagle: what the turn takes longer than with TCP_NODELAY",
        [held[number] - base for number in stalls],
        [turns[number]["nagle_ns"] for number in stalls if number < len(turns)],
        relative=0.05,
        absolute_ns=500_000,
    )
    told = sum(turn["delayed_ack"] is True for turn in turns)
    # One of eight may be off: a busy host can make a turn late without a delayed ACK.
    yield count("turns in which a delayed ACK took part", len(stalls), told, relative=0.15)
    for port, cure in CURES.items():
        turns = rows.turns("client", port)
        yield each(
            f"{cure}: total",
            truth[f"turn_{port}_ns"],
            column(turns, "total_ns"),
            relative=0.02,
            absolute_ns=300_000,
        )
        if port == QUICKACK:  # the second write still waits for one round trip
            yield each(
                f"{cure}: nagle: what the turn takes longer than with TCP_NODELAY",
                [total - base for total in truth[f"turn_{port}_ns"]],
                column(turns, "nagle_ns"),
                relative=0.05,
                absolute_ns=500_000,
            )
        else:
            yield close(f"{cure}: nagle", 0, median(column(turns, "nagle_ns")))


SCENARIO = Scenario(
    name="nagle",
    chapter="latency",
    title="Nagle's algorithm meets the delayed ACK, and its cures",
    teaches="A small write waits while earlier data is unacknowledged (Nagle), and the receiver, which has "
    "only half a request, delays its ACK for 40 ms and more. Cures: TCP_NODELAY, one write for the whole "
    "request, TCP_CORK around the writes; TCP_QUICKACK at the receiver shortens the stall to a round trip.",
    topology=Topology(delay_ns=DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
