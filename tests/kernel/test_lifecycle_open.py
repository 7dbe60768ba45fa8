"""How a connection begins, or does not: whole rows against what the sockets and the link saw."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drive import SERVER, ack_at_once, address_of, agreed, connect, error_name, listen, receive, wait_closed
from recording import Between, Recording, Stopwatch, ends, expect, finished, never_established, only
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop
from tcptrace.lab.link import Link, Log
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace
from tcptrace.lab.packet import ACK, SYN

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]
MakeLink = Callable[..., Link]
MS = 1_000_000
NOBODY = "10.88.0.77"


def opening(log: Log) -> Log:
    """The SYNs and SYN-ACKs of a log, in the order of their arrival at the link."""
    chosen = log[(log["flags"] & SYN) != 0]
    return chosen[chosen["arrived_ns"].argsort()]


def close_both(client: socket.socket, server: socket.socket, spaces: Wired) -> None:
    """The client closes first; returns when the kernel is done with both."""
    port = client.getsockname()[1]
    ack_at_once(server)
    client.close()
    assert receive(server, 1) == b""
    wait_closed(spaces[0], port)
    server.close()
    wait_closed(spaces[1], SERVER)


CLIENT_CLOSED = {"initiator": "local", "fin_wait1_ns": Between(0, 10_000 * MS)}
SERVER_FOLLOWED = {
    "initiator": "remote",
    "close_wait_ns": Between(0, 10_000 * MS),
    "last_ack_ns": Between(0, 10_000 * MS),
}


@pytest.fixture
def silent(wired: Wired) -> Iterator[Wired]:
    """A wire on which NOBODY never answers."""
    a, _ = wired
    namespaces.ip(
        "-n",
        a.name,
        "neigh",
        "add",
        NOBODY,
        "lladdr",
        "02:00:00:00:00:77",
        "dev",
        "veth0",
        "nud",
        "permanent",
    )
    yield wired


def test_refused_by_a_reset(wired: Wired, record: Record) -> None:
    a, _ = wired
    recording = record("--port", SERVER)
    watch = Stopwatch()
    with watch("connect"), pytest.raises(ConnectionRefusedError):
        connect(a, SIDE_B.ipv4)
    expect(
        only(recording.stop(), netns=a.inode),
        never_established(
            a,
            close_reason="refused",
            initiator="remote",
            started_ns=watch.wall("connect"),
            ended_ns=watch.wall("connect"),
            syn_sent_ns=watch.within("connect"),
            segments_sent=1,
        ),
    )


def test_refused_by_an_icmp_error(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=5 * MS)
    a, b = link.a, link.b
    namespaces.ip("-n", a.name, "route", "add", "10.99.0.0/24", "via", SIDE_B.ipv4)
    namespaces.ip("-n", b.name, "route", "add", "unreachable", "10.99.0.0/24")
    b.sysctl("net.ipv4.ip_forward", 1)
    recording = record("--port", SERVER)
    watch = Stopwatch()
    with watch("connect"), pytest.raises(OSError) as caught:
        connect(a, "10.99.0.1")
    assert error_name(caught.value) == "EHOSTUNREACH"
    expect(
        only(recording.stop(), netns=a.inode),
        never_established(
            a,
            remote_addr="10.99.0.1",
            close_reason="refused",
            initiator="remote",
            started_ns=watch.wall("connect"),
            ended_ns=watch.wall("connect"),
            syn_sent_ns=Between(10 * MS, watch.within("connect").high),
            segments_sent=1,
            segments_received=0,
        ),
    )


def test_refused_then_connected_on_the_same_socket(wired: Wired, record: Record) -> None:
    """One socket, two connections: two rows with one cookie."""
    a, b = wired
    recording = record("--port", SERVER)
    watch = Stopwatch()
    client = a.socket()
    with watch("refused"), pytest.raises(ConnectionRefusedError):
        client.connect((SIDE_B.ipv4, SERVER))
    with listen(b) as listener:
        with watch("connect"):
            client.connect((SIDE_B.ipv4, SERVER))
        server = listener.accept()[0]
    facts, port = agreed(client), client.getsockname()[1]
    close_both(client, server, wired)

    rows = recording.stop()
    refused = only(rows, netns=a.inode, close_reason="refused")
    second = only(rows, netns=a.inode, close_reason="fin")
    only(rows, netns=b.inode)
    assert refused["cookie"] == second["cookie"]
    assert refused["connection_id"] != second["connection_id"]
    expect(
        refused,
        never_established(
            a,
            close_reason="refused",
            initiator="remote",
            started_ns=watch.wall("refused"),
            ended_ns=watch.wall("refused"),
            syn_sent_ns=watch.within("refused"),
            segments_sent=1,
        ),
    )
    # The kernel does not reset its counters of segments between the two.
    expect(
        second,
        finished(a, "active", local_port=port, started_ns=watch.wall("connect"), **facts, **CLIENT_CLOSED),
    )


def test_connect_times_out(linked: MakeLink, record: Record) -> None:
    link = linked(drops=[Drop("syn")])
    link.a.sysctl("net.ipv4.tcp_syn_retries", 1)
    recording = record("--port", SERVER)
    watch = Stopwatch()
    with watch("connect"), pytest.raises(TimeoutError) as caught:
        connect(link.a, SIDE_B.ipv4)
    assert caught.value.errno == errno.ETIMEDOUT
    syns = opening(link.wait_for(lambda log: len(log) >= 2))
    expect(
        only(recording.stop(), netns=link.a.inode),
        never_established(
            link.a,
            close_reason="timeout",
            initiator=None,
            started_ns=watch.wall("connect"),
            ended_ns=watch.wall("connect"),
            # It waited after the last SYN, too.
            syn_sent_ns=Between(
                int(syns["arrived_ns"].max() - syns["arrived_ns"].min()) + 900 * MS,
                watch.within("connect").high,
            ),
            syn_retransmits=len(syns) - 1,
            segments_sent=len(syns),
            segments_received=0,
        ),
    )


def test_closed_before_an_answer(silent: Wired, record: Record) -> None:
    a, _ = silent
    recording = record("--port", SERVER)
    watch = Stopwatch()
    client = a.socket()
    client.setblocking(False)
    with watch("connect"):
        assert client.connect_ex((NOBODY, SERVER)) == errno.EINPROGRESS
    with watch("close"):
        client.close()
    expect(
        only(recording.stop(), netns=a.inode),
        never_established(
            a,
            remote_addr=NOBODY,
            close_reason="aborted",
            initiator="local",
            syn_sent_ns=watch.gap("connect", "close"),
            ended_ns=watch.wall("close"),
            segments_sent=1,
            segments_received=0,
        ),
    )


def test_no_free_port_is_aborted(wired: Wired, record: Record) -> None:
    a, b = wired
    a.sysctl("net.ipv4.ip_local_port_range", "20000 20000")
    recording = record("--netns", a.inode)
    watch = Stopwatch()
    with listen(b), connect(a, SIDE_B.ipv4) as first:
        assert first.getsockname()[1] == 20000
        with watch("connect"), pytest.raises(OSError) as caught:
            connect(a, SIDE_B.ipv4)
        assert error_name(caught.value) == "EADDRNOTAVAIL"
        first.close()
    rows = recording.stop()
    expect(
        only(rows, close_reason="aborted"),
        never_established(
            a,
            local_port=None,
            close_reason="aborted",
            initiator="local",
            syn_sent_ns=watch.within("connect"),
            started_ns=watch.wall("connect"),
            ended_ns=watch.wall("connect"),
            snd_isn=None,
            segments_sent=0,
            segments_received=0,
        ),
    )
    assert only(rows, netns=a.inode, local_port=20000)["handshake_ns"] is not None


def test_syn_lost_once_then_answered(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=10 * MS, drops=[Drop("syn", nth=(1,))])
    spaces = link.a, link.b
    recording = record("--port", SERVER)
    watch = Stopwatch()
    with listen(link.b) as listener:
        with watch("connect"):
            client = connect(link.a, SIDE_B.ipv4)
        with watch("accept"):
            server = listener.accept()[0]
    facts = agreed(client), agreed(server)
    close_both(client, server, spaces)

    syn, again, answer = opening(link.log())
    assert (syn["rule"], again["rule"]) == (0, -1)
    left, right = ends(recording.stop(), *spaces)
    at_link = int(answer["left_ns"] - syn["arrived_ns"])
    assert at_link > 1000 * MS
    expect(
        left,
        finished(
            link.a,
            "active",
            syn_retransmits=1,
            handshake_ns=Between(at_link, watch.within("connect").high),
            syn_sent_ns=Between(at_link, watch.within("connect").high),
            # The retransmitted SYN gives no sample of its own without timestamps; with them it does.
            **facts[0],
            **CLIENT_CLOSED,
        ),
    )
    expect(
        right,
        finished(
            link.b,
            "passive",
            handshake_ns=Between(20 * MS, 20 * MS + slack(link, watch)),
            syn_recv_ns=Between(20 * MS, 20 * MS + slack(link, watch)),
            started_ns=watch.wall("connect"),
            **facts[1],
            **SERVER_FOLLOWED,
        ),
    )
    assert left["started_ns"] < right["started_ns"] - 1000 * MS


def slack(link: Link, watch: Stopwatch) -> int:
    """How much longer than the link's delays the ends may see the SYN-ACK and its ACK under way."""
    log = link.log()
    return int((log["left_ns"] - log["arrived_ns"])[log["left_ns"] > 0].max()) + 20 * MS


def test_syn_ack_lost_once(linked: MakeLink, record: Record) -> None:
    link = linked(delay_ns=10 * MS, drops=[Drop("synack", nth=(1,))])
    spaces = link.a, link.b
    recording = record("--port", SERVER)
    watch = Stopwatch()
    with listen(link.b) as listener:
        with watch("connect"):
            client = connect(link.a, SIDE_B.ipv4)
        with watch("accept"):
            server = listener.accept()[0]
    facts = agreed(client), agreed(server)
    close_both(client, server, spaces)

    log = link.log()
    packets = opening(log)
    syns, answers = packets[packets["flags"] == SYN], packets[packets["flags"] == SYN | ACK]
    assert answers["rule"][0] == 0 and len(answers) > 1
    acks = log[log["flags"] == ACK]
    # What the link saw lies within what either end saw, by no more than that end's own work.
    at_client = int(answers["left_ns"][answers["left_ns"] > 0].min() - syns["arrived_ns"].min())
    at_server = int(acks["left_ns"].min() - answers["arrived_ns"].min())
    left, right = ends(recording.stop(), *spaces)
    expect(
        left,
        finished(
            link.a,
            "active",
            syn_retransmits=len(syns) - 1,
            handshake_ns=Between(at_client, watch.within("connect").high),
            syn_sent_ns=Between(at_client, watch.within("connect").high),
            **facts[0],
            **CLIENT_CLOSED,
        ),
    )
    expect(
        right,
        finished(
            link.b,
            "passive",
            # Repeats that cross the ACK do not count any more once the connection stands.
            synack_retransmits=Between(1, len(answers) - 1),
            handshake_ns=Between(at_server, watch.within("connect+accept").high),
            syn_recv_ns=Between(at_server, watch.within("connect+accept").high),
            started_ns=watch.wall("connect"),
            **facts[1],
            **SERVER_FOLLOWED,
        ),
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
    a, b = wired
    recording = record("--port", SERVER)
    family = socket.AF_INET6 if listening == "IPv6" else socket.AF_INET
    target = {"IPv4": SIDE_B.ipv4, "IPv6": SIDE_B.ipv6, "IPv4-mapped": f"::ffff:{SIDE_B.ipv4}"}[connecting]
    watch = Stopwatch()
    with listen(b, family=family) as listener:
        with watch("connect"):
            client = connect(a, target)
        with watch("accept"):
            server = listener.accept()[0]
    facts, port = (agreed(client), agreed(server)), client.getsockname()[1]
    server.sendall(b"hello")
    assert receive(client, 5) == b"hello"
    close_both(client, server, wired)

    left, right = ends(recording.stop(), a, b)
    real = socket.AF_INET6 if connecting == "IPv6" else socket.AF_INET
    common: dict[str, Any] = {
        "family": "ipv6" if connecting == "IPv6" else "ipv4",
        "mss": 1440 if connecting == "IPv6" else 1460,
        "handshake_ns": watch.within("connect+accept"),
        "started_ns": watch.wall("connect"),
    }
    expect(
        left,
        finished(
            a,
            "active",
            **common,
            v4_mapped=connecting == "IPv4-mapped",
            local_addr=address_of("a", real),
            local_port=port,
            remote_addr=address_of("b", real),
            bytes_received=5,
            **facts[0],
            **CLIENT_CLOSED,
        ),
    )
    expect(
        right,
        finished(
            b,
            "passive",
            **common,
            v4_mapped=listening == "IPv6" and connecting != "IPv6",
            local_addr=address_of("b", real),
            remote_addr=address_of("a", real),
            remote_port=port,
            bytes_sent=5,
            **facts[1],
            **SERVER_FOLLOWED,
        ),
    )


def test_agreed_options_follow_the_handshake(wired: Wired, record: Record) -> None:
    """Each side may refuse an option; both rows then say that it is not in use."""
    a, b = wired
    a.sysctl("net.ipv4.tcp_timestamps", 0)
    b.sysctl("net.ipv4.tcp_sack", 0)
    a.sysctl("net.ipv4.tcp_ecn", 1)
    namespaces.ip("-n", b.name, "link", "set", "veth0", "mtu", "1400")
    recording = record("--port", SERVER)
    with listen(b) as listener:
        client = connect(a, SIDE_B.ipv4)
        server = listener.accept()[0]
    facts = agreed(client), agreed(server)
    assert not facts[0]["timestamps"] and not facts[1]["sack"] and facts[0]["ecn"]
    close_both(client, server, wired)
    left, right = ends(recording.stop(), a, b)
    # The peer announced 1360; ours of 1460 is what the other end was told, less its own limit.
    assert left["mss"] == 1360 and right["mss"] in (1360, 1460)
    for row, known in zip((left, right), facts, strict=True):
        assert {name: row[name] for name in known} == known


def test_a_reset_to_nobody_makes_no_row(wired: Wired, record: Record) -> None:
    """Each end of a refused connection is one row at most: the refusing host had no socket."""
    a, b = wired
    recording = record("--port", SERVER)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect(a, SIDE_B.ipv4)
    rows = recording.stop()
    assert [row["netns"] for row in rows if row["netns"] in (a.inode, b.inode)] == [a.inode] * 3
