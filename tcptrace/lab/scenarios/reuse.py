"""A connection for each request, or one for all: round trips, handshakes, TIME_WAIT."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tcptrace.lab import kernel_counters
from tcptrace.lab.checks import Check, close, same
from tcptrace.lab.kernel_counters import TIME_WAIT
from tcptrace.lab.part import Part, drain, punctual, receive, timed
from tcptrace.lab.rows import Role, Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import until
from tcptrace.lab.witness import Witness

DELAY_NS = 5_000_000
REQUESTS = 20
REQUEST, ANSWER = 200, 1000
CLIENT_CLOSES, SERVER_CLOSES, REUSED = PORTS = range(7001, 7004)
WAYS = {CLIENT_CLOSES: "reconnecting", SERVER_CLOSES: "reconnecting, server closes", REUSED: "reused"}


def answer(connection: socket.socket) -> None:
    once = connection.getsockname()[1] == SERVER_CLOSES
    while len(connection.recv(REQUEST)) == REQUEST:
        connection.sendall(bytes(ANSWER))
        if once:
            return


def server(part: Part) -> None:
    punctual()
    for port in part.ports:
        part.serve(port, answer)
    part.ready()
    part.until_done()
    _count_time_wait(part)


def client(part: Part) -> None:
    punctual()
    with timed(part, "connect_ns"):
        reused = part.connect(REUSED)
    with reused:
        for _ in range(REQUESTS):  # by turns, so that a busy host troubles all alike
            for port in PORTS:
                with timed(part, f"request_{port}_ns"):
                    one = reused if port == REUSED else part.connect(port)
                    one.sendall(bytes(REQUEST))
                    receive(one, ANSWER)
                if port == SERVER_CLOSES:
                    drain(one)
                if port != REUSED:
                    one.close()
    _count_time_wait(part)


def _count_time_wait(part: Part) -> None:
    """Note how many connections wait at this end, by port, when all are over."""
    until(lambda: not kernel_counters.living(part.ports), "the connections closed", part.limit_s)
    waiting = [ends for *ends, state in kernel_counters.sockets(part.ports) if state == TIME_WAIT]
    for port in part.ports:
        part.note(f"time_wait_{port}", sum(port in ends for ends in waiting))


def truth(witness: Witness) -> Truth:
    """By the client's clock: a request and its share of connect() in the mean, by port. By the kernel:
    handshakes of either end, and connections in TIME_WAIT at the end, by port."""
    took = {port: sum(witness.client[f"request_{port}_ns"]) for port in PORTS}
    took[REUSED] += witness.client.one("connect_ns")
    found: Truth = {f"request_{port}_ns": round(took[port] / REQUESTS) for port in PORTS}
    for notes, counter in ((witness.client, "TcpActiveOpens"), (witness.server, "TcpPassiveOpens")):
        found[f"{notes.part}_handshakes"] = notes.kernel.get(counter)
        for port in PORTS:
            found[f"{notes.part}_time_wait_{port}"] = notes.one(f"time_wait_{port}")
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    roles: dict[str, Role] = {"client": "active", "server": "passive"}
    for part, role in roles.items():
        ends = [row for row in rows.connections if row["role"] == role]
        known = [took for took in column(ends, "handshake_ns") if took is not None]
        yield same(f"handshakes at the {part}", truth[f"{part}_handshakes"], len(known))
        for port, way in WAYS.items():
            closed = [
                row["close_reason"] == "fin" and row["initiator"] == "local" for row in rows.ends(role, port)
            ]
            yield same(f"{way}: in TIME_WAIT at the {part}", truth[f"{part}_time_wait_{port}"], sum(closed))
    for port, way in WAYS.items():
        yield close(
            f"{way}: mean request, with its set-up",
            truth[f"request_{port}_ns"],
            rows.gap(port).measured_ns,
            relative=0.05,
            absolute_ns=300_000,
        )
    promised = [change.saving_ns for change in rows.changes(CLIENT_CLOSES) if change.cause == "setup_ns"]
    # What else goes away with a connection (accept, a thread for it) is no part of the promise.
    yield close(
        "set-up: what `budget` promises, of what reuse saves",
        truth[f"request_{CLIENT_CLOSES}_ns"] - truth[f"request_{REUSED}_ns"],
        sum(promised) if promised else None,
        relative=0.15,
        absolute_ns=300_000,
    )


SCENARIO = Scenario(
    name="reuse",
    chapter="reuse",
    title="A connection for each request, or one for all of them",
    teaches="Each request on a connection of its own waits a round trip for the handshake first, and leaves "
    "a connection in TIME_WAIT for 60 s at the end that closes first: at the client (port 7001) each of "
    "them keeps one of some 28,000 ports to this server, at the server (port 7002) only memory. `initiator` "
    "says who closed. Requests that share a connection (port 7003) pay once and leave one: pool "
    "connections, keep them alive. `tcptrace budget` says what that saves.",
    topology=Topology(delay_ns=DELAY_NS),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
