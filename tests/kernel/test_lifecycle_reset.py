"""How a connection ends by reset or in silence: both ends' whole rows against what the sockets did."""

from __future__ import annotations

import socket

import pytest

from drive import (
    SERVER,
    agreed,
    connect,
    error_name,
    linger_zero,
    listen,
    poll,
    state_of,
    wait_closed,
    wait_readable,
)
from recording import Stopwatch, ends, expect, finished
from scene import MS, RESET_RECEIVED, RESET_SENT, UNOWNED, MakeLink, Record, Scene, Wired
from tcptrace.lab.faults import Drop
from tcptrace.lab.namespaces import SIDE_B


@pytest.mark.parametrize("aborting", ["client", pytest.param("server", marks=pytest.mark.matrix)])
def test_abort_by_linger_zero(wired: Wired, record: Record, aborting: str) -> None:
    scene = Scene(wired, record)
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

    client, server = scene.ends()
    sent = {**RESET_SENT, "ended_ns": watch.wall("abort")}
    received = {**RESET_RECEIVED, "ended_ns": watch.wall("abort+reset")}
    instant = "abort" if aborting == "client" else "abort+reset"
    scene.expect_client(
        client,
        established_ns=watch.gap("connect", instant),
        **(sent if aborting == "client" else received),
    )
    scene.expect_server(
        server,
        established_ns=watch.gap("connect+accept", "abort+reset"),
        **(sent if aborting == "server" else received),
    )


@pytest.mark.matrix
def test_close_with_unread_data_resets(wired: Wired, record: Record) -> None:
    scene = Scene(wired, record)
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

    client, server = scene.ends()
    scene.expect_client(
        client,
        **RESET_RECEIVED,
        established_ns=watch.gap("connect", "abort+reset"),
        ended_ns=watch.wall("abort+reset"),
        bytes_sent=10,
    )
    scene.expect_server(
        server,
        **RESET_SENT,
        established_ns=watch.gap("connect+accept", "abort"),
        ended_ns=watch.wall("abort"),
        bytes_received=10,
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
            **RESET_RECEIVED,
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
            **UNOWNED,
            **RESET_SENT,
            handshake_ns=watch.within("connect+queued"),
            established_ns=watch.gap("connect+queued", "abort"),
            ended_ns=watch.wall("abort"),
        ),
    )


def test_data_after_the_close_is_answered_by_a_reset(wired: Wired, record: Record) -> None:
    """The client's end has become a timewait socket by then: it closed by FIN, its peer saw a reset."""
    scene = Scene(wired, record)
    watch = scene.watch
    scene.close_first("client")
    with watch("data"):
        scene.server.sendall(b"too late")
        poll(lambda: state_of(scene.server) == "close", "close")
    with pytest.raises(OSError) as caught:
        scene.server.send(b"x")
    assert error_name(caught.value) == "EPIPE"
    scene.over()

    client, server = scene.ends()
    scene.expect_client(
        client,
        initiator="local",
        established_ns=watch.gap("connect", "close"),
        fin_wait1_ns=watch.within("close+eof"),
        ended_ns=watch.wall("close+eof"),
    )
    scene.expect_server(
        server,
        **RESET_RECEIVED,
        established_ns=watch.gap("connect+accept", "close+eof"),
        close_wait_ns=watch.gap("close+eof", "data"),
        ended_ns=watch.wall("data"),
        bytes_sent=8,
    )


def test_data_crossing_the_close_is_answered_by_a_reset(linked: MakeLink, record: Record) -> None:
    """The data was under way when the client closed: its socket is still in FIN_WAIT1 and resets."""
    link = linked(delay_ns=30 * MS)
    scene = Scene((link.a, link.b), record)
    watch = scene.watch
    with watch("data"):
        scene.server.sendall(b"crossing")
    with watch("client close"):
        scene.client.close()
    with watch("reset"):
        wait_closed(link.a, scene.port)
        poll(lambda: state_of(scene.server) == "close", "close")
    scene.over()

    client, server = scene.ends()
    scene.expect_client(
        client,
        **RESET_SENT,
        established_ns=watch.gap("connect", "client close"),
        fin_wait1_ns=watch.within("client close+reset"),
        ended_ns=watch.wall("reset"),
    )
    scene.expect_server(
        server,
        **RESET_RECEIVED,
        established_ns=watch.gap("connect+accept", "client close+reset"),
        close_wait_ns=watch.within("client close+reset"),
        ended_ns=watch.wall("reset"),
        bytes_sent=8,
    )


def test_peer_gone_silent_times_out(linked: MakeLink, record: Record) -> None:
    link = linked(drops=[Drop("data", direction="ab")])
    scene = Scene((link.a, link.b), record)
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
        client, server = scene.ends()
    scene.expect_client(
        client,
        close_reason="timeout",
        initiator=None,
        established_ns=watch.gap("connect", "timeout"),
        ended_ns=watch.wall("timeout"),
        bytes_sent=13,
        retransmits=retransmissions,
    )
    scene.expect_server(
        server,
        # Open at the end: its file tells whose it is. It sent nothing but its SYN-ACK, uncounted.
        segments_sent=0,
        segments_received=2,
        close_reason="open",
        initiator=None,
        established_ns=watch.gap("connect+accept", "finish"),
        ended_ns=None,
        right_censored=True,
        state="established",
    )
    scene.over()
