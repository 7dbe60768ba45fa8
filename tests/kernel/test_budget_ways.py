"""Each way of moving data once: the bytes, writes, reads and turns that the rows tell of.

All ways are played in one recording, each on a connection with a port of its own.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import moving
from asking import PIECE, bounded, closed, cubic
from budget_rows import add_up, read_exchanges, turns_of
from conftest import require, why_no_lab, why_no_recording
from moving import ANSWER, BANNER, HUGE, LARGE, MANY, REQUEST
from recording import Between, Recording, Row, only
from scene import MS
from tcptrace.lab import namespaces
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_B, Addresses, Namespace
from turns import punctual

Play = Callable[[socket.socket, socket.socket], None]
Seen = tuple[Any, ...]
"""Of one row: side, request_bytes, response_bytes, writes, reads."""

FIRST_PORT = 7710
UNAVAILABLE = (errno.ENOSYS, errno.EPERM, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
"""The kernel was built without this way, or forbids it."""
FAR_A, FAR_B = Addresses("10.89.0.1", "fd89::1"), Addresses("10.89.0.2", "fd89::2")
"""The ends of the path of 20 ms between the same namespaces."""
Q, A, BIG = len(REQUEST), len(ANSWER), len(LARGE)
IPPROTO_MPTCP = 262


@dataclass(frozen=True)
class Way:
    """How data is moved, and what the rows of each end say of it; `times` times the same."""

    play: Play
    client: list[Seen] = field(default_factory=lambda: [("client", Q, A, 1, 1)])
    server: list[Seen] = field(default_factory=lambda: [("server", Q, A, 1, 1)])
    times: int = 2
    patterns: tuple[str, str] = ("turns", "turns")
    """Of the client's connection and the server's."""
    moved: tuple[int, int] = (0, 0)
    """Bytes from the client and from the server, where the rows do not tell."""
    far: bool = False
    protocol: int = socket.IPPROTO_TCP


def turns(client: Seen, server: Seen, *, times: int = 2) -> dict[str, Any]:
    return {"client": [("client", *client)], "server": [("server", *server)], "times": times}


MANY_READS = Between(len(HUGE) / PIECE, 1000)
NONE: dict[str, Any] = {"client": [], "server": [], "times": 1}
STREAM = ("stream", "stream")
BURST = ("client", 3 * Q, 3 * A, 3, 3)

WAYS = {
    "send and recv": Way(moving.send_and_recv),
    "sendmsg and recvmsg": Way(moving.sendmsg_and_recvmsg),
    "write and read": Way(moving.write_and_read),
    "writev and readv": Way(moving.writev_and_readv),
    "sendfile": Way(moving.sendfile, **turns((Q, BIG, 1, 1), (Q, BIG, 1, 1))),
    "splice": Way(moving.splice),
    "zero-copy send": Way(moving.zerocopy_send, **turns((BIG, BIG, 1, 1), (BIG, BIG, 1, 1))),
    "zero-copy receive": Way(moving.zerocopy_receive),
    "more to come": Way(moving.more_to_come, **turns((Q, A, 2, 1), (Q, A, 1, 1))),
    "cork": Way(moving.cork, **turns((Q, A, 1, 1), (Q, A, 2, 1))),
    "epoll": Way(moving.epoll),
    "several writes": Way(moving.several_writes, **turns((Q, A, 3, 1), (Q, A, 2, 1))),
    "several reads": Way(moving.several_reads, **turns((Q, A, 1, 3), (Q, A, 1, 2))),
    "peek": Way(moving.peek),
    "wait for all": Way(moving.wait_for_all, **turns((Q, A, 1, 1), (Q, A, 2, 1))),
    "large answer": Way(moving.large_answer, **turns((Q, len(HUGE), 1, MANY_READS), (Q, len(HUGE), 1, 1))),
    "discard": Way(moving.discard),
    "io_uring": Way(moving.io_uring),
    "half-closed": Way(moving.half_closed, times=1),
    # The banner is a request of the passive end; what the client asks then is the banner's answer as well.
    "server first": Way(
        moving.server_first,
        client=[("server", len(BANNER), Q, 1, 1), *[("client", Q, A, 1, 1)] * 2],
        server=[("client", len(BANNER), Q, 1, 1), *[("server", Q, A, 1, 1)] * 2],
        times=1,
        moved=(2 * Q, len(BANNER) + 2 * A),
    ),
    "stream": Way(moving.stream, **NONE, patterns=STREAM, moved=(len(HUGE), 0)),
    "unanswered": Way(moving.unanswered, **NONE, patterns=STREAM, moved=(Q, 0)),
    "both ways": Way(moving.both_ways, **NONE, patterns=STREAM, moved=(MANY * Q, MANY * Q), far=True),
    # The client's three writes are one request to it; the server answers while unread data is there.
    "burst": Way(
        moving.burst,
        client=[BURST],
        server=[],
        times=1,
        patterns=("turns", "stream"),
        moved=(3 * Q, 3 * A),
    ),
    "turns and a burst": Way(
        moving.turns_and_burst,
        client=[("client", Q, A, 1, 1), BURST],
        times=1,
        patterns=("turns", "mixed"),
        moved=(4 * Q, 4 * A),
    ),
    "impatient": Way(
        moving.impatient,
        client=[],
        server=[("server", Q, A, 1, 1)] * 2,
        times=1,
        patterns=("stream", "turns"),
        moved=(2 * Q, 2 * A),
    ),
    "pipelined": Way(moving.pipelined, **NONE, patterns=STREAM, moved=(MANY * Q, MANY * A), far=True),
}  # fmt: skip

MULTIPATH = {"multipath": Way(moving.send_and_recv, protocol=IPPROTO_MPTCP)}
"""The application's socket is no TCP socket; TCP sockets of the kernel carry its data."""
ALL = WAYS | MULTIPATH


@dataclass(frozen=True)
class Outcome:
    """What became of one way: an error in playing it, or the port of its server."""

    port: int
    error: BaseException | None


@dataclass(frozen=True)
class Played:
    """A finished recording of all ways: its rows, not yet looked at."""

    a: Namespace
    b: Namespace
    outcomes: dict[str, Outcome]
    connections: list[Row]
    exchanges: list[Row]

    def ends(self, name: str) -> tuple[tuple[Row, list[Row]], tuple[Row, list[Row]]]:
        """The row and the exchanges of the client and of the server."""
        outcome = self.outcomes[name]
        if isinstance(outcome.error, OSError) and outcome.error.errno in UNAVAILABLE:
            require(False, f"{name}: {outcome.error.strerror}")
        if outcome.error is not None:
            raise outcome.error
        client = only(self.connections, netns=self.a.inode, remote_port=outcome.port)
        server = only(self.connections, netns=self.b.inode, local_port=outcome.port)
        return (client, turns_of(self.exchanges, client)), (server, turns_of(self.exchanges, server))


def play(way: Way, a: Namespace, b: Namespace, port: int) -> Outcome:
    """Play it on a connection of its own."""
    address = (FAR_B if way.far else SIDE_B).ipv4
    try:
        with a.socket(protocol=way.protocol) as client, b.socket(protocol=way.protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for one in (client, listener):
                cubic(bounded(one))
            listener.bind((address, port))
            listener.listen(1)
            client.connect((address, port))
            with bounded(listener.accept()[0]) as server, punctual():
                listener.close()
                for _ in range(way.times):
                    way.play(client, server)
                closed(a, b, (client, server))
    except Exception as error:
        return Outcome(port, error)
    return Outcome(port, None)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    path = tmp_path_factory.mktemp("ways")
    with namespaces.pair() as (a, b), Link(a, b, delay_ns=10 * MS, side_a=FAR_A, side_b=FAR_B):
        yield record_all(path, a, b)


def record_all(path: Path, a: Namespace, b: Namespace) -> Played:
    recording = Recording(path / "ways.tct", ["--netns", str(a.inode), "--netns", str(b.inode)])
    try:
        outcomes = {
            name: play(way, a, b, FIRST_PORT + number) for number, (name, way) in enumerate(ALL.items())
        }
        connections = recording.stop()
        return Played(a, b, outcomes, connections, read_exchanges(recording))
    finally:
        recording.abandon()


def seen(row: Row) -> Seen:
    return tuple(row[name] for name in ("side", "request_bytes", "response_bytes", "writes", "reads"))


@pytest.mark.parametrize("name", WAYS)
def test_turns_and_their_bytes_are_those_that_were_moved(played: Played, name: str) -> None:
    way = WAYS[name]
    ends = played.ends(name)
    for (connection, rows), known, pattern in zip(ends, (way.client, way.server), way.patterns, strict=True):
        for row in rows:
            add_up(row)
        assert [seen(row) for row in rows] == known * way.times
        assert (connection["pattern"], connection["exchanges"]) == (pattern, len(rows))
        assert {row["retransmits"] for row in rows} <= {0}
    (client, rows), (server, _) = ends
    moved = way.moved
    if not any(moved):
        moved = sum(row["request_bytes"] for row in rows), sum(row["response_bytes"] for row in rows)
    assert (client["bytes_sent"], client["bytes_received"]) == moved
    assert (server["bytes_received"], server["bytes_sent"]) == moved


def test_sockets_of_the_kernel_have_no_turns(played: Played) -> None:
    for connection, rows in played.ends("multipath"):
        assert not rows
        assert (connection["pattern"], connection["exchanges"]) == (None, None)
