"""An application that never closes: CLOSE_WAIT grows until its descriptors run out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from tcptrace.lab import kernel_counters
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, drain, punctual, receive
from tcptrace.lab.rows import Row, Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import until
from tcptrace.lab.witness import Witness

LEAKS, CLOSES = PORTS = (7001, 7002)
NAMES = {LEAKS: "leak", CLOSES: "closes"}
WAVES, WAVE = 4, 10
PAUSE_S = 0.15
IN_CLOSE_WAIT = "08"
"""As /proc/net/tcp has it: include/net/tcp_states.h."""


def waiting(port: int) -> int:
    """How many connections of a port are in CLOSE_WAIT in this network namespace."""
    return kernel_counters.states([port]).count(IN_CLOSE_WAIT)


def server(part: Part) -> None:
    punctual()
    leaked: list[tuple[socket.socket, int]] = []
    with part.listen(LEAKS) as leaking, part.listen(CLOSES) as closing:
        part.ready()
        for _ in range(WAVES):
            for listener in (leaking, closing):
                for _ in range(WAVE):
                    one = listener.accept()[0]
                    one.settimeout(part.limit_s)
                    one.sendall(receive(one, 1))
                    drain(one)  # the client's FIN
                    if listener is leaking:
                        leaked.append((one, time.monotonic_ns()))
                    else:
                        one.close()
            until(lambda: waiting(CLOSES) == 0, "CLOSE_WAIT ended", part.limit_s)
            part.note("wall_ns", time.time_ns())
            for port, name in NAMES.items():
                part.note(name, waiting(port))
            part.tell("next")
            time.sleep(PAUSE_S)
    for one, half_ns in leaked:  # as when the process is restarted
        part.note("close_wait_ns", time.monotonic_ns() - half_ns)
        one.close()
    part.until_done()


def client(part: Part) -> None:
    for _ in range(WAVES):
        for port in PORTS:
            for _ in range(WAVE):
                with part.connect(port) as one:
                    one.sendall(b"x")
                    receive(one, 1)
        part.hear("next")


def truth(witness: Witness) -> Truth:
    """After each wave the wall clock and /proc/net/tcp's count by port; and how long the application kept
    each connection that it leaked, by its clock."""
    notes = witness.server
    return {"wall_ns": notes["wall_ns"], "close_wait_ns": notes["close_wait_ns"]} | {
        name: notes[name] for name in NAMES.values()
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, name in NAMES.items():
        server, client = rows.ends("passive", port), rows.ends("active", port)
        yield same(f"{name}: rows of the server", WAVES * WAVE, len(server))
        yield same(f"{name}: initiator", "remote", common(server, "initiator"))
        yield same(f"{name}: client's close_reason", "fin", common(client, "close_reason"))
        grown = [sum(was_waiting(row, instant) for row in server) for instant in truth["wall_ns"]]
        for number, (counted, found) in enumerate(zip(truth[name], grown, strict=True), 1):
            yield same(f"{name}: in CLOSE_WAIT after wave {number} (/proc/net/tcp)", counted, found)
    leaked = column(rows.ends("passive", LEAKS), "close_wait_ns")
    yield each("leak: CLOSE_WAIT", truth["close_wait_ns"], leaked, relative=0.01, absolute_ns=2_000_000)


def was_waiting(row: Row, wall_ns: int) -> bool:
    """Whether a connection that has ended was in CLOSE_WAIT at an instant."""
    if None in (row["ended_ns"], row["close_wait_ns"], row["last_ack_ns"]):
        return False
    until_ns = row["ended_ns"] - row["last_ack_ns"]
    return bool(until_ns - row["close_wait_ns"] <= wall_ns < until_ns)


SCENARIO = Scenario(
    name="close-wait-leak",
    chapter="teardown",
    title="A server that never closes: connections pile up in CLOSE_WAIT",
    teaches="CLOSE_WAIT means: the peer has closed, this application has not. The kernel never ends it by "
    "itself, so a code path that forgets close() loses a descriptor per connection, until the process has "
    "none left. Its rows are open, in state close_wait, with initiator remote, for as long as the process "
    "lives. No kernel setting helps: the application must close what it has read to the end.",
    topology=Topology(),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
