"""How a connection begins: both ends' whole rows against what the sockets and the link saw."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from drive import SERVER, address_of, agreed, pair_of, receive
from lacking import SLACK
from recording import Between, Stopwatch, ends, expect, finished
from scene import CLIENT_CLOSED, MS, SERVER_FOLLOWED, MakeLink, Record, Scene, Wired, close_both, opening
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_A, SIDE_B
from tcptrace.lab.packet import ACK, SYN


@pytest.mark.matrix
def test_syn_lost_once_then_answered(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=10 * MS, drops=[Drop("syn", nth=(1,))])
    scene = Scene((link.a, link.b), record)
    watch = scene.watch
    scene.close()

    syn, again, answer = opening(link.log())
    assert (syn["rule"], again["rule"]) == (0, -1)
    left, right = scene.ends()
    at_link = int(answer["left_ns"] - syn["arrived_ns"])
    assert at_link > 1000 * MS
    scene.expect_client(
        left,
        syn_retransmits=1,
        # The retransmitted SYN gives no sample of its own without timestamps; with them it does.
        handshake_ns=Between(at_link, watch.within("connect").high),
        syn_sent_ns=Between(at_link, watch.within("connect").high),
        **CLIENT_CLOSED,
    )
    scene.expect_server(
        right,
        handshake_ns=Between(20 * MS, 20 * MS + slack(link)),
        syn_recv_ns=Between(20 * MS, 20 * MS + slack(link)),
        **SERVER_FOLLOWED,
    )
    assert left["started_ns"] < right["started_ns"] - 1000 * MS


def slack(link: Link) -> int:
    """How much longer than the link's delays the ends may see the SYN-ACK and its ACK under way."""
    log = link.log()
    return int((log["left_ns"] - log["arrived_ns"])[log["left_ns"] > 0].max()) + round(20 * MS * SLACK)


def test_syn_ack_lost_once(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=10 * MS, drops=[Drop("synack", nth=(1,))])
    scene = Scene((link.a, link.b), record)
    watch = scene.watch
    scene.close()

    log = link.log()
    packets = opening(log)
    syns, answers = packets[packets["flags"] == SYN], packets[packets["flags"] == SYN | ACK]
    assert answers["rule"][0] == 0 and len(answers) > 1
    acks = log[log["flags"] == ACK]
    # What the link saw lies within what either end saw, by no more than that end's own work.
    at_client = int(answers["left_ns"][answers["left_ns"] > 0].min() - syns["arrived_ns"].min())
    at_server = int(acks["left_ns"].min() - answers["arrived_ns"].min())
    left, right = scene.ends()
    scene.expect_client(
        left,
        syn_retransmits=len(syns) - 1,
        handshake_ns=Between(at_client, watch.within("connect").high),
        syn_sent_ns=Between(at_client, watch.within("connect").high),
        **CLIENT_CLOSED,
    )
    scene.expect_server(
        right,
        # Repeats that cross the ACK do not count any more once the connection stands.
        synack_retransmits=Between(1, len(answers) - 1),
        handshake_ns=Between(at_server, watch.within("connect+accept").high),
        syn_recv_ns=Between(at_server, watch.within("connect+accept").high),
        **SERVER_FOLLOWED,
    )


def test_simultaneous_open(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=50 * MS)
    recording = record("--port", SERVER)
    watch = Stopwatch()
    one, other = link.a.socket(), link.b.socket()
    with watch("bind"):
        for space_end, side in ((one, SIDE_A), (other, SIDE_B)):
            space_end.bind((side.ipv4, SERVER))
            space_end.setblocking(False)
    with watch("connect"):
        assert one.connect_ex((SIDE_B.ipv4, SERVER)) == errno.EINPROGRESS
        assert other.connect_ex((SIDE_A.ipv4, SERVER)) == errno.EINPROGRESS
    with watch("established"):
        for end in (one, other):
            end.settimeout(10)
        one.sendall(b"first")
        assert receive(other, 5) == b"first"
        other.sendall(b"second")
        assert receive(one, 6) == b"second"
    facts = agreed(one), agreed(other)
    close_both(one, other, (link.a, link.b))

    packets = opening(link.log())
    crossing = packets[packets["flags"] == SYN]
    assert len(crossing) == 2 and crossing["arrived_ns"].max() < crossing["left_ns"].min()
    left, right = ends(recording.stop(), link.a, link.b)
    common: dict[str, Any] = {
        "local_port": SERVER,
        "remote_port": SERVER,
        "started_ns": watch.wall("connect"),
        # One way until the other's SYN arrives, another until the answer to it does.
        "syn_sent_ns": Between(30 * MS, watch.within("connect+established").high),
        "syn_recv_ns": Between(20 * MS, watch.within("connect+established").high),
        "handshake_ns": Between(90 * MS, watch.within("connect+established").high),
        "handshake_exact": False,
    }
    expect(
        left,
        finished(link.a, "active", **{**common, **facts[0]}, bytes_sent=5, bytes_received=6, **CLIENT_CLOSED),
    )
    expect(
        right,
        finished(
            link.b,
            "active",
            **{**common, **facts[1]},
            local_addr=SIDE_B.ipv4,
            remote_addr=SIDE_A.ipv4,
            bytes_sent=6,
            bytes_received=5,
            **SERVER_FOLLOWED,
        ),
    )


@pytest.mark.parametrize(
    ("connecting", "listening"),
    [("IPv4", "IPv4"), ("IPv6", "IPv6"), ("IPv4", "IPv6"), ("IPv4-mapped", "IPv4"), ("IPv4-mapped", "IPv6")],
)
def test_families(wired: Wired, record: Record, connecting: str, listening: str) -> None:
    family = socket.AF_INET6 if listening == "IPv6" else socket.AF_INET
    target = {"IPv4": SIDE_B.ipv4, "IPv6": SIDE_B.ipv6, "IPv4-mapped": f"::ffff:{SIDE_B.ipv4}"}[connecting]
    scene = Scene(wired, record, target, family)
    scene.exchange()
    scene.close()

    left, right = scene.ends()
    real = socket.AF_INET6 if connecting == "IPv6" else socket.AF_INET
    common: dict[str, Any] = {
        "family": "ipv6" if connecting == "IPv6" else "ipv4",
        "mss": 1440 if connecting == "IPv6" else 1460,
    }
    scene.expect_client(
        left,
        **common,
        v4_mapped=connecting == "IPv4-mapped",
        local_addr=address_of("a", real),
        remote_addr=address_of("b", real),
        **CLIENT_CLOSED,
    )
    scene.expect_server(
        right,
        **common,
        v4_mapped=listening == "IPv6" and connecting != "IPv6",
        local_addr=address_of("b", real),
        remote_addr=address_of("a", real),
        **SERVER_FOLLOWED,
    )


def test_agreed_options_follow_the_handshake(wired: Wired, record: Record) -> None:
    """Each side may refuse an option; both rows then say that it is not in use."""
    a, b = wired
    a.sysctl("net.ipv4.tcp_timestamps", 0)
    b.sysctl("net.ipv4.tcp_sack", 0)
    a.sysctl("net.ipv4.tcp_ecn", 1)
    namespaces.ip("-n", b.name, "link", "set", "veth0", "mtu", "1400")
    scene = Scene(wired, record)
    facts = scene.facts
    assert not facts[0]["timestamps"] and not facts[1]["sack"] and facts[0]["ecn"]
    scene.close()
    left, right = scene.ends()
    # The peer announced 1360; ours of 1460 is what the other end was told, less its own limit.
    assert left["mss"] == 1360 and right["mss"] in (1360, 1460)
    for row, known in zip((left, right), facts, strict=True):
        assert {name: row[name] for name in known} == known


def test_what_a_handshake_repeated_before_the_recording_is_no_retransmission(
    linked: MakeLink, record: Record
) -> None:
    link = linked(drops=[Drop("syn", nth=(1,))])
    client, server = pair_of(link.a, link.b)
    with client, server:
        recording = record("--port", SERVER)
        left, right = ends(recording.stop(), link.a, link.b)
    assert left["left_censored"] and right["left_censored"]
    assert left["retransmits"] == right["retransmits"] == 0
    assert left["syn_retransmits"] is None
