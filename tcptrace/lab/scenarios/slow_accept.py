"""The kernel completes handshakes alone; the application comes to accept() when it has time."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator

from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, punctual, receive, timed
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.witness import Witness

MS = 1_000_000
CONNECTIONS = 4
LATE_NS = {7001: 0, 7002: 20 * MS, 7003: 200 * MS}
"""By port: how long the server is busy with something else when a connection is there to be accepted."""


def server(part: Part) -> None:
    punctual()
    for port in part.ports:
        threading.Thread(target=accept_late, args=(part, part.listen(port)), daemon=True).start()
    part.ready()
    part.until_done()


def accept_late(part: Part, listener: socket.socket) -> None:
    """One connection after the other, each for one request."""
    port = listener.getsockname()[1]
    while True:
        select.select([listener], [], [])
        with timed(part, f"late_{port}_ns"):
            time.sleep(LATE_NS[port] / 1e9)
            connection = listener.accept()[0]
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(connection.recv(1))


def client(part: Part) -> None:
    punctual()
    for port in part.ports:
        for _ in range(CONNECTIONS):
            with timed(part, f"connect_{port}_ns"):
                one = part.connect(port)
            with one, timed(part, f"answer_{port}_ns"):
                one.sendall(b"x")
                receive(one, 1)


def truth(witness: Witness) -> Truth:
    """By port: connect() and the wait for the answer by the client's clock, how late accept() was by the
    server's."""
    found: Truth = {}
    for port in LATE_NS:
        found[f"connect_{port}_ns"] = witness.client[f"connect_{port}_ns"]
        found[f"answer_{port}_ns"] = witness.client[f"answer_{port}_ns"]
        found[f"late_{port}_ns"] = witness.server[f"late_{port}_ns"]
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, late_ns in LATE_NS.items():
        case = f"accept() {late_ns // MS} ms late"
        connected, answered = truth[f"connect_{port}_ns"], truth[f"answer_{port}_ns"]
        took = column(rows.ends("active", port), "handshake_ns")
        shorter = sum(row < true for row, true in zip(took, connected, strict=False) if row is not None)
        yield same(f"{case}: handshakes shorter than their connect()", len(connected), shorter)
        turns, served = rows.turns("client", port), rows.turns("server", port)
        yield each(
            f"{case}: total at the client",
            answered,
            column(turns, "total_ns"),
            relative=0.02,
            absolute_ns=300_000,
        )
        late = truth[f"late_{port}_ns"]
        yield each(
            f"{case}: peer_ns at the client",
            late,
            column(turns, "peer_ns"),
            relative=0.02,
            absolute_ns=500_000,
        )
        # Of a thread's first read it may be unknown what of the time before it waited for a CPU.
        yield each(
            f"{case}: app_late_ns at the server",
            late[1:],
            column(served, "app_late_ns")[1:],
            relative=0.02,
            absolute_ns=500_000,
        )


SCENARIO = Scenario(
    name="slow-accept",
    chapter="queues",
    title="accept() comes 0, 20 and 200 ms late",
    teaches="The kernel completes handshakes by itself: connect() returns before the server's application "
    "knows of the connection, and a request is taken in before accept(). What accept() is late, the first "
    "answer is late: connect() stays fast, the client sees peer_ns grow, the server app_late_ns of the "
    "connection's first exchange. Cures: accept in a thread of its own or in an event loop that nothing "
    "blocks, more workers; a longer backlog only makes the queue longer.",
    ports=len(LATE_NS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
