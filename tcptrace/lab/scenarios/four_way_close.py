"""FIN, ACK, FIN, ACK: who closes first, and what each state's time is made of."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, drain, punctual, receive
from tcptrace.lab.rows import Role, Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import ack_at_once
from tcptrace.lab.teardown import state_checks, truth_of
from tcptrace.lab.witness import Witness

DELAY_NS = 10_000_000
ROUNDS = 5
OPEN_S, LATE_S = 0.03, 0.05
"""How long it stays open, and how long the second end keeps its half open after the first."""
CLIENT_FIRST, SERVER_FIRST = PORTS = (7001, 7002)
FIRST: dict[int, Role] = {CLIENT_FIRST: "active", SERVER_FIRST: "passive"}
ENDS: dict[Role, str] = {"active": "client", "passive": "server"}


def play_end(part: Part, connection: socket.socket, port: int, opened_ns: int) -> None:
    """One end's life after its first exchange, up to its close(); notes what its application decides."""
    if ENDS[FIRST[port]] == part.role:
        time.sleep(OPEN_S)
        part.note(f"established_{port}_ns", time.monotonic_ns() - opened_ns)
        connection.close()
        return
    drain(connection)
    closed_ns = time.monotonic_ns()
    part.note(f"established_{port}_ns", closed_ns - opened_ns)
    ack_at_once(connection)  # tcp_fin() would delay it by 40 ms, for a FIN that may follow
    time.sleep(LATE_S)
    part.note(f"close_wait_{port}_ns", time.monotonic_ns() - closed_ns)
    connection.close()


def server(part: Part) -> None:
    punctual()

    def answer(connection: socket.socket) -> None:
        opened_ns = time.monotonic_ns()
        connection.sendall(receive(connection, 1))
        play_end(part, connection, connection.getsockname()[1], opened_ns)
        part.tell("closed")

    for port in part.ports:
        part.serve(port, answer)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    for port in part.ports:
        for _ in range(ROUNDS):
            one = part.connect(port)
            opened_ns = time.monotonic_ns()
            one.sendall(b"x")
            receive(one, 1)
            part.note(f"echo_{port}_ns", time.monotonic_ns() - opened_ns)
            play_end(part, one, port, opened_ns)
            part.hear("closed")


def truth(witness: Witness) -> Truth:
    """Times in states, by end and port, from the relay's log; without one by the applications' clocks, and
    by the echo on the same connection for what an ACK ends. CLOSE_WAIT by its application's clock as well."""
    found: Truth = {}
    for port, first in FIRST.items():
        second: Role = "passive" if first == "active" else "active"
        late = witness.server if second == "passive" else witness.client
        found[f"late_{port}_ns"] = late[f"close_wait_{port}_ns"]
        if witness.log is not None:
            found |= truth_of(witness.log, port)
            continue
        found |= {
            f"active_{port}_established_ns": witness.client[f"established_{port}_ns"],
            f"passive_{port}_established_ns": witness.server[f"established_{port}_ns"],
            f"{first}_{port}_fin_wait1_ns": witness.client[f"echo_{port}_ns"],
            f"{first}_{port}_fin_wait2_ns": late[f"close_wait_{port}_ns"],
            f"{second}_{port}_close_wait_ns": late[f"close_wait_{port}_ns"],
            f"{second}_{port}_last_ack_ns": witness.client[f"echo_{port}_ns"],
        }
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, first in FIRST.items():
        for role, end in ENDS.items():
            ends = rows.ends(role, port)
            name = f"{ENDS[first]} first: {end}"
            yield same(f"{name}: rows", ROUNDS, len(ends))
            yield same(f"{name}: close_reason", "fin", common(ends, "close_reason"))
            initiator = "local" if role == first else "remote"
            yield same(f"{name}: initiator", initiator, common(ends, "initiator"))
            # After close(), FIN_WAIT2 has no socket any more: tcp_time_wait() keeps it for the kernel.
            yield from state_checks(name, truth, role, port, ends, hidden=["fin_wait2"])
            if role != first:
                yield each(
                    f"{name}: CLOSE_WAIT by the application's clock",
                    truth[f"late_{port}_ns"],
                    column(ends, "close_wait_ns"),
                    relative=0.02,
                    absolute_ns=1_500_000,
                )


SCENARIO = Scenario(
    name="four-way-close",
    chapter="teardown",
    title="FIN, ACK, FIN, ACK: the client closes first, then the server does",
    teaches="Each direction is closed on its own. Who closes first goes through FIN_WAIT1 (a round trip, "
    "and up to 40 ms when the ACK of its FIN is delayed) and FIN_WAIT2 to TIME_WAIT, which keeps the pair of "
    "ports for 60 s. The other end is in CLOSE_WAIT until its application closes, too: close_wait_ns is that "
    "application's time, never the network's; last_ack_ns is a round trip again.",
    topology=Topology(delay_ns=DELAY_NS, logged=True),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
