"""Connections that come to nothing: whole rows against what the application was told."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from drive import SERVER, agreed, connect, error_name, listen
from recording import Between, Stopwatch, expect, finished, never_established, only
from scene import CLIENT_CLOSED, MS, MakeLink, Record, Wired, close_both, opening
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop
from tcptrace.lab.namespaces import SIDE_B

NOBODY = "10.88.0.77"


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


@pytest.mark.matrix
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


@pytest.mark.matrix
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


def test_a_reset_to_nobody_makes_no_row(wired: Wired, record: Record) -> None:
    """Each end of a refused connection is one row at most: the refusing host had no socket."""
    a, b = wired
    recording = record("--port", SERVER)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect(a, SIDE_B.ipv4)
    rows = recording.stop()
    assert [row["netns"] for row in rows if row["netns"] in (a.inode, b.inode)] == [a.inode] * 3
