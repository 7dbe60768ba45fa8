"""Connections that begin or end without a packet: taken away and put back by TCP_REPAIR, or aborted."""

from __future__ import annotations

import select
import shutil
import socket
import struct

import pytest

from conftest import require
from drive import SERVER, agreed, linger_zero, pair_of, poll, receive, state_of
from recording import POSITIVE, STATE_TIMES, Between, Recording, expect, finished, never_established, only
from scene import Record, Wired
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP = 2, -1
IP_RECVERR = 11
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


def unreachable(space: Namespace, client: socket.socket, port: int) -> None:
    """An ICMP error from SIDE_B about what this client of SIDE_A:port has sent (RFC 792)."""
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    sequence = client.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
    ends_of_it = socket.inet_aton(SIDE_A.ipv4) + socket.inet_aton(SIDE_B.ipv4)
    about = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends_of_it
    about += struct.pack("!HHII8x", port, SERVER, sequence, 0)
    words = struct.pack("!BBHI", 3, 1, 0, 0) + about
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    with space.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(words[:2] + struct.pack("!H", checksum) + words[4:], (SIDE_A.ipv4, 0))
    poll(lambda: bool(select.select([client], [], [], 0)[0]), "an error on the socket")


def test_an_abort_after_an_icmp_error_is_no_timeout(wired: Wired, record: Record) -> None:
    """IP_RECVERR leaves the error on a connection that goes on."""
    a, b = wired
    recording = record("--port", SERVER)
    client, server = pair_of(a, b)
    with server:
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        unreachable(b, client, client.getsockname()[1])
        assert state_of(client) == "established"
        linger_zero(client)
        client.close()
    row = only(rows_in(recording, a))
    assert (row["close_reason"], row["initiator"]) == ("reset_sent", "local")
