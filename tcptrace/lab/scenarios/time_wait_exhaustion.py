"""Who closes first keeps the port for a minute: connections to one destination run out."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab import kernel_counters
from tcptrace.lab.checks import Check, same
from tcptrace.lab.part import Part, drain, sysctl
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.witness import Witness, kernel_sum

FIRST, LAST = 20_000, 20_149
"""Of the client's ports: a hundred and fifty stand for the usual twenty-eight thousand."""
TOO_MANY = LAST - FIRST + 1 + 10
FEW = 10
TW_REUSE = "net.ipv4.tcp_tw_reuse"
OFF, ON = 0, 1
# A server port is a destination of its own. At the first two the client closes first, and at the second it
# may reuse ports in the end; at the third the server closes first.
KEPT, REUSED, SERVER_FIRST = PORTS = (7001, 7002, 7003)


def server(part: Part) -> None:
    for port in part.ports:
        # Room for all: a SYN dropped for want of it would come again in the middle of what follows.
        part.serve(port, lead if port == SERVER_FIRST else follow, backlog=TOO_MANY)
    part.ready()
    part.until_done()


def lead(connection: socket.socket) -> None:
    """Close after the request."""
    connection.recv(1)


def follow(connection: socket.socket) -> None:
    """Close after the client."""
    drain(connection)


def attempt(part: Part, port: int, phase: str) -> bool:
    """One short connection. False when there is no port for it."""
    with part.unconnected() as one:
        code = one.connect_ex((part.peer, port))
        if code not in (0, errno.EADDRNOTAVAIL):
            raise OSError(code, os.strerror(code))
        part.note(f"{phase}_{port}", not code)
        if not code:
            one.sendall(b"x")
            if port == SERVER_FIRST:
                drain(one)
        return not code


def client(part: Part) -> None:
    with sysctl(TW_REUSE, OFF):
        for port in part.ports:
            for _ in range(TOO_MANY):
                attempt(part, port, "off")
        waiting = in_time_wait(part)
        for port in part.ports:
            part.note(f"time_wait_{port}", waiting.count(port))
    with sysctl(TW_REUSE, ON):
        # A port may be reused when its connection has been over for a second: tcp_twsk_unique().
        until(part, lambda: attempt(part, REUSED, "on"), f"{TW_REUSE} set no port free")
        for _ in range(FEW):
            attempt(part, REUSED, "on")
    with sysctl(TW_REUSE, OFF):
        for _ in range(FEW):
            attempt(part, KEPT, "later")


def in_time_wait(part: Part) -> list[int]:
    """The server ports of connections in TIME_WAIT here, when no other is left."""
    until(part, lambda: not kernel_counters.living(part.ports), "the connections do not end")
    return [
        remote
        for _, remote, state in kernel_counters.sockets(part.ports)
        if state == kernel_counters.TIME_WAIT
    ]


def until(part: Part, condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition, or raise."""
    deadline = time.monotonic() + part.limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TcptraceError(otherwise)
        time.sleep(0.05)


def truth(witness: Witness) -> Truth:
    """By port: how many connects succeeded and how many found no port; how many connections were then in
    TIME_WAIT at the client; and how many of those its kernel reused."""
    found: Truth = {"reused": kernel_sum([witness.client], "TcpExtTWRecycled")}
    for port in PORTS:
        tried = {
            phase: witness.client[f"{phase}_{port}"]
            for phase in ("off", "on", "later")
            if f"{phase}_{port}" in witness.client
        }
        found[f"connected_{port}"] = {phase: sum(outcomes) for phase, outcomes in tried.items()}
        found[f"no_port_{port}"] = {phase: outcomes.count(False) for phase, outcomes in tried.items()}
        found[f"time_wait_{port}"] = witness.client.one(f"time_wait_{port}")
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, case in ((KEPT, "client first"), (REUSED, "tcp_tw_reuse"), (SERVER_FIRST, "server first")):
        connected = sum(truth[f"connected_{port}"].values())
        active, passive = rows.ends("active", port), rows.ends("passive", port)
        made = [row for row in active if row["handshake_ns"] is not None]
        yield same(f"{case}: connected", connected, len(made))
        yield same(f"{case}: accepted", connected, len(passive))
        yield same(
            f"{case}: connects without a port",
            sum(truth[f"no_port_{port}"].values()),
            sum(row["close_reason"] == "aborted" and row["local_port"] is None for row in active),
        )
        for end, ends, first in (
            ("client", made, port != SERVER_FIRST),
            ("server", passive, port == SERVER_FIRST),
        ):
            initiator = "local" if first else "remote"
            yield same(
                f"{case}: the {end} closed {'first' if first else 'last'}",
                connected,
                sum(row["close_reason"] == "fin" and row["initiator"] == initiator for row in ends),
            )
        yield same(
            f"{case}: client ends that wait in TIME_WAIT",
            truth[f"time_wait_{port}"],
            sum(row["initiator"] == "local" for row in made[: truth[f"connected_{port}"]["off"]]),
        )
        if port != SERVER_FIRST:  # the client's kernel does not count when nothing waits
            yield same(
                f"{case}: connections with a port that one before them had",
                truth["reused"] if port == REUSED else 0,
                len(made) - len({row["local_port"] for row in made}),
            )


SCENARIO = Scenario(
    name="time-wait-exhaustion",
    chapter="reuse",
    title="Too many short connections: every port of the client waits in TIME_WAIT",
    teaches="Whoever closes first keeps the connection's ports in TIME_WAIT for a minute. A client that "
    "connects anew for each request runs out of ports for that destination (28,000 by default, 150 here): "
    "connect() fails with EADDRNOTAVAIL before a packet is sent. Rows: close_reason aborted without a "
    "local_port, and before those many short connections with initiator local. Cures: keep connections and "
    "pool them; tcp_tw_reuse 1, which takes ports over after a second; a wider ip_local_port_range; or let "
    "the server close first: then its end waits, on a port that all share anyway.",
    ports=len(PORTS),
    sysctls={
        "client": {
            "net.ipv4.ip_local_port_range": f"{FIRST} {LAST}",
            # On a busy host a FIN may be repeated; its ACK finds no connection, and the reset would end
            # TIME_WAIT.
            "net.ipv4.tcp_rfc1337": 1,
        }
    },
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
