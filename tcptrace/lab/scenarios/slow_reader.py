"""A receiver that reads late: its window closes, and the sender waits for it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from tcptrace.lab.checks import Check, close, each, fold
from tcptrace.lab.part import Part, punctual, receive, timed
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.tcpinfo import limits
from tcptrace.lab.witness import Witness

MS = 1_000_000
# Requests to which the server comes late; a stream whose reader sleeps between reads; one whose reader reads.
LATE, SLOW, PROMPT = PORTS = range(7001, 7004)
SMALL_BUFFER = 16_384
REQUEST, ANSWER, TURNS = 200_000, 100, 5
LATE_SECONDS = 0.1
STREAM, PIECE, PAUSE_SECONDS = 1_000_000, 20_000, 0.01
JIFFIES_NS = 2 * 10 * MS
"""What the kernel counts in jiffies, at 100 Hz or more, is right to one at either end."""


def server(part: Part) -> None:
    punctual()

    def late(connection: socket.socket) -> None:
        for turn in range(TURNS):
            begin = time.monotonic_ns()
            if turn:
                time.sleep(LATE_SECONDS)
            first = connection.recv(1)
            part.note("late_ns", time.monotonic_ns() - begin)
            receive(connection, REQUEST - len(first))
            connection.sendall(bytes(ANSWER))

    def slow(connection: socket.socket) -> None:
        left = STREAM
        with timed(part, "unread_ns"):
            while left:
                time.sleep(PAUSE_SECONDS)
                left -= len(connection.recv(min(left, PIECE)))
        part.tell("read")

    def prompt(connection: socket.socket) -> None:
        receive(connection, STREAM)
        part.tell("read")

    part.serve(LATE, late, receive_buffer=SMALL_BUFFER)
    part.serve(SLOW, slow, receive_buffer=SMALL_BUFFER)
    part.serve(PROMPT, prompt)
    part.ready()
    part.until_done()


def _connect(part: Part, port: int) -> socket.socket:
    """Nothing but the receive window is to hold what is written."""
    one = part.unconnected()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # BBR would pace at the reader's speed
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    one.connect((part.peer, port))
    return one


def client(part: Part) -> None:
    punctual()
    with _connect(part, LATE) as one:
        for _ in range(TURNS):
            with timed(part, "turn_ns"):
                one.sendall(bytes(REQUEST))
                receive(one, ANSWER)
            part.note(f"rwnd_{LATE}_ns", limits(one).rwnd_ns)
    for port in (SLOW, PROMPT):
        with _connect(part, port) as one:
            one.sendall(bytes(STREAM))
            part.hear("read")
            part.note(f"rwnd_{port}_ns", limits(one).rwnd_ns)


def truth(witness: Witness) -> Truth:
    """By the client's clock: its turns. By the server's: how late it came to each request, and how long the
    slow reader had something to read. By the client's TCP_INFO: how long the receive window held it, in all
    turns but the first, which is not late, and on each stream."""
    turns = witness.client[f"rwnd_{LATE}_ns"]
    return {
        "turn_ns": witness.client["turn_ns"],
        "late_ns": witness.server["late_ns"][1:],
        "unread_ns": witness.server.one("unread_ns"),
        f"rwnd_{LATE}_ns": turns[-1] - turns[0],
        f"rwnd_{SLOW}_ns": witness.client.one(f"rwnd_{SLOW}_ns"),
        f"rwnd_{PROMPT}_ns": witness.client.one(f"rwnd_{PROMPT}_ns"),
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    turns = rows.turns("client", LATE)
    yield each("late: turn", truth["turn_ns"], column(turns, "total_ns"), relative=0.02, absolute_ns=MS)
    yield close(
        "late: held by the receive window, of TCP_INFO",
        truth[f"rwnd_{LATE}_ns"],
        fold(sum, column(turns[1:], "rwnd_ns")),
        relative=0.05,
        absolute_ns=JIFFIES_NS,
    )
    yield each(
        "late: the server elsewhere",
        truth["late_ns"],
        column(rows.turns("server", LATE)[1:], "app_late_ns"),
        relative=0.02,
        absolute_ns=2 * MS,
    )
    for port, way in ((SLOW, "slow"), (PROMPT, "prompt")):
        yield close(
            f"{way} reader of a stream: held by the receive window, of TCP_INFO",
            truth[f"rwnd_{port}_ns"],
            fold(sum, column(rows.ends("active", port), "held_rwnd_ns")),
            relative=0.05,
            absolute_ns=JIFFIES_NS,
        )
    yield close(
        "slow reader of a stream: unread",
        truth["unread_ns"],
        fold(sum, column(rows.ends("passive", SLOW), "unread_ns")),
        relative=0.02,
        absolute_ns=5 * MS,
    )


SCENARIO = Scenario(
    name="slow-reader",
    chapter="latency",
    title="A receiver that reads late closes its window, and the sender waits",
    teaches="What an application does not read fills its buffer, the window it announces shrinks to nothing, "
    "and the sender waits. The sender's rows say receive window (rwnd_ns of a turn, port 7001; held_rwnd_ns "
    "of a stream, port 7002), the receiver's say why: app_late_ns, the application was elsewhere, and "
    "unread_ns. Neither the network nor the sender is to blame; larger buffers only put it off. Read sooner: "
    "in a thread that does nothing else, say. Port 7003 is the same stream with a prompt reader.",
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
