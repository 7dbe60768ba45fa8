"""Which connection is which: censoring, namespaces, other protocols, reuse of ports."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drive import SERVER, ack_at_once, agreed, connect, linger_zero, listen, pair_of, receive, wait_closed
from recording import Row, Stopwatch, ends, expect, finished, only
from scene import Record, Scene, Wired
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import SIDE_B

MPTCP, SCTP = 262, 132
BEFORE: dict[str, Any] = {
    "started_ns": None,
    "handshake_ns": None,
    "handshake_exact": None,
    "syn_retransmits": None,
    "synack_retransmits": None,
    "syn_sent_ns": None,
    "syn_recv_ns": None,
    "established_ns": None,
    "snd_isn": None,
    "left_censored": True,
}
"""What cannot be known of a connection whose beginning was not seen."""


@pytest.mark.matrix
def test_open_before_the_recording(wired: Wired, record: Record) -> None:
    a, b = wired
    watch = Stopwatch()
    client, server = pair_of(a, b)
    server.sendall(b"before")
    assert receive(client, 6) == b"before"
    facts, port = (agreed(client), agreed(server)), client.getsockname()[1]
    recording = record("--port", SERVER)
    server.sendall(b"during")
    assert receive(client, 6) == b"during"
    ack_at_once(server)
    with watch("client close"):
        client.close()
    with watch("eof"):
        assert receive(server, 1) == b""
        wait_closed(a, port)
    with watch("server close"):
        server.close()
    with watch("over"):
        wait_closed(b, SERVER)

    left, right = ends(recording.stop(), a, b)
    expect(
        left,
        finished(
            a,
            "unknown",
            **{
                **BEFORE,
                **facts[0],
                "local_port": port,
                "remote_addr": SIDE_B.ipv4,
                "remote_port": SERVER,
                "local_addr": namespaces.SIDE_A.ipv4,
                "fin_wait1_ns": watch.within("client close+eof"),
                "ended_ns": watch.wall("client close+eof"),
                "initiator": "local",
                "bytes_received": 12,
            },
        ),
    )
    expect(
        right,
        finished(
            b,
            "unknown",
            **{
                **BEFORE,
                **facts[1],
                "remote_port": port,
                "close_wait_ns": watch.gap("client close+eof", "server close"),
                "last_ack_ns": watch.within("server close+over"),
                "ended_ns": watch.wall("server close+over"),
                "initiator": "remote",
                "bytes_sent": 12,
            },
        ),
    )


def test_open_before_and_at_the_end_in_every_state(wired: Wired, record: Record) -> None:
    """Each connection open at the start and at the end is one row, censored on both sides."""
    a, b = wired
    with ExitStack() as stack:
        listener = stack.enter_context(listen(b))
        for _ in range(3):
            stack.enter_context(connect(a, SIDE_B.ipv4))
            stack.enter_context(listener.accept()[0])
        half = stack.enter_context(connect(a, SIDE_B.ipv4))
        stack.enter_context(listener.accept()[0])
        half.shutdown(socket.SHUT_WR)
        queued = stack.enter_context(connect(a, SIDE_B.ipv4))
        recording = record("--port", SERVER)
        rows = [row for row in recording.stop() if row["netns"] in (a.inode, b.inode)]
        half_port, queued_port = half.getsockname()[1], queued.getsockname()[1]
    assert len(rows) == 10
    assert all(row["left_censored"] and row["right_censored"] for row in rows)
    assert all(row["close_reason"] == "open" and row["ended_ns"] is None for row in rows)
    assert all(row["started_ns"] is None and row["established_ns"] is None for row in rows)
    assert only(rows, netns=a.inode, local_port=half_port)["state"] == "fin_wait2"
    assert only(rows, netns=b.inode, remote_port=half_port)["state"] == "close_wait"
    assert only(rows, netns=b.inode, remote_port=queued_port)["state"] == "established"


@pytest.mark.matrix
def test_open_at_the_end(wired: Wired, record: Record) -> None:
    scene = Scene(wired, record)
    scene.exchange()
    with scene.watch("finish"):
        left, right = scene.ends()
    scene.over()
    common: dict[str, Any] = {
        "ended_ns": None,
        "close_reason": "open",
        "initiator": None,
        "right_censored": True,
        "state": "established",
    }
    scene.expect_client(left, **common, established_ns=scene.since_open("client", "finish"))
    # The owner of the server's end has done nothing to it yet that a tracepoint could see.
    owner = {"pid": right["pid"], "comm": right["comm"]}
    scene.expect_server(right, **common, **owner, established_ns=scene.since_open("server", "finish"))


def test_one_tuple_in_two_namespaces(record: Record) -> None:
    recording = record("--port", SERVER)
    with ExitStack() as stack:
        pairs = [stack.enter_context(namespaces.pair()) for _ in range(2)]
        open_ends = []
        for a, b in pairs:
            with listen(b) as listener:
                client = connect(a, SIDE_B.ipv4, source=(namespaces.SIDE_A.ipv4, 30000))
                open_ends.append((client, listener.accept()[0]))
        for number, (client, server) in enumerate(open_ends):
            server.sendall(b"x" * (10 + number))
            assert len(receive(client, 10 + number)) == 10 + number
        for (a, b), (client, server) in zip(pairs, open_ends, strict=True):
            client.close()
            assert receive(server, 1) == b""
            server.close()
            wait_closed(a, 30000)
            wait_closed(b, SERVER)
        rows = recording.stop()
        found = [end for a, b in pairs for end in ends(rows, a, b)]
    assert len({row["connection_id"] for row in found}) == 4
    tuples = {(row["local_addr"], row["local_port"], row["remote_addr"], row["remote_port"]) for row in found}
    assert len(tuples) == 2
    assert [row["bytes_received"] for row in found] == [10, 0, 11, 0]
    assert [row["bytes_sent"] for row in found] == [0, 10, 0, 11]


def test_mptcp_is_its_subflow_and_nothing_else(wired: Wired, record: Record) -> None:
    a, b = wired
    try:
        listener = b.socket(protocol=MPTCP)
        client = a.socket(protocol=MPTCP)
    except OSError as error:
        assert not Path("/proc/sys/net/mptcp").exists(), error
        return  # the kernel has none: nothing to confuse
    recording = record("--port", SERVER)
    with listener, client:
        listener.settimeout(10)
        listener.bind((SIDE_B.ipv4, SERVER))
        listener.listen()
        client.settimeout(10)
        client.connect((SIDE_B.ipv4, SERVER))
        server = listener.accept()[0]
        port = client.getsockname()[1]
        # SO_PROTOCOL says what it is; MPTCP_INFO (1) exists only while it has not fallen back to TCP.
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == MPTCP
        assert server.getsockopt(284, 1, 128)
        server.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        client.close()
        assert receive(server, 1) == b""
        server.close()
    wait_closed(a, port)
    wait_closed(b, SERVER)
    left, right = ends(recording.stop(), a, b)
    assert (left["role"], right["role"]) == ("active", "passive")
    assert (left["local_port"], left["remote_port"]) == (port, SERVER)
    assert left["handshake_ns"] is not None and left["ended_ns"] is not None
    # On a subflow a byte of data is a byte of data; MPTCP's own signals are options.
    assert (left["bytes_received"], right["bytes_sent"]) == (5, 5)


def test_sctp_makes_no_row(wired: Wired, record: Record) -> None:
    a, b = wired
    try:
        listener = b.socket(protocol=SCTP)
    except OSError:
        assert not Path("/proc/net/sctp").exists()
        return  # the kernel has none: nothing to confuse
    recording = record("--netns", a.inode, "--netns", b.inode)
    with listener, a.socket(protocol=SCTP) as client:
        listener.bind((SIDE_B.ipv4, SERVER))
        listener.listen()
        client.connect((SIDE_B.ipv4, SERVER))
        server = listener.accept()[0]
        server.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        server.close()
    assert recording.stop() == []


CONNECTIONS = 5000
PORTS = 400


@pytest.fixture
def few_ports(wired: Wired) -> Iterator[Wired]:
    """So few ports that each is used many times over."""
    a, _ = wired
    a.sysctl("net.ipv4.ip_local_port_range", f"20000 {20000 + PORTS - 1}")
    yield wired


def test_port_reuse_merges_misses_and_doubles_nothing(few_ports: Wired, record: Record) -> None:
    """5,000 connections over 400 ports: half end by the client's RST, half by the server's FIN."""
    a, b = few_ports
    recording = record("--port", SERVER)
    used: Counter[int] = Counter()
    sizes: dict[int, list[int]] = {}
    with listen(b, backlog=128) as listener:
        for number in range(CONNECTIONS):
            client = connect(a, SIDE_B.ipv4)
            server = listener.accept()[0]
            port, size = client.getsockname()[1], number % 97 + 1
            used[port] += 1
            sizes.setdefault(port, []).append(size)
            client.sendall(b"x" * size)
            assert len(receive(server, size)) == size
            if number % 2:
                linger_zero(client)
                client.close()
            else:
                # The server's end keeps TIME_WAIT; the client's port is free at once.
                server.close()
                assert receive(client, 1) == b""
                client.close()
            server.close()
        wait_closed(a, *used)
        wait_closed(b, SERVER)
    assert len(used) <= PORTS

    rows = recording.stop()
    clients = [row for row in rows if row["netns"] == a.inode]
    servers = [row for row in rows if row["netns"] == b.inode]
    assert (len(clients), len(servers)) == (CONNECTIONS, CONNECTIONS)
    assert len({row["connection_id"] for row in clients + servers}) == 2 * CONNECTIONS
    assert Counter(row["local_port"] for row in clients) == used
    assert Counter(row["remote_port"] for row in servers) == used

    # Each port's connections one after the other, each with the bytes that the test sent over it.
    by_port: dict[int, list[Row]] = {}
    for row in clients:
        by_port.setdefault(row["local_port"], []).append(row)
    for port, of_port in by_port.items():
        assert [row["bytes_sent"] for row in sorted(of_port, key=_start)] == sizes[port]

    # The two ends find each other by their initial sequence numbers, one to one.
    partners = {(row["remote_port"], row["rcv_isn"], row["snd_isn"]): row for row in servers}
    assert len(partners) == CONNECTIONS
    for row in clients:
        partner = partners.pop((row["local_port"], row["snd_isn"], row["rcv_isn"]))
        assert partner["bytes_received"] == row["bytes_sent"]
        reasons = (row["close_reason"], partner["close_reason"])
        assert reasons in (("reset_sent", "reset_received"), ("fin", "fin"))
    assert not partners
    assert Counter(row["close_reason"] for row in clients) == {
        "reset_sent": CONNECTIONS // 2,
        "fin": CONNECTIONS // 2,
    }


def _start(row: Row) -> int:
    return int(row["started_ns"])
