"""How a connection ends by FIN: both ends' whole rows against what the sockets did."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from drive import (
    SERVER,
    connect,
    listen,
    receive,
    wait_closed,
    wait_state,
)
from recording import Between, ends
from scene import MS, MakeLink, Record, Scene, Wired
from tcptrace.lab.namespaces import SIDE_A, SIDE_B

CLIENT_FIRST = pytest.param("client", "server", marks=pytest.mark.matrix)


@pytest.mark.parametrize(("first", "second"), [CLIENT_FIRST, ("server", "client")])
def test_close_by_either(wired: Wired, record: Record, first: str, second: str) -> None:
    scene = Scene(wired, record)
    watch = scene.watch
    scene.exchange()
    scene.close_first(first)
    with watch("second close"):
        (scene.server if first == "client" else scene.client).close()
    scene.over()

    closed_first = {
        "initiator": "local",
        "established_ns": scene.since_open(first, "close"),
        # FIN_WAIT2 has no socket: the kernel keeps it, and TIME_WAIT, as a timewait socket.
        "fin_wait1_ns": watch.within("close+eof"),
        "ended_ns": watch.wall("close+eof"),
    }
    followed = {
        "initiator": "remote",
        "established_ns": scene.since_open(second, "close+eof"),
        "close_wait_ns": watch.gap("close+eof", "second close"),
        "last_ack_ns": watch.within("second close+over"),
        "ended_ns": watch.wall("second close+over"),
    }
    client, server = scene.ends()
    scene.expect_client(client, **(closed_first if first == "client" else followed))
    scene.expect_server(server, **(closed_first if first == "server" else followed))


def test_fin_that_carries_the_ack_of_ours(linked: MakeLink, record: Record) -> None:
    """Three packets instead of four: FIN_WAIT2 lasts as long as the kernel takes for the one segment."""
    link = linked(delay_ns=5 * MS)
    scene = Scene((link.a, link.b), record)
    watch = scene.watch
    scene.exchange()
    scene.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    with watch("client close"):
        scene.client.close()
    with watch("eof"):
        assert receive(scene.server, 1) == b""
    with watch("server close"):
        scene.server.close()
    scene.over()
    log = link.log()
    fin = log[(log["flags"] & 1 != 0) & (log["direction"] == 0)][0]
    back = log[(log["direction"] == 1) & (log["arrived_ns"] > fin["left_ns"])]
    carried = bool(back["flags"][0] & 1)

    client, _ = scene.ends()
    scene.expect_client(
        client,
        initiator="local",
        established_ns=watch.gap("connect", "client close"),
        fin_wait1_ns=Between(10 * MS, watch.within("client close+over").high),
        # A slow host's delayed ACK may leave before the FIN.
        fin_wait2_ns=Between(0, 5 * MS) if carried else None,
        ended_ns=watch.wall("over"),
    )


def test_segments_are_those_on_the_wire(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=MS)
    scene = Scene((link.a, link.b), record)
    for number in range(5):
        scene.exchange(b"q" * (number + 1), b"a" * 4000)
    scene.over()
    client, server = scene.ends()
    log = link.log()
    from_client = int((log["direction"] == 0).sum())
    from_server = int((log["direction"] == 1).sum())
    assert (client["segments_sent"], client["segments_received"]) == (from_client, from_server)
    # As the kernel counts: the SYN-ACK was sent by the request, before this socket existed.
    assert (server["segments_sent"], server["segments_received"]) == (from_server - 1, from_client)
    assert (client["bytes_sent"], client["bytes_received"]) == (15, 20_000)
    assert (server["bytes_sent"], server["bytes_received"]) == (20_000, 15)


@pytest.mark.matrix
def test_half_close_with_data_after_it(wired: Wired, record: Record) -> None:
    scene = Scene(wired, record)
    watch = scene.watch
    scene.client.sendall(b"a question")
    with watch("shutdown"):
        scene.client.shutdown(socket.SHUT_WR)
    with watch("eof"):
        assert receive(scene.server, 99) == b"a question"
    with watch("fin_wait2"):
        wait_state(scene.client, "fin_wait2")
    answer = b"x" * 50_000
    scene.server.sendall(answer)
    assert receive(scene.client, len(answer)) == answer
    with watch("server close"):
        scene.server.close()
    with watch("client eof"):
        assert receive(scene.client, 1) == b""
    scene.over()

    client, server = scene.ends()
    scene.expect_client(
        client,
        initiator="local",
        established_ns=watch.gap("connect", "shutdown"),
        fin_wait1_ns=watch.within("shutdown+fin_wait2"),
        fin_wait2_ns=watch.gap("shutdown+fin_wait2", "server close+client eof"),
        ended_ns=watch.wall("server close+client eof"),
        bytes_sent=10,
        bytes_received=50_000,
    )
    scene.expect_server(
        server,
        initiator="remote",
        established_ns=watch.gap("connect+accept", "shutdown+eof"),
        close_wait_ns=watch.gap("shutdown+eof", "server close"),
        last_ack_ns=watch.within("server close+over"),
        ended_ns=watch.wall("server close+over"),
        bytes_sent=50_000,
        bytes_received=10,
    )


def test_simultaneous_close(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=30 * MS)
    scene = Scene((link.a, link.b), record)
    watch = scene.watch
    scene.exchange()
    with watch("close"):
        scene.client.close()
        scene.server.close()
    scene.over()

    sent = link.wait_for(lambda log: ((log["flags"] & 1) != 0).sum() == 2)
    fins = sent[(sent["flags"] & 1) != 0]
    assert fins["arrived_ns"].max() < fins["left_ns"].min(), "the FINs did not cross"
    client, server = scene.ends()
    both = {
        "initiator": "simultaneous",
        "fin_wait1_ns": Between(30 * MS, watch.within("close+over").high),
        "closing_ns": Between(0, watch.within("close+over").high),
        "ended_ns": watch.wall("over"),
    }
    scene.expect_client(client, established_ns=watch.gap("connect", "close"), **both)
    scene.expect_server(server, established_ns=watch.gap("connect+accept", "close"), **both)


def test_owner_of_either_end_is_the_process_that_closed_it(wired: Wired, record: Record) -> None:
    """Another process accepts and closes; the name is the one it has at that moment."""
    a, b = wired
    recording = record("--port", SERVER)
    listener = listen(b)
    listener.setblocking(True)
    child = os.fork()
    if not child:
        try:
            with open("/proc/self/comm", "w") as name:
                name.write("a server")
            server = listener.accept()[0]
            server.recv(1)
            server.close()
        finally:
            os._exit(0)
    try:
        client = connect(a, SIDE_B.ipv4)
        port = client.getsockname()[1]
        client.close()
        os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    listener.close()
    wait_closed(b, SERVER)
    left, right = ends(recording.stop(), a, b)
    assert (left["pid"], left["local_port"]) == (os.getpid(), port)
    assert (right["pid"], right["comm"]) == (child, "a server")
    assert SIDE_A.ipv4 == left["local_addr"]
