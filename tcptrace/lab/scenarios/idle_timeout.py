"""A middlebox forgets connections that are idle for too long, and says nothing."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, alike, each, fold, same
from tcptrace.lab.faults import Drop
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import linger_zero
from tcptrace.lab.tcpinfo import tcp_info
from tcptrace.lab.witness import Witness

FORGETS_S = 2.0
IDLE_S = 2.3
KEEPALIVE_S = 1
USER_TIMEOUT_MS = 400
DELAY_NS = 2_000_000
SILENT, KEPT = PORTS = (7001, 7002)
TOGETHER = 3
"""Connections of each kind, all at once."""


def server(part: Part) -> None:
    punctual()
    with part.listen(SILENT) as silent, part.listen(KEPT) as kept:
        part.ready()
        accepted = []
        for listener in (silent, kept):
            for _ in range(TOGETHER):
                one = listener.accept()[0]
                one.settimeout(part.limit_s)
                one.sendall(receive(one, 1))
                accepted.append((one, time.monotonic_ns()))
    for one, _ in accepted[TOGETHER:]:
        one.sendall(receive(one, 1))
    part.hear("over")
    for one, opened_ns in accepted[:TOGETHER]:
        one.setblocking(False)
        try:
            part.note("came", len(one.recv(1)))
        except BlockingIOError:
            part.note("came", 0)
        linger_zero(one)
        part.note("server_lived_ns", time.monotonic_ns() - opened_ns)
        one.close()
    for one, _ in accepted[TOGETHER:]:
        one.close()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    opened: dict[int, list[tuple[socket.socket, int]]] = {port: [] for port in PORTS}
    for port in PORTS:
        for _ in range(TOGETHER):
            one = part.connect(port)
            opened[port].append((one, time.monotonic_ns()))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            if port == KEPT:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            one.sendall(b"x")
            receive(one, 1)
    time.sleep(IDLE_S)  # nothing to do, as applications have it
    for port in PORTS:
        for one, _ in opened[port]:
            one.sendall(b"y")
    for one, _ in opened[KEPT]:
        part.note("answered", len(receive(one, 1)))
        one.close()
    for one, opened_ns in opened[SILENT]:
        try:
            one.recv(1)
        except OSError as error:
            part.note("lived_ns", time.monotonic_ns() - opened_ns)
            part.note("error", errno.errorcode.get(error.errno or 0, str(error)))
            part.note("retransmits", tcp_info(one).retransmits)
        else:
            raise TcptraceError("an answer came through the middlebox")
        one.close()
    part.tell("over")


def truth(witness: Witness) -> Truth:
    """The clients' clocks and errors; by the relay's log what it lost, by connection."""
    assert witness.log is not None
    flows = {port: packets.flows(witness.log, port) for port in PORTS}
    lost = {port: [len(packets.dropped(flow)) for flow in flows[port]] for port in PORTS}
    if not all(lost[SILENT]):
        raise TcptraceError("the relay forgot nothing: the client was not idle for long enough")
    return {
        "lived_ns": witness.client["lived_ns"],
        "server_lived_ns": witness.server["server_lived_ns"],
        "errors": witness.client["error"],
        "retransmits": witness.client["retransmits"],
        "lost_data": [
            len(packets.of_kind(packets.dropped(flow), "data", packets.OUT)) for flow in flows[SILENT]
        ],
        "lost_of_kept": sum(lost[KEPT]),
        "answered": sum(witness.client["answered"]),
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    client, server = rows.ends("active", SILENT), rows.ends("passive", SILENT)
    errors = ["timeout" if error == "ETIMEDOUT" else error for error in truth["errors"]]
    yield alike("idle: client's close_reason", errors, column(client, "close_reason"))
    yield same("idle: client's initiator", "–", common(client, "initiator"))
    again = column(client, "retransmits")
    yield alike("idle: retransmissions, by the client's kernel", truth["retransmits"], again)
    yield alike("idle: retransmissions, by the relay", [lost - 1 for lost in truth["lost_data"]], again)
    yield same("idle: server's close_reason", "reset_sent", common(server, "close_reason"))
    # One byte each before the silence; what came after it never arrived.
    yield alike("idle: bytes that the server got", [1] * TOGETHER, column(server, "bytes_received"))
    for name, ends, what in (("client", client, "lived_ns"), ("server", server, "server_lived_ns")):
        lived = column(ends, "established_ns")
        yield each(f"idle: {name} lived", truth[what], lived, relative=0.01, absolute_ns=2_000_000)
    kept = rows.ends("active", KEPT) + rows.ends("passive", KEPT)
    yield same("keepalive: rows", 2 * TOGETHER, len(kept))
    yield same("keepalive: close_reason", "fin", common(kept, "close_reason"))
    yield same("keepalive: retransmissions", truth["lost_of_kept"], fold(sum, column(kept, "retransmits")))
    came = column(rows.ends("active", KEPT), "bytes_received")
    # One byte before the silence as well.
    yield same("keepalive: bytes that came", truth["answered"] + TOGETHER, fold(sum, came))


SCENARIO = Scenario(
    name="idle-timeout",
    chapter="idle",
    title="A middlebox forgets connections after 2 s of silence: the next write goes nowhere",
    teaches="Load balancers and firewalls forget connections that are idle: after 60 s or 350 s in common "
    "clouds. Neither end is told. The next write is retransmitted until the time-out (or answered by the "
    "middlebox's reset), always at the same idle age; the other end knows nothing of it. Cure: "
    "keepalive below the limit, as the second port has it, or a connection per use.",
    topology=Topology(
        delay_ns=DELAY_NS, drops=(Drop(idle_s=FORGETS_S, name="flows that were idle for 2 s"),)
    ),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
