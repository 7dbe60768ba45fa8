"""Stages and the unattributed rest add up to the total to the nanosecond, however a turn goes.

Conversations are made up by hypothesis, all of them are in one recording.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget import column, insist_on_shares, of, read_budget
from drive import LIMIT_SECONDS, connect, listen, receive
from lacking import SLACK
from scene import MakeLink, Record, Wired
from tcptrace.lab.namespaces import SIDE_B
from turns import MS, US, punctual

CONVERSATIONS = 50


@dataclass(frozen=True)
class Shape:
    """One turn: what each end writes, and how long it does something else, in s."""

    request: list[int]
    """Bytes of each write."""
    between_writes: float
    server_late: float
    think: float
    answer: list[int]
    client_late: float
    reads: int
    """Bytes that the client asks for at once."""


pauses = st.sampled_from([0.0, 0.0, 0.001, 0.003])
writes = st.lists(st.integers(1, 4000), min_size=1, max_size=3)
shapes = st.builds(Shape, writes, pauses, pauses, pauses, writes, pauses, st.sampled_from([500, 10_000]))


def take(shape: Shape, client: socket.socket, server: socket.socket) -> int:
    """Take a turn of this shape. Returns for how long the client waited, in ns by its clock."""
    begin = time.monotonic_ns()
    for number, size in enumerate(shape.request):
        time.sleep(shape.between_writes if number else 0)
        client.sendall(bytes(size))
    time.sleep(shape.server_late)
    assert len(receive(server, sum(shape.request))) == sum(shape.request)
    time.sleep(shape.think)
    for size in shape.answer:
        server.sendall(bytes(size))
    time.sleep(shape.client_late)
    left = sum(shape.answer)
    while left:
        left -= len(client.recv(min(left, shape.reads)))
    return time.monotonic_ns() - begin


@dataclass(frozen=True)
class Conversation:
    port: int
    shapes: list[Shape]
    waited: list[int]


@pytest.mark.parametrize("delay_ms", [pytest.param(0, marks=pytest.mark.matrix), 1])
def test_every_turn_adds_up(linked: MakeLink, record: Record, delay_ms: int) -> None:
    link = linked(delay_ns=delay_ms * MS)
    recording = record(*of(link.a, link.b))
    held: list[Conversation] = []
    with listen(link.b) as listener:

        @settings(
            max_examples=CONVERSATIONS,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(shapes, min_size=1, max_size=3), st.booleans())
        def converse(turns: list[Shape], nodelay: bool) -> None:
            with connect(link.a, SIDE_B.ipv4) as client, listener.accept()[0] as server:
                server.settimeout(LIMIT_SECONDS)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
                waited = [take(shape, client, server) for shape in turns]
                held.append(Conversation(client.getsockname()[1], turns, waited))

        converse()
    assert len(held) >= CONVERSATIONS
    budget = read_budget(recording)  # which insists on the sums
    insist_on_shares(budget.exchanges)
    missed: list[int] = []
    for one in held:
        told = [(sum(shape.request), sum(shape.answer)) for shape in one.shapes]
        for space in (link.a, link.b):
            rows = budget.turns(space, one.port)
            assert [(row["request_bytes"], row["response_bytes"]) for row in rows] == told
        missed += (np.array(one.waited) - column(budget.turns(link.a, one.port), "total_ns")).tolist()
    # The turn is what the client waited for, but for the calls' way into the kernel and out of it.
    assert min(missed) > 0 and np.median(missed) < 200 * US * SLACK, missed


def answer_late(server: socket.socket) -> None:
    """What a thread does that serves one connection: it starts, reads when it gets to it, and answers."""
    time.sleep(0.002)
    assert len(receive(server, 100)) == 100
    time.sleep(0.001)
    server.sendall(bytes(200))


def test_readers_that_are_met_for_the_first_time(wired: Wired, record: Record) -> None:
    """A thread for each connection, as many servers do: nothing is known of it before its first read."""
    a, b = wired
    recording = record(*of(a, b))
    # The threads inherit the priority: a thread that waited for the CPU before may have waited at any time.
    with listen(b) as listener, punctual():
        for _ in range(CONVERSATIONS):
            with connect(a, SIDE_B.ipv4) as client, listener.accept()[0] as server:
                thread = threading.Thread(target=answer_late, args=(server,))
                thread.start()
                client.sendall(bytes(100))
                assert len(receive(client, 200)) == 200
                thread.join()
    budget = read_budget(recording)
    assert len(budget.exchanges) == 2 * CONVERSATIONS
    insist_on_shares(budget.exchanges)
    late = column([row for row in budget.exchanges if row["side"] == "server"], "app_late_ns")
    assert np.median(late) > MS, late
