"""Connections that begin or end without a packet: taken away and put back by TCP_REPAIR, or aborted."""

from __future__ import annotations

import shutil
import socket

import pytest

from conftest import require
from drive import SERVER, agreed, pair_of, receive
from recording import POSITIVE, STATE_TIMES, Between, Recording, expect, finished, never_established, only
from scene import Record, Wired
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace

TCP_REPAIR = 19
AWAY = {"close_reason": None, "initiator": None}
"""Nobody has closed it: it may live on elsewhere."""


def repair(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)


def rows_in(recording: Recording, space: Namespace) -> list[dict[str, object]]:
    return [row for row in recording.stop() if row["netns"] == space.inode]


def test_a_connection_that_a_checkpoint_takes_away_keeps_what_it_was(wired: Wired, record: Record) -> None:
    """close() wipes such a socket without a reset; its row is not one of zeroes."""
    a, b = wired
    recording = record("--port", SERVER)
    client, server = pair_of(a, b)
    client.sendall(b"x" * 100)
    assert receive(server, 100) == b"x" * 100
    server.sendall(b"y" * 50)
    assert receive(client, 50) == b"y" * 50
    facts, port = agreed(client), client.getsockname()[1]
    repair(client)
    client.close()
    server.close()
    row = only(rows_in(recording, a))
    expect(row, finished(a, "active", local_port=port, bytes_sent=100, bytes_received=50, **facts, **AWAY))


def test_a_connection_that_is_put_back_has_no_handshake(wired: Wired, record: Record) -> None:
    a, _ = wired
    recording = record("--port", SERVER)
    with a.socket() as client:
        repair(client)
        client.bind((SIDE_A.ipv4, 0))
        client.connect((SIDE_B.ipv4, SERVER))
    row = only(rows_in(recording, a))
    nothing = dict.fromkeys(
        (
            "started_ns",
            "handshake_ns",
            "handshake_exact",
            "syn_retransmits",
            "synack_retransmits",
            *STATE_TIMES,
        )
    )
    agreed_on = {"mss": POSITIVE, "snd_wscale": None, "rcv_wscale": None, "sack": False, "timestamps": False}
    unknown = dict.fromkeys(("snd_isn", "rcv_isn", "srtt_us", "min_rtt_us"))
    none_sent = {"segments_sent": 0, "segments_received": 0, "established_ns": POSITIVE}
    restored = finished(a, "active", **{**nothing, **agreed_on, **unknown, **AWAY, **none_sent})
    expect(row, {**restored, "role": "unknown"})


def test_a_connect_that_the_administrator_aborts_was_not_refused(wired: Wired, record: Record) -> None:
    a, _ = wired
    require(shutil.which("ss") is not None, "no ss: apt install iproute2")
    nobody = SIDE_B.ipv4.rpartition(".")[0] + ".77"
    recording = record("--port", SERVER)
    with a.socket() as client:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect((nobody, SERVER))
        a.check(["ss", "--kill", "dst", nobody])
        if not client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            pytest.skip("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)")
    row = only(rows_in(recording, a))
    aborted = {"close_reason": "aborted", "initiator": "local", "handshake_ns": None}
    expect(
        row,
        never_established(
            a, **aborted, remote_addr=nobody, syn_sent_ns=Between(0, 10**10), syn_retransmits=0
        ),
    )
