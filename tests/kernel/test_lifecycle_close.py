"""How a connection ends: both ends' whole rows against what the sockets did."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from drive import (
    SERVER,
    ack_at_once,
    agreed,
    connect,
    error_name,
    linger_zero,
    listen,
    poll,
    receive,
    state_of,
    wait_closed,
    wait_readable,
    wait_state,
)
from recording import Between, Recording, Stopwatch, ends, expect, finished
from tcptrace.lab.faults import Drop
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]
MakeLink = Callable[..., Link]
MS = 1_000_000


class Scene:
    """A connection from a to b, its stopwatch, and what is known of both ends' rows at that point."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        self.a, self.b = a, b
        self.watch = Stopwatch()
        self.listener = listen(b)
        with self.watch("connect"):
            self.client = connect(a, SIDE_B.ipv4)
        with self.watch("accept"):
            self.server = self.listener.accept()[0]
            self.server.settimeout(10)
        self.port = self.client.getsockname()[1]
        self._agreed = agreed(self.client), agreed(self.server)

    def exchange(self, request: bytes = b"request", answer: bytes = b"an answer") -> None:
        self.client.sendall(request)
        assert receive(self.server, len(request)) == request
        self.server.sendall(answer)
        assert receive(self.client, len(answer)) == answer

    def client_row(self, **known: Any) -> dict[str, Any]:
        watch = self.watch
        return finished(
            self.a,
            "active",
            **{
                "local_port": self.port,
                "handshake_ns": watch.within("connect"),
                "syn_sent_ns": watch.within("connect"),
                "started_ns": watch.wall("connect"),
                **self._agreed[0],
                **known,
            },
        )

    def server_row(self, **known: Any) -> dict[str, Any]:
        watch = self.watch
        return finished(
            self.b,
            "passive",
            **{
                "remote_port": self.port,
                "handshake_ns": watch.within("connect+accept"),
                "syn_recv_ns": watch.within("connect+accept"),
                "started_ns": watch.wall("connect"),
                **self._agreed[1],
                **known,
            },
        )

    def over(self) -> None:
        """Close what is open and wait until the kernel is done with both ends."""
        with self.watch("over"):
            for one in (self.client, self.server, self.listener):
                one.close()
            wait_closed(self.a, self.port)
            wait_closed(self.b, SERVER)


def test_close_by_client(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    scene = Scene(*wired)
    watch = scene.watch
    scene.exchange()
    ack_at_once(scene.server)
    with watch("client close"):
        scene.client.close()
    with watch("eof"):
        assert receive(scene.server, 1) == b""
        wait_closed(scene.a, scene.port)
    with watch("server close"):
        scene.server.close()
    scene.over()

    client, server = ends(recording.stop(), *wired)
    expect(
        client,
        scene.client_row(
            initiator="local",
            established_ns=watch.gap("connect", "client close"),
            # FIN_WAIT2 has no socket: the kernel keeps it, and TIME_WAIT, as a timewait socket.
            fin_wait1_ns=watch.within("client close+eof"),
            ended_ns=watch.wall("client close+eof"),
            bytes_sent=7,
            bytes_received=9,
        ),
    )
    expect(
        server,
        scene.server_row(
            initiator="remote",
            established_ns=watch.gap("connect+accept", "client close+eof"),
            close_wait_ns=watch.gap("client close+eof", "server close"),
            last_ack_ns=watch.within("server close+over"),
            ended_ns=watch.wall("server close+over"),
            bytes_sent=9,
            bytes_received=7,
        ),
    )


def test_close_by_server(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    scene = Scene(*wired)
    watch = scene.watch
    scene.exchange()
    ack_at_once(scene.client)
    with watch("server close"):
        scene.server.close()
    with watch("eof"):
        assert receive(scene.client, 1) == b""
        wait_closed(scene.b, SERVER)
    with watch("client close"):
        scene.client.close()
    scene.over()

    client, server = ends(recording.stop(), *wired)
    expect(
        client,
        scene.client_row(
            initiator="remote",
            established_ns=watch.gap("connect", "server close+eof"),
            close_wait_ns=watch.gap("server close+eof", "client close"),
            last_ack_ns=watch.within("client close+over"),
            ended_ns=watch.wall("client close+over"),
            bytes_sent=7,
            bytes_received=9,
        ),
    )
    expect(
        server,
        scene.server_row(
            initiator="local",
            established_ns=watch.gap("connect+accept", "server close"),
            fin_wait1_ns=watch.within("server close+eof"),
            ended_ns=watch.wall("server close+eof"),
            bytes_sent=9,
            bytes_received=7,
        ),
    )


def test_fin_that_carries_the_ack_of_ours(linked: MakeLink, record: Record) -> None:
    """Three packets instead of four: FIN_WAIT2 lasts as long as the kernel takes for the one segment."""
    link = linked(delay_ns=5 * MS)
    recording = record("--port", SERVER)
    scene = Scene(link.a, link.b)
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

    client, _ = ends(recording.stop(), link.a, link.b)
    expect(
        client,
        scene.client_row(
            initiator="local",
            established_ns=watch.gap("connect", "client close"),
            fin_wait1_ns=Between(10 * MS, watch.within("client close+over").high),
            # A slow host's delayed ACK may leave before the FIN.
            fin_wait2_ns=Between(0, 5 * MS) if carried else None,
            ended_ns=watch.wall("over"),
            bytes_sent=7,
            bytes_received=9,
        ),
    )


def test_segments_are_those_on_the_wire(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=MS)
    recording = record("--port", SERVER)
    scene = Scene(link.a, link.b)
    for number in range(5):
        scene.exchange(b"q" * (number + 1), b"a" * 4000)
    scene.over()
    client, server = ends(recording.stop(), link.a, link.b)
    log = link.log()
    from_client = int((log["direction"] == 0).sum())
    from_server = int((log["direction"] == 1).sum())
    assert (client["segments_sent"], client["segments_received"]) == (from_client, from_server)
    # As the kernel counts: the SYN-ACK was sent by the request, before this socket existed.
    assert (server["segments_sent"], server["segments_received"]) == (from_server - 1, from_client)
    assert (client["bytes_sent"], client["bytes_received"]) == (15, 20_000)
    assert (server["bytes_sent"], server["bytes_received"]) == (20_000, 15)


def test_half_close_with_data_after_it(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    scene = Scene(*wired)
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

    client, server = ends(recording.stop(), *wired)
    expect(
        client,
        scene.client_row(
            initiator="local",
            established_ns=watch.gap("connect", "shutdown"),
            fin_wait1_ns=watch.within("shutdown+fin_wait2"),
            fin_wait2_ns=watch.gap("shutdown+fin_wait2", "server close+client eof"),
            ended_ns=watch.wall("server close+client eof"),
            bytes_sent=10,
            bytes_received=50_000,
        ),
    )
    expect(
        server,
        scene.server_row(
            initiator="remote",
            established_ns=watch.gap("connect+accept", "shutdown+eof"),
            close_wait_ns=watch.gap("shutdown+eof", "server close"),
            last_ack_ns=watch.within("server close+over"),
            ended_ns=watch.wall("server close+over"),
            bytes_sent=50_000,
            bytes_received=10,
        ),
    )


def test_simultaneous_close(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=30 * MS)
    recording = record("--port", SERVER)
    scene = Scene(link.a, link.b)
    watch = scene.watch
    scene.exchange()
    with watch("close"):
        scene.client.close()
        scene.server.close()
    scene.over()

    sent = link.wait_for(lambda log: ((log["flags"] & 1) != 0).sum() == 2)
    fins = sent[(sent["flags"] & 1) != 0]
    assert fins["arrived_ns"].max() < fins["left_ns"].min(), "the FINs did not cross"
    client, server = ends(recording.stop(), link.a, link.b)
    both = {
        "initiator": "simultaneous",
        "fin_wait1_ns": Between(30 * MS, watch.within("close+over").high),
        "closing_ns": Between(0, watch.within("close+over").high),
        "ended_ns": watch.wall("over"),
    }
    expect(
        client,
        scene.client_row(
            established_ns=watch.gap("connect", "close"), bytes_sent=7, bytes_received=9, **both
        ),
    )
    expect(
        server,
        scene.server_row(
            established_ns=watch.gap("connect+accept", "close"), bytes_sent=9, bytes_received=7, **both
        ),
    )


@pytest.mark.parametrize("aborting", ["client", "server"])
def test_abort_by_linger_zero(wired: Wired, record: Record, aborting: str) -> None:
    recording = record("--port", SERVER)
    scene = Scene(*wired)
    watch = scene.watch
    scene.exchange()
    sender, receiver = scene.client, scene.server
    if aborting == "server":
        sender, receiver = receiver, sender
    linger_zero(sender)
    with watch("abort"):
        sender.close()
    with watch("reset"):
        wait_readable(receiver)
        with pytest.raises(ConnectionResetError):
            receiver.recv(1)
    scene.over()

    client, server = ends(recording.stop(), *wired)
    sent = {"close_reason": "reset_sent", "initiator": "local", "ended_ns": watch.wall("abort")}
    received = {
        "close_reason": "reset_received",
        "initiator": "remote",
        "ended_ns": watch.wall("abort+reset"),
    }
    instant = "abort" if aborting == "client" else "abort+reset"
    expect(
        client,
        scene.client_row(
            established_ns=watch.gap("connect", instant),
            bytes_sent=7,
            bytes_received=9,
            **(sent if aborting == "client" else received),
        ),
    )
    # Its socket left CLOSE in no system call of its owner when the reset came from outside.
    unowned = {} if aborting == "server" else {"pid": None, "comm": None}
    expect(
        server,
        scene.server_row(
            established_ns=watch.gap("connect+accept", "abort+reset"),
            bytes_sent=9,
            bytes_received=7,
            **unowned,
            **(sent if aborting == "server" else received),
        ),
    )


def test_close_with_unread_data_resets(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    scene = Scene(*wired)
    watch = scene.watch
    scene.client.sendall(b"never read")
    wait_readable(scene.server)
    with watch("abort"):
        scene.server.close()
    with watch("reset"):
        wait_readable(scene.client)
        with pytest.raises(ConnectionResetError):
            scene.client.recv(1)
    scene.over()

    client, server = ends(recording.stop(), *wired)
    expect(
        client,
        scene.client_row(
            close_reason="reset_received",
            initiator="remote",
            established_ns=watch.gap("connect", "abort+reset"),
            ended_ns=watch.wall("abort+reset"),
            bytes_sent=10,
        ),
    )
    expect(
        server,
        scene.server_row(
            close_reason="reset_sent",
            initiator="local",
            established_ns=watch.gap("connect+accept", "abort"),
            ended_ns=watch.wall("abort"),
            bytes_received=10,
        ),
    )


def test_never_accepted(wired: Wired, record: Record) -> None:
    a, b = wired
    recording = record("--port", SERVER)
    watch = Stopwatch()
    listener = listen(b)
    with watch("connect"):
        client = connect(a, SIDE_B.ipv4)
    client_agreed, port = agreed(client), client.getsockname()[1]
    with watch("queued"):
        wait_readable(listener)
    with watch("abort"):
        listener.close()
    with watch("reset"):
        wait_readable(client)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    client.close()
    wait_closed(a, port)

    left, right = ends(recording.stop(), *wired)
    expect(
        left,
        finished(
            a,
            "active",
            close_reason="reset_received",
            initiator="remote",
            handshake_ns=watch.within("connect"),
            established_ns=watch.gap("connect", "abort+reset"),
            ended_ns=watch.wall("abort+reset"),
            **client_agreed,
        ),
    )
    expect(
        right,
        finished(
            b,
            "passive",
            # The child was never anybody's: the listener's owner is not its owner.
            pid=None,
            comm=None,
            close_reason="reset_sent",
            initiator="local",
            handshake_ns=watch.within("connect+queued"),
            established_ns=watch.gap("connect+queued", "abort"),
            ended_ns=watch.wall("abort"),
        ),
    )


def test_data_after_the_close_is_answered_by_a_reset(wired: Wired, record: Record) -> None:
    """The client's end has become a timewait socket by then: it closed by FIN, its peer saw a reset."""
    recording = record("--port", SERVER)
    scene = Scene(*wired)
    watch = scene.watch
    ack_at_once(scene.server)
    with watch("client close"):
        scene.client.close()
    with watch("eof"):
        assert receive(scene.server, 1) == b""
        wait_closed(scene.a, scene.port)
    with watch("data"):
        scene.server.sendall(b"too late")
        poll(lambda: state_of(scene.server) == "close", "close")
    with pytest.raises(OSError) as caught:
        scene.server.send(b"x")
    assert error_name(caught.value) == "EPIPE"
    scene.over()

    client, server = ends(recording.stop(), *wired)
    expect(
        client,
        scene.client_row(
            initiator="local",
            established_ns=watch.gap("connect", "client close"),
            fin_wait1_ns=watch.within("client close+eof"),
            ended_ns=watch.wall("client close+eof"),
        ),
    )
    expect(
        server,
        scene.server_row(
            pid=None,
            comm=None,
            close_reason="reset_received",
            initiator="remote",
            established_ns=watch.gap("connect+accept", "client close+eof"),
            close_wait_ns=watch.gap("client close+eof", "data"),
            ended_ns=watch.wall("data"),
            bytes_sent=8,
        ),
    )


def test_data_crossing_the_close_is_answered_by_a_reset(linked: MakeLink, record: Record) -> None:
    """The data was under way when the client closed: its socket is still in FIN_WAIT1 and resets."""
    link = linked(delay_ns=30 * MS)
    recording = record("--port", SERVER)
    scene = Scene(link.a, link.b)
    watch = scene.watch
    with watch("data"):
        scene.server.sendall(b"crossing")
    with watch("client close"):
        scene.client.close()
    with watch("reset"):
        wait_closed(link.a, scene.port)
        poll(lambda: state_of(scene.server) == "close", "close")
    scene.over()

    client, server = ends(recording.stop(), link.a, link.b)
    expect(
        client,
        scene.client_row(
            close_reason="reset_sent",
            initiator="local",
            established_ns=watch.gap("connect", "client close"),
            fin_wait1_ns=watch.within("client close+reset"),
            ended_ns=watch.wall("reset"),
        ),
    )
    expect(
        server,
        scene.server_row(
            pid=None,
            comm=None,
            close_reason="reset_received",
            initiator="remote",
            established_ns=watch.gap("connect+accept", "client close+reset"),
            close_wait_ns=watch.within("client close+reset"),
            ended_ns=watch.wall("reset"),
            bytes_sent=8,
        ),
    )


def test_peer_gone_silent_times_out(linked: MakeLink, record: Record) -> None:
    link = linked(drops=[Drop("data", direction="ab")])
    recording = record("--port", SERVER)
    scene = Scene(link.a, link.b)
    watch = scene.watch
    scene.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 400)
    with watch("send"):
        scene.client.sendall(b"into the void")
    with watch("timeout"):
        wait_readable(scene.client)
        with pytest.raises(TimeoutError) as caught:
            scene.client.recv(1)
    assert caught.value.errno is not None and error_name(caught.value) == "ETIMEDOUT"
    lost = link.log()
    retransmissions = int((lost["payload"] > 0).sum()) - 1
    with watch("finish"):
        rows = recording.stop()

    client, server = ends(rows, link.a, link.b)
    expect(
        client,
        scene.client_row(
            close_reason="timeout",
            initiator=None,
            established_ns=watch.gap("connect", "timeout"),
            ended_ns=watch.wall("timeout"),
            bytes_sent=13,
            retransmits=retransmissions,
        ),
    )
    expect(
        server,
        scene.server_row(
            # Open at the end: its file tells whose it is. It sent nothing but its SYN-ACK, uncounted.
            segments_sent=0,
            segments_received=2,
            close_reason="open",
            initiator=None,
            established_ns=watch.gap("connect+accept", "finish"),
            ended_ns=None,
            right_censored=True,
            state="established",
        ),
    )
    scene.over()


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
