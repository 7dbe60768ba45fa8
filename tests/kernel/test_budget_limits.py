"""Holds by cork, congestion window, pacing, receive window and send buffer, each against its own truth.

That is the application's clock, with and without the limit, or the kernel's account of the sender in
TCP_INFO. Nagle's algorithm is off, so that no test has two causes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence

import pytest

from asking import (
    Answering,
    Limits,
    Tuning,
    ask,
    bounded,
    closed,
    connected,
    cork,
    limits_of,
    nodelay,
    pacing,
    receive_buffer,
    retransmits_of,
    send_buffer,
    uncork,
)
from budget import Budget, insist_on_shares, read_budget
from budget_rows import other_holds, total
from conftest import require
from drive import LIMIT_SECONDS, SERVER
from ledger import note
from recording import Recording, Row
from scene import MS, MakeLink, Record, Wired
from tcptrace.lab import namespaces
from tcptrace.lab.link import DEVICE
from tcptrace.lab.namespaces import Namespace
from turns import kernel_counts, punctual, without_jitter

SMALL = 100
ANSWER = 100
PARTS = 40_000
AMPLE = send_buffer(1 << 20)
ROOMY = receive_buffer(1 << 20)


def in_one_write(size: int) -> Tuning:
    return lambda one: one.sendall(bytes(size))


def without_blocking(size: int) -> Tuning:
    """As much as goes, and the rest when the socket is writable again."""

    def write(one: socket.socket) -> None:
        one.setblocking(False)
        left = size
        while left:
            assert select.select([], [one], [], LIMIT_SECONDS)[1], "never writable"
            left -= one.send(bytes(left))
        bounded(one)

    return write


def in_writes_of(size: int, count: int) -> Tuning:
    def write(one: socket.socket) -> None:
        for _ in range(count):
            one.sendall(bytes(size))

    return write


class Connection:
    """One connection's turns: the client's times, what its TCP_INFO says, and its rows afterwards."""

    def __init__(
        self,
        spaces: Wired,
        request: int,
        *,
        client: Sequence[Tuning] = (nodelay,),
        server: Sequence[Tuning] = (),
    ) -> None:
        self.spaces, self.request = spaces, request
        self.client, self.server = connected(*spaces, client=client, server=server)
        self.port = self.client.getsockname()[1]
        self.times: list[int] = []

    def take(self, turns: int, write: Tuning, *, pause_s: float = 0.0) -> list[int]:
        """More turns. Returns their times."""
        with punctual(), Answering(self.server, turns, self.request, pause_s=pause_s):
            times = ask(self.client, turns, write, ANSWER)
        self.times += times
        self.retransmits = retransmits_of(self.client)
        return times

    def limits(self) -> Limits:
        return limits_of(self.client)

    def rows(self, budget: Budget) -> list[Row]:
        """The client's rows, each with all its bytes; the server never has a hold."""
        client, server = (budget.turns(space, self.port) for space in self.spaces)
        assert len(client) == len(server) == len(self.times)
        for rows, side in ((client, "client"), (server, "server")):
            assert {row["side"] for row in rows} == {side}
            assert {(row["request_bytes"], row["response_bytes"]) for row in rows} == {(self.request, ANSWER)}
            assert {row["hold_ambiguous"] for row in rows} == {False}
        # A request that the receiver has not read may be probed for (tail loss probes are retransmissions).
        assert sum(row["retransmits"] for row in client) == self.retransmits
        assert not any(other_holds(server).values()), other_holds(server)
        insist_on_shares(client)
        return client


def finish(recording: Recording, *connections: Connection) -> list[list[Row]]:
    """Close the connections, stop the recording; the rows of each connection."""
    closed(*connections[0].spaces, *((one.client, one.server) for one in connections))
    budget = read_budget(recording)
    return [connection.rows(budget) for connection in connections]


def insist_on(rows: Sequence[Row], cause: str, truth_ns: int) -> None:
    """A cause within 10 % + 1 ms of the truth, all others together less than 5 % of it."""
    measured = total(rows, cause)
    others = other_holds(rows, cause)
    said = f"{cause} is {measured} ns, in truth {truth_ns}; the others {others}"
    note(cause, len(rows), truth_ns, measured, "10 % + 1 ms")
    assert abs(measured - truth_ns) <= 0.1 * truth_ns + MS, said
    assert sum(others.values()) < 0.05 * truth_ns, said


def held_for(pause_s: float, hold: Tuning, release: Tuning, held: list[int]) -> Tuning:
    """Write under a hold, be elsewhere, release; `held` gets the time from the last write to the release."""

    def write(one: socket.socket) -> None:
        hold(one)
        begin = time.monotonic_ns()
        time.sleep(pause_s)
        release(one)
        held.append(time.monotonic_ns() - begin)

    return write


def write_corked(one: socket.socket) -> None:
    cork(one)
    one.send(bytes(SMALL // 2))
    one.send(bytes(SMALL // 2))


def write_more(one: socket.socket) -> None:
    one.send(bytes(SMALL), socket.MSG_MORE)


def test_cork_until_it_is_taken_off(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    connection = Connection(wired, SMALL)
    held: list[int] = []
    connection.take(4, held_for(0.03, write_corked, uncork, held))
    (rows,) = finish(recording, connection)
    insist_on(rows, "cork_ns", sum(held))


def test_cork_until_the_kernel_sends_all_the_same(wired: Wired, record: Record) -> None:
    """200 ms after the write, by the timer of the zero-window probe (tcp_probe_timer)."""
    recording = record("--port", SERVER)
    connection = Connection(wired, SMALL)
    free = connection.take(2, in_one_write(SMALL))
    held = connection.take(3, write_corked)
    (rows,) = finish(recording, connection)
    insist_on(rows[2:], "cork_ns", sum(held) - 3 * min(free))
    assert not any(other_holds(rows[:2]).values())


# Switching Nagle off pushes what waits (tcp_sock_set_nodelay), so it is on before.
@pytest.mark.parametrize("released", [True, False], ids=["pushed", "by the timer"])
def test_more_to_come_is_a_cork(wired: Wired, record: Record, released: bool) -> None:
    recording = record("--port", SERVER)
    connection = Connection(wired, SMALL, client=())
    free = connection.take(1, in_one_write(SMALL))
    held: list[int] = []
    if released:
        connection.take(1, held_for(0.03, write_more, nodelay, held))
        truth = sum(held)
    else:
        truth = sum(connection.take(3, write_more)) - 3 * free[0]
    (rows,) = finish(recording, connection)
    insist_on(rows[1:], "cork_ns", truth)


def test_congestion_window_at_the_start_of_a_long_path(linked: MakeLink, record: Record) -> None:
    """Ten segments, then twenty, then the rest: two round trips more than once the window has grown."""
    link = without_jitter(linked(delay_ns=25 * MS))
    recording = record("--port", SERVER)
    size = 80_000
    tuned: dict[str, Sequence[Tuning]] = {"client": (nodelay, AMPLE), "server": (ROOMY,)}
    connections = [Connection((link.a, link.b), size, **tuned) for _ in range(3)]
    excess = []
    for connection in connections:
        first, *later = connection.take(3, in_one_write(size))
        limits = connection.limits()
        assert not limits.rwnd_ns and not limits.sndbuf_ns, limits
        excess.append(first - min(later))
    usual = sorted(excess)[1]
    rows = finish(recording, *connections)[excess.index(usual)]
    insist_on(rows[:1], "cwnd_ns", usual)


def test_pacing(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    size, rate = 200_000, 2_000_000
    free = Connection(wired, size, client=(nodelay, AMPLE), server=(ROOMY,))
    paced = Connection(wired, size, client=(nodelay, AMPLE, pacing(rate)), server=(ROOMY,))
    free.take(3, in_one_write(size))
    paced.take(3, in_one_write(size))
    difference = sum(paced.times) - sum(free.times)
    assert difference > 2 * size / rate * 1e9, "the scene is not the one that this test is about"
    _, rows = finish(recording, free, paced)
    insist_on(rows, "pacing_ns", difference)


@contextlib.contextmanager
def received_elsewhere(*spaces: Namespace) -> Iterator[None]:
    """Packets wait for another CPU than this thread's: until then their sender's device still has them."""
    usual = os.sched_getaffinity(0)
    here, there, *_ = sorted(usual)
    for space in spaces:
        steer = f"echo {1 << there:x} > /sys/class/net/veth0/queues/rx-0/rps_cpus"
        namespaces.ip("netns", "exec", space.name, "sh", "-c", steer)
    os.sched_setaffinity(0, {here})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def test_autocorking_is_pacing_by_the_device(wired: Wired, record: Record) -> None:
    """The second write waits until the first has left the device: tcp_should_autocork(), which is counted."""
    require(len(os.sched_getaffinity(0)) > 1, "a single CPU")
    recording = record("--port", SERVER)
    before = kernel_counts(wired[0])
    with received_elsewhere(*wired):
        connection = Connection(wired, SMALL)
        connection.take(20, in_writes_of(SMALL // 2, 2))
    corked = kernel_counts(wired[0])["TCPAutoCorking"] - before["TCPAutoCorking"]
    assert corked, "the scene is not the one that this test is about"
    (rows,) = finish(recording, connection)
    assert sum(row["pacing_ns"] > 0 for row in rows) == corked
    assert not any(other_holds(rows, "pacing_ns").values()), other_holds(rows)


def test_receive_window_of_an_absent_reader(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    size = 200_000
    connection = Connection(wired, size, client=(nodelay, AMPLE), server=(receive_buffer(16_384),))
    times = connection.take(3, in_one_write(size), pause_s=0.1)
    limits = connection.limits()
    assert limits.rwnd_ns > 0.9 * sum(times) and not limits.sndbuf_ns, limits
    (rows,) = finish(recording, connection)
    insist_on(rows, "rwnd_ns", limits.rwnd_ns)


def start_large(space: Namespace) -> None:
    """A congestion window of 200 segments from the start: slow start is no limit."""
    space.check(["ip", "route", "change", "10.88.0.0/24", "dev", DEVICE, "initcwnd", "200"])


def two_segments_each(space: Namespace) -> None:
    """No skb is larger than that: the last one may always exceed the send buffer."""
    space.check(["ip", "link", "set", DEVICE, "gso_max_segs", "2"])


def test_receive_window_that_is_small_for_the_path(linked: MakeLink, record: Record) -> None:
    """A window each round trip; the last one is the request's own."""
    link = without_jitter(linked(delay_ns=25 * MS))
    start_large(link.a)
    recording = record("--port", SERVER)
    size = 60_000
    small = receive_buffer(16_384)
    connection = Connection((link.a, link.b), size, client=(nodelay, AMPLE), server=(small,))
    connection.take(3, in_one_write(size))
    limits = connection.limits()
    assert limits.rwnd_ns > 300 * MS and not limits.sndbuf_ns, limits
    (rows,) = finish(recording, connection)
    insist_on(rows, "rwnd_ns", limits.rwnd_ns)


@pytest.mark.parametrize(
    "write", [in_one_write(100_000), in_writes_of(20_000, 5)], ids=["one write", "several writes"]
)
def test_send_buffer_that_is_small_for_the_path(linked: MakeLink, record: Record, write: Tuning) -> None:
    """Paced, at 0.4 ms for a full buffer: the kernel counts a blocked writer only if data waited meanwhile.

    (tcp_cwnd_validate() looks for one when it sends; what is sent within the write finds none.) Pacing starts
    after ten segments, so that the first turn is not counted.
    """
    link = without_jitter(linked(delay_ns=20 * MS))
    start_large(link.a)
    two_segments_each(link.a)
    recording = record("--port", SERVER)
    tuned = (nodelay, send_buffer(8192), pacing(20_000_000))
    connection = Connection((link.a, link.b), 100_000, client=tuned)
    connection.take(1, write)
    before = connection.limits()
    times = connection.take(2, write)
    after = connection.limits()
    truth = after.sndbuf_ns - before.sndbuf_ns
    assert truth > 0.8 * sum(times) and not after.rwnd_ns, (before, after, times)
    (rows,) = finish(recording, connection)
    insist_on(rows[1:], "sndbuf_ns", truth)


@pytest.mark.parametrize("write", [in_one_write(PARTS), without_blocking(PARTS)], ids=["blocking", "polling"])
def test_send_buffer_by_the_clock(linked: MakeLink, record: Record, write: Tuning) -> None:
    """A request that fits the buffer takes a round trip; another one for each part of it."""
    link = without_jitter(linked(delay_ns=20 * MS))
    start_large(link.a)
    two_segments_each(link.a)
    recording = record("--port", SERVER)
    turns = 5
    small = Connection((link.a, link.b), PARTS, client=(nodelay, send_buffer(8192)))
    large = Connection((link.a, link.b), PARTS, client=(nodelay, AMPLE))
    small.take(turns, write)
    large.take(turns, write)
    usual = sorted(large.times)[turns // 2]
    assert min(small.times) > 2 * usual, "the scene is not the one that this test is about"
    rows, free = finish(recording, small, large)
    insist_on(rows, "sndbuf_ns", sum(small.times) - turns * usual)
    assert not any(other_holds(free).values()), other_holds(free)
