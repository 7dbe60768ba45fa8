"""A connection for each request, or one for all: round trips, handshakes, TIME_WAIT."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator

from tcptrace.lab import kernel_counters, packets
from tcptrace.lab.checks import Check, close, each, median, same
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
    before = _time_wait(part)
    part.ready()
    part.until_done()
    _note_time_wait(part, before)


def client(part: Part) -> None:
    punctual()
    before = _time_wait(part)
    with part.connect(REUSED) as reused:
        for _ in range(REQUESTS):  # by turns, so that a busy host troubles all alike
            for port in PORTS:
                begin = time.monotonic_ns()
                one = reused if port == REUSED else part.connect(port)
                part.note(f"connect_{port}_ns", time.monotonic_ns() - begin)
                with timed(part, f"exchange_{port}_ns"):
                    one.sendall(bytes(REQUEST))
                    receive(one, ANSWER)
                part.note(f"request_{port}_ns", time.monotonic_ns() - begin)
                if port == SERVER_CLOSES:
                    drain(one)
                if port != REUSED:
                    one.close()
    _note_time_wait(part, before)


def _time_wait(part: Part) -> list[int]:
    """How many connections wait at this end, for each port."""
    waiting = [ends for *ends, state in kernel_counters.sockets(part.ports) if state == TIME_WAIT]
    return [sum(port in ends for ends in waiting) for port in part.ports]


def _note_time_wait(part: Part, before: list[int]) -> None:
    """Note how many more there are when all connections are over."""
    until(lambda: not kernel_counters.living(part.ports), "the connections closed", part.limit_s)
    for port, was, now in zip(part.ports, before, _time_wait(part), strict=True):
        part.note(f"time_wait_{port}", now - was)


def truth(witness: Witness) -> Truth:
    """By port, by the client's clock: each request, with its connect() and without. By the link's log, where
    it has one: the handshakes. By the kernel: handshakes, and connections in TIME_WAIT at the end."""
    found: Truth = {f"request_{port}_ns": witness.client[f"request_{port}_ns"] for port in PORTS}
    for port in (CLIENT_CLOSES, SERVER_CLOSES):
        found[f"exchange_{port}_ns"] = witness.client[f"exchange_{port}_ns"]
        connects = witness.client[f"connect_{port}_ns"]
        found[f"set_up_{port}_ns"] = packets.set_ups_ns(witness.log, port, connects)
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
        turns = rows.turns("client", port)
        shakes = column(rows.ends("active", port), "handshake_ns") if port != REUSED else [0] * len(turns)
        yield each(
            f"{way}: request" + (", with its handshake" if port != REUSED else ""),
            truth[f"request_{port}_ns"],
            [
                turn["total_ns"] + shake if shake is not None else None
                for turn, shake in zip(turns, shakes, strict=False)
            ],
            relative=0.02,
            absolute_ns=300_000,
        )
        if port != REUSED:
            exchanged, set_up = truth[f"exchange_{port}_ns"], truth[f"set_up_{port}_ns"]
            yield close(
                f"{way}: mean request, by `budget` with set-up",
                round(statistics.fmean(exchanged) + statistics.fmean(set_up)),
                rows.gap(port).measured_ns,
                relative=0.02,
                absolute_ns=300_000,
            )
    usual = {port: statistics.median(truth[f"request_{port}_ns"]) for port in PORTS}
    # What else goes away with a connection (accept, a thread for it) is in no handshake.
    yield close(
        "set-up: what reuse saves",
        usual[CLIENT_CLOSES] - usual[REUSED],
        median(column(rows.ends("active", CLIENT_CLOSES), "handshake_ns")),
        relative=0.15,
        absolute_ns=300_000,
    )
    promised = {change.cause: change.saving_ns for change in rows.changes(CLIENT_CLOSES)}
    set_up = truth[f"set_up_{CLIENT_CLOSES}_ns"]
    yield close(
        "set-up: promise of `budget`, of all handshakes but one",
        round((sum(set_up) - max(set_up)) / REQUESTS),
        promised.get("setup_ns"),
        relative=0.05,
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
)
