"""Clients of a server whose SYN queue is flooded: what the scenarios with and without cookies share."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.lab import flood, kernel_counters, namespaces
from tcptrace.lab.checks import Check, alike, fold, same
from tcptrace.lab.part import Part, receive
from tcptrace.lab.rows import Row, Rows, chosen, column
from tcptrace.lab.scenario import Truth
from tcptrace.lab.tcpinfo import tcp_info
from tcptrace.lab.witness import Witness, kernel_sum
from tcptrace.trace.wire import Kind

PORT = 7001
QUEUE = 32
"""The listener's backlog, which bounds the SYN queue as well: inet_csk_reqsk_queue_is_full()."""
ENOUGH = 4 * QUEUE
"""So many SYNs fill the queue, also when a burst does not get through as a whole."""


def agreed(one: socket.socket) -> dict[str, Any]:
    """What the handshake agreed on, named as in the rows, by TCP_INFO."""
    info = tcp_info(one)
    scaled = info.snd_wscale or info.rcv_wscale
    return {
        "sack": info.sack,
        "snd_wscale": info.snd_wscale if scaled else None,
        "rcv_wscale": info.rcv_wscale if scaled else None,
    }


def server(part: Part) -> None:
    """Echo a byte on PORT; say "full" when as many requests are half open as may be."""
    # The answers to spoofed SYNs end at the client's host, which forwards nothing and answers nothing.
    namespaces.ip("route", "add", flood.NETWORK, "via", part.peer)

    def echo(connection: socket.socket) -> None:
        part.note("accepted", agreed(connection) | {"port": connection.getpeername()[1]})
        connection.sendall(connection.recv(1))

    part.serve(PORT, echo, backlog=QUEUE)
    part.ready()
    part.hear("flooded")
    deadline = time.monotonic() + part.limit_s
    while (half_open := kernel_counters.states([PORT]).count(kernel_counters.SYN_RECV)) < QUEUE:
        if time.monotonic() > deadline:
            raise TcptraceError(f"the flood opened {half_open} requests instead of {QUEUE}")
        time.sleep(0.002)
    part.note("half_open", half_open)
    part.tell("full")
    part.until_done()


class Visitor(threading.Thread):
    """A client that connects, gets a byte echoed and closes; notes how it went by its own clock and by
    TCP_INFO. It gives up after `patience_s`, when it has that."""

    def __init__(self, part: Part, group: str, patience_s: float | None = None) -> None:
        super().__init__(daemon=True)
        self._part = part
        self._noted: dict[str, Any] = {"group": group}
        self._socket = part.unconnected()
        if patience_s is not None:
            self._socket.settimeout(patience_s)
        self.start()

    def run(self) -> None:
        noted = self._noted
        with self._socket as one:
            begin = time.monotonic_ns()
            with contextlib.suppress(TimeoutError):
                one.connect((self._part.peer, PORT))
                noted["connected"] = True
            noted["connect_ns"] = time.monotonic_ns() - begin
            noted |= {"port": one.getsockname()[1], "syn_retransmits": tcp_info(one).retransmits}
            if "connected" in noted:
                noted |= agreed(one)
                one.sendall(b"x")
                receive(one, 1)
        self._part.note("visitors", noted)


def visit(part: Part, group: str, count: int) -> None:
    """One visitor after the other."""
    for _ in range(count):
        Visitor(part, group).join(part.limit_s)


@contextlib.contextmanager
def flooded(part: Part, pace: flood.Pace) -> Iterator[flood.Flood]:
    """A flood whose SYNs have filled the server's queue; it ends with the block."""
    with flood.Flood(part.peer, PORT, pace) as running:
        running.wait(ENOUGH)
        part.tell("flooded")
        part.hear("full")
        yield running
        running.stop()
    part.note("flood_syns", running.sent)


def truth(witness: Witness) -> Truth:
    """What each visitor noted, whom the server accepted, and what both kernels counted."""
    return {
        "visitors": witness.client["visitors"],
        "accepted": witness.server["accepted"],
        "half_open": witness.server.one("half_open"),
        "flood_syns": witness.client.one("flood_syns"),
        "syn_retransmits": kernel_sum([witness.client], "TcpExtTCPSynRetrans"),
        "synack_retransmits": kernel_sum([witness.server], "TcpExtTCPSynRetrans"),
        "syns_dropped": kernel_sum([witness.server], "TcpExtTCPReqQFullDrop"),
        "cookies_sent": kernel_sum([witness.server], "TcpExtSyncookiesSent"),
        "cookies_received": kernel_sum([witness.server], "TcpExtSyncookiesRecv"),
        "cookies_failed": kernel_sum([witness.server], "TcpExtSyncookiesFailed"),
    }


def group(truth: Truth, name: str) -> list[dict[str, Any]]:
    """The visitors of a group, in the order in which they were done."""
    return [visitor for visitor in truth["visitors"] if visitor["group"] == name]


def clients_rows(visitors: Sequence[dict[str, Any]], rows: Rows) -> list[Row]:
    """The rows of some visitors' own ends, in their order."""
    return chosen(rows.ends("active", PORT), "local_port", [visitor["port"] for visitor in visitors])


def prompt(truth: Truth, rows: Rows, *names: str) -> Iterator[Check]:
    """The handshakes of these groups lie within connect()."""
    for name in names:
        visitors = group(truth, name)
        pairs = zip(column(clients_rows(visitors, rows), "handshake_ns"), visitors, strict=False)
        shorter = sum(took is not None and took < visitor["connect_ns"] for took, visitor in pairs)
        yield same(f"{name}: handshakes shorter than their connect()", len(visitors), shorter)


def opened(truth: Truth, rows: Rows) -> Iterator[Check]:
    """What the handshakes took in SYNs and agreed on in options, at both ends."""
    visitors, accepted = truth["visitors"], truth["accepted"]
    mine = clients_rows(visitors, rows)
    repeats = column(mine, "syn_retransmits")
    yield alike("syn_retransmits of each client", [one["syn_retransmits"] for one in visitors], repeats)
    yield same("SYNs that the clients' kernel repeated", truth["syn_retransmits"], fold(sum, repeats))
    yield same(
        "SYN-ACKs that the server's kernel repeated, most for spoofed addresses",
        truth["synack_retransmits"],
        sum(kind == Kind.SYNACK_RETRANSMIT for kind in rows.trace.events["kind"].to_pylist()),
    )
    connected = [visitor for visitor in visitors if "connected" in visitor]
    for end, told, ends in (
        ("clients'", connected, clients_rows(connected, rows)),
        (
            "server's",
            accepted,
            chosen(rows.ends("passive", PORT), "remote_port", [one["port"] for one in accepted]),
        ),
    ):
        yield alike(
            f"SACK and window scales, {end} ends",
            [options(one) for one in told],
            [options(row) for row in ends],
        )


def options(one: dict[str, Any]) -> str:
    """What a handshake agreed on, of a note or of a row, in a word."""
    return f"SACK {one['sack']}, scales {one['snd_wscale']} and {one['rcv_wscale']}"


def nothing_invented(truth: Truth, rows: Rows) -> Iterator[Check]:
    """Rows of real connections only, and none of them lost."""
    spoofed = ipaddress.ip_network(flood.NETWORK)
    strangers = [
        row
        for row in rows.connections
        if any(
            row[end] and ipaddress.ip_address(row[end]) in spoofed for end in ("local_addr", "remote_addr")
        )
    ]
    yield same("rows at the clients' ends", len(truth["visitors"]), len(rows.ends("active", PORT)))
    yield same("rows at the server's ends", len(truth["accepted"]), len(rows.ends("passive", PORT)))
    yield same("rows of spoofed addresses", 0, len(strangers))
    yield same("rows in all", len(truth["visitors"]) + len(truth["accepted"]), len(rows.connections))
    yield same("records lost", 0, rows.lost)
