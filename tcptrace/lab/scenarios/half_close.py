"""shutdown(SHUT_WR): the client has said everything, the server's data still flows back."""

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

PORT = 7001
DELAY_NS = 10_000_000
ROUNDS = 5
THINK_S = 0.06
QUESTION, ANSWER = 10, 10_000
"""Bytes; the answer fits the first congestion window, so that the FIN leaves with it."""
INITIATORS: dict[Role, str] = {"active": "local", "passive": "remote"}


def server(part: Part) -> None:
    punctual()

    def answer(connection: socket.socket) -> None:
        opened_ns = time.monotonic_ns()
        connection.sendall(receive(connection, 1))
        part.note("question_bytes", drain(connection))
        closed_ns = time.monotonic_ns()
        part.note("established_ns", closed_ns - opened_ns)
        ack_at_once(connection)  # tcp_fin() would delay it by 40 ms, for a FIN that may follow
        time.sleep(THINK_S)
        connection.sendall(bytes(ANSWER))
        part.note("close_wait_ns", time.monotonic_ns() - closed_ns)
        connection.close()
        part.tell("closed")

    part.serve(PORT, answer)
    part.ready()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    for _ in range(ROUNDS):
        with part.connect(PORT) as one:
            opened_ns = time.monotonic_ns()
            one.sendall(b"x")
            receive(one, 1)
            part.note("echo_ns", time.monotonic_ns() - opened_ns)
            one.sendall(bytes(QUESTION))
            half_ns = time.monotonic_ns()
            part.note("established_ns", half_ns - opened_ns)
            one.shutdown(socket.SHUT_WR)
            part.note("answer_bytes", drain(one))
            part.note("half_open_ns", time.monotonic_ns() - half_ns)
        part.hear("closed")


def truth(witness: Witness) -> Truth:
    """Times in states from the relay's log; without one by the applications' clocks, and by the echo on the
    same connection for what an ACK ends."""
    echo, half = witness.client["echo_ns"], witness.client["half_open_ns"]
    found: Truth = {
        "half_open_ns": half,
        "late_ns": witness.server["close_wait_ns"],
        "bytes": [sum(witness.server["question_bytes"]), sum(witness.client["answer_bytes"])],
    }
    if witness.log is not None:
        return found | truth_of(witness.log, PORT)
    return found | {
        f"active_{PORT}_established_ns": witness.client["established_ns"],
        f"active_{PORT}_fin_wait1_ns": echo,
        f"active_{PORT}_fin_wait2_ns": [whole - part for whole, part in zip(half, echo, strict=True)],
        f"passive_{PORT}_established_ns": witness.server["established_ns"],
        f"passive_{PORT}_close_wait_ns": witness.server["close_wait_ns"],
        f"passive_{PORT}_last_ack_ns": echo,
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    asked, answered = truth["bytes"]
    for role, initiator in INITIATORS.items():
        ends = rows.ends(role, PORT)
        name = "client" if role == "active" else "server"
        yield same(f"{name}: rows", ROUNDS, len(ends))
        yield same(f"{name}: close_reason", "fin", common(ends, "close_reason"))
        yield same(f"{name}: initiator", initiator, common(ends, "initiator"))
        # and one byte for the echo, each way
        came = (answered if role == "active" else asked) + ROUNDS
        yield same(f"{name}: bytes received", came, sum(row["bytes_received"] or 0 for row in ends))
        yield from state_checks(name, truth, role, PORT, ends)
    for what, name, role, columns in (
        ("half_open_ns", "client: FIN_WAIT1 and 2", "active", ("fin_wait1_ns", "fin_wait2_ns")),
        ("late_ns", "server: CLOSE_WAIT", "passive", ("close_wait_ns",)),
    ):
        yield each(
            f"{name} by the application's clock",
            truth[what],
            column(rows.ends(role, PORT), *columns),
            relative=0.02,
            absolute_ns=1_500_000,
        )


SCENARIO = Scenario(
    name="half-close",
    chapter="teardown",
    title="shutdown(SHUT_WR): a half-closed connection that still brings an answer",
    teaches="A FIN ends one direction only. After shutdown(SHUT_WR) the client can still read: it waits in "
    "FIN_WAIT2 while the server, in CLOSE_WAIT, thinks and sends. Both times are the server application's. "
    "Here that is meant; a client that calls close() instead forgets the connection after "
    "net.ipv4.tcp_fin_timeout, and resets it when data comes.",
    topology=Topology(delay_ns=DELAY_NS, logged=True),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
