"""The peer vanished without a word: who asks finds out, who waits does not."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab.checks import Check, alike, each, fold, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import go_silent, linger_zero
from tcptrace.lab.tcpinfo import ESTABLISHED, tcp_info
from tcptrace.lab.witness import Witness, kernel_sum

ASKING, WAITING = PORTS = (7001, 7002)
NAMES = {ASKING: "keepalive", WAITING: "no keepalive"}
TOGETHER = 3
"""Connections of each kind, all at once."""
IDLE_S, INTERVAL_S, PROBES = 1, 1, 1
FOUND_NS = (IDLE_S + PROBES * INTERVAL_S) * 1_000_000_000
"""After the last segment from the peer: tcp_keepalive_timer()."""


def server(part: Part) -> None:
    punctual()
    with part.listen(ASKING) as asking, part.listen(WAITING) as waiting:
        part.ready()
        accepted = []
        for listener in (asking, waiting):
            for _ in range(TOGETHER):
                one = listener.accept()[0]
                one.sendall(receive(one, 1))
                accepted.append(one)
    part.hear("vanish")
    for one in accepted:
        go_silent(one)
    part.tell("vanished")
    part.until_done()
    for one in accepted:
        linger_zero(one)
        one.close()


def client(part: Part) -> None:
    punctual()
    opened: dict[int, list[tuple[socket.socket, int, int]]] = {port: [] for port in PORTS}
    for port in PORTS:
        for _ in range(TOGETHER):
            one = part.connect(port)
            opened_ns = time.monotonic_ns()
            if port == ASKING:
                keep_alive(one)
            one.sendall(b"x")
            receive(one, 1)
            opened[port].append((one, opened_ns, time.monotonic_ns()))
    part.tell("vanish")
    part.hear("vanished")
    for one, opened_ns, heard_ns in opened[ASKING]:
        try:
            one.recv(1)
        except OSError as error:
            part.note("lived_ns", time.monotonic_ns() - opened_ns)
            part.note("before_ns", heard_ns - opened_ns)
            part.note("error", errno.errorcode.get(error.errno or 0, str(error)))
        else:
            raise TcptraceError("the peer that vanished has answered")
        one.close()
    for one, opened_ns, _ in opened[WAITING]:
        part.note("still_established", tcp_info(one).state == ESTABLISHED)
        linger_zero(one)
        part.note("waited_ns", time.monotonic_ns() - opened_ns)
        one.close()


def keep_alive(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def truth(witness: Witness) -> Truth:
    """The client's clock and errors, and what its kernel counted."""
    found: Truth = {
        name: witness.client[name]
        for name in ("lived_ns", "before_ns", "error", "waited_ns", "still_established")
    }
    for name in ("TcpExtTCPKeepAlive", "TcpExtTCPAbortOnTimeout"):
        found[name] = kernel_sum([witness.client], name)
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    asking, waiting = rows.ends("active", ASKING), rows.ends("active", WAITING)
    errors = ["timeout" if error == "ETIMEDOUT" else error for error in truth["error"]]
    yield alike("keepalive: close_reason", errors, column(asking, "close_reason"))
    yield same("keepalive: initiator", "–", common(asking, "initiator"))
    lived = column(asking, "established_ns")
    yield each("keepalive: lived", truth["lived_ns"], lived, relative=0.01, absolute_ns=2_000_000)
    before = truth["before_ns"]
    quiet = [None if took is None else took - gone for took, gone in zip(lived, before, strict=False)]
    # The timer wheel rounds up by as much as an eighth (kernel/time/timer.c).
    yield each("keepalive: found after", [FOUND_NS] * TOGETHER, quiet, relative=0.125)
    aborts, timed_out = (
        truth["TcpExtTCPAbortOnTimeout"],
        column(rows.connections, "close_reason").count("timeout"),
    )
    yield same("time-outs that the kernel counted (TCPAbortOnTimeout)", aborts, timed_out)
    yield same("no keepalive: close_reason", "reset_sent", common(waiting, "close_reason"))
    yield same("no keepalive: initiator", "local", common(waiting, "initiator"))
    open_so_long = sum((row["established_ns"] or 0) > FOUND_NS for row in waiting)
    yield same("no keepalive: still open then", sum(truth["still_established"]), open_so_long)
    waited = column(waiting, "established_ns")
    yield each("no keepalive: lived", truth["waited_ns"], waited, relative=0.01, absolute_ns=2_000_000)
    asked, silent = (fold(sum, column(ends, "segments_sent")) for ends in (asking, waiting))
    probes = None if asked is None or silent is None else asked - silent
    yield same("probes that the kernel counted (TCPKeepAlive)", truth["TcpExtTCPKeepAlive"], probes)


SCENARIO = Scenario(
    name="half-open-peer",
    chapter="idle",
    title="The peer vanishes without a FIN: with keepalive and without",
    teaches="A host that loses its power or its network sends no FIN. The other end stays ESTABLISHED for as "
    "long as it sends nothing: such a connection is half open. Keepalive asks after TCP_KEEPIDLE (7200 s by "
    "default) and gives up after TCP_KEEPCNT probes, TCP_KEEPINTVL apart: close_reason timeout, no "
    "initiator. Switch it on, with seconds instead of hours, for connections that may be idle.",
    topology=Topology(),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
