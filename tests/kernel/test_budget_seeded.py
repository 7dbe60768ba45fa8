"""Exchanges of connections that were open before the recording: who asks is told by who listens."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from budget_rows import exchange_rows
from drive import LIMIT_SECONDS, connect, listen, receive, wait_readable
from recording import Recording, Row
from tcptrace.lab.namespaces import SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]
THINK_S = 0.004


def ask(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    time.sleep(THINK_S)
    server.sendall(b"the answer")
    assert receive(client, 10) == b"the answer"


def sides(rows: list[Row], space: Namespace, connections: list[Row]) -> list[Row]:
    mine = {row["connection_id"] for row in connections if row["netns"] == space.inode}
    return [row for row in rows if row["connection_id"] in mine]


@pytest.mark.parametrize("in_flight", ["nothing", "request", "part of the answer"])
def test_a_turn_that_was_under_way_does_not_turn_the_later_ones_round(
    wired: Wired, record: Record, in_flight: str
) -> None:
    """A pool of open connections is what a profiling session usually attaches to."""
    a, b = wired
    with listen(b) as listener:
        client = connect(a, SIDE_B.ipv4)
        server = listener.accept()[0]
        server.settimeout(LIMIT_SECONDS)
        with client, server:
            ask(client, server)
            if in_flight != "nothing":
                client.sendall(b"question")
                assert receive(server, 8) == b"question"
            if in_flight == "part of the answer":
                server.sendall(b"the ")
                wait_readable(client)
            recording = record(f"--netns={a.inode}", f"--netns={b.inode}")
            if in_flight == "request":
                server.sendall(b"the answer")
                assert receive(client, 10) == b"the answer"
            elif in_flight == "part of the answer":
                server.sendall(b"answer")
                assert receive(client, 10) == b"the answer"
            for _ in range(5):
                ask(client, server)
            connections = recording.stop()
    rows = exchange_rows(recording)
    asked, answered = sides(rows, a, connections), sides(rows, b, connections)
    assert [row["side"] for row in asked] == ["client"] * 5
    assert [row["side"] for row in answered] == ["server"] * 5
    for row in answered:
        assert (row["request_bytes"], row["response_bytes"]) == (8, 10)
        assert row["app_ns"] >= THINK_S * 1e9
    for row in asked:
        assert (row["request_bytes"], row["response_bytes"]) == (8, 10)
        assert row["peer_ns"] >= THINK_S * 1e9
        assert row["network_exact"] is True


def test_an_end_without_a_listener_that_has_the_lower_port_goes_by_its_first_data(
    wired: Wired, record: Record
) -> None:
    a, b = wired
    listener = listen(b)
    client = connect(a, SIDE_B.ipv4)
    server = listener.accept()[0]
    server.settimeout(LIMIT_SECONDS)
    listener.close()
    with client, server:
        recording = record(f"--netns={a.inode}", f"--netns={b.inode}")
        for _ in range(3):
            ask(client, server)
        connections = recording.stop()
    rows = exchange_rows(recording)
    assert [row["side"] for row in sides(rows, b, connections)] == ["server"] * 3
    assert [row["side"] for row in sides(rows, a, connections)] == ["client"] * 3
