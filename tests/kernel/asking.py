"""A client that asks and a server that answers, in blocking calls: drivers of holds and their own clocks.

What they return is the truth of a test: time.monotonic_ns() around the application's calls, or what the
kernel says by TCP_INFO.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drive import LIMIT_SECONDS, SERVER, Background, address_of, wait_closed
from tcptrace.lab.namespaces import Namespace

SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_MAX_PACING_RATE = 32, 33, 47
PIECE = 65_536
Tuning = Callable[[socket.socket], object]


def cubic(one: socket.socket) -> None:
    """A congestion control that does not pace."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def nodelay(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def cork(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)


def uncork(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def send_buffer(size: int) -> Tuning:
    """The kernel doubles the size; it stays fixed from then on."""
    return lambda one: one.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)


def receive_buffer(size: int) -> Tuning:
    """The kernel doubles the size; it stays fixed from then on."""
    return lambda one: one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)


def pacing(rate: int) -> Tuning:
    """At most so many bytes a second."""
    return lambda one: one.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)


def bounded(one: socket.socket) -> socket.socket:
    """Calls block in the kernel, with a limit; settimeout() would poll instead."""
    one.settimeout(None)
    limit = struct.pack("ll", int(LIMIT_SECONDS), 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return one


def connected(
    a: Namespace,
    b: Namespace,
    *,
    client: Sequence[Tuning] = (),
    server: Sequence[Tuning] = (),
    port: int = SERVER,
) -> tuple[socket.socket, socket.socket]:
    """A client in a and its server in b, blocking, cubic, tuned before they connect, as buffers must be."""
    with b.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for tune in (cubic, *server):
            tune(listener)
        bounded(listener).bind(("", port))
        listener.listen(1)
        one = bounded(a.socket())
        for tune in (cubic, *client):
            tune(one)
        one.connect((address_of("b", socket.AF_INET), port))
        return one, bounded(listener.accept()[0])


def closed(a: Namespace, b: Namespace, *pairs: tuple[socket.socket, socket.socket]) -> None:
    """Close clients of a and their servers in b; returns when the kernel is done with all of them."""
    ports = [(client.getsockname()[1], server.getsockname()[1]) for client, server in pairs]
    for client, server in pairs:
        client.close()
        server.close()
    wait_closed(a, *(port for port, _ in ports))
    wait_closed(b, *(port for _, port in ports))


def read_exactly(one: socket.socket, count: int, before: Tuning | None = None) -> None:
    """Read so many bytes, at most PIECE by one call, with something done `before` each."""
    while count:
        if before:
            before(one)
        data = one.recv(min(count, PIECE))
        if not data:
            raise EOFError(f"{count} bytes short")
        count -= len(data)


class Answering(Background):
    """A server in a thread of its own: reads a request, writes its answer, so many times.

    Args:
        one: its socket.
        turns: how many.
        request: bytes of a request.
        answers: one write each.
        before: what it does before each read.
        pause_s: how long it stays away before it reads a request.
    """

    def __init__(
        self,
        one: socket.socket,
        turns: int,
        request: int,
        *,
        answers: Sequence[bytes] = (b"a" * 100,),
        before: Tuning | None = None,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.one, self.turns, self.request = one, turns, request
        self.answers, self.before, self.pause_s = answers, before, pause_s

    def work(self) -> None:
        for _ in range(self.turns):
            time.sleep(self.pause_s)
            read_exactly(self.one, self.request, self.before)
            for answer in self.answers:
                self.one.sendall(answer)


def ask(one: socket.socket, turns: int, request: Tuning, answer: int) -> list[int]:
    """Write a request and read its answer, so many times. Each turn's time in ns, by this thread's clock."""
    times = []
    for _ in range(turns):
        begin = time.monotonic_ns()
        request(one)
        read_exactly(one, answer)
        times.append(time.monotonic_ns() - begin)
    return times


@dataclass(frozen=True)
class Limits:
    """For how long a sender was busy and was limited, by its TCP_INFO (tcp_get_info_chrono_stats), in ns.

    The kernel counts in jiffies.
    """

    busy_ns: int
    rwnd_ns: int
    sndbuf_ns: int


def limits_of(one: socket.socket) -> Limits:
    """tcpi_busy_time, tcpi_rwnd_limited and tcpi_sndbuf_limited of struct tcp_info (linux/tcp.h)."""
    return Limits(*(value * 1000 for value in struct.unpack_from("QQQ", _tcp_info(one), 168)))


def retransmits_of(one: socket.socket) -> int:
    """tcpi_total_retrans."""
    return int(struct.unpack_from("I", _tcp_info(one), 100)[0])


def _tcp_info(one: socket.socket) -> bytes:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
