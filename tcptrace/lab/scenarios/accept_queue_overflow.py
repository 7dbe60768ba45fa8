"""A server that does not call accept(): its queue fills, and clients believe that they are connected."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.lab import kernel_counters
from tcptrace.lab.checks import Check, at_least, at_most, each, fold, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Row, Rows, column
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.tcpinfo import tcp_info
from tcptrace.lab.witness import Witness, kernel_sum

MS = 1_000_000
PORT = 7001
DELAY_NS = 10 * MS
BACKLOG = 4
"""One more may wait: sk_acceptq_is_full() asks whether there are more than the backlog."""
FIRST, AT_ONCE, LATE = BACKLOG, 4, 2
"""Clients that find room; that come at the same time when there is room for one; that find no room."""
LOST = (AT_ONCE - 1) * 3 + LATE
"""Until it wakes: the ACK, the question and its first repeat of all but one that came at once, and SYNs."""


def server(part: Part) -> None:
    punctual()
    listener = part.listen(PORT, BACKLOG)
    listener.settimeout(part.limit_s)
    before = overflows()
    part.ready()
    part.hear("wake")
    # Each question's repeat was lost as well, not under way when there is room again.
    deadline = time.monotonic() + part.limit_s
    while overflows() - before < LOST:
        if time.monotonic() > deadline:
            raise TcptraceError("the accept queue did not overflow as often as the clients knocked")
        time.sleep(0.001)
    for _, client_port, state in kernel_counters.sockets([PORT]):
        if state == kernel_counters.ESTABLISHED:
            part.note("client_ports", client_port)
    for _ in range(FIRST + AT_ONCE + LATE):
        connection = listener.accept()[0]
        threading.Thread(target=answer, args=(connection,), daemon=True).start()
    part.until_done()


def overflows() -> int:
    """How often an accept queue was too full for a SYN, or for what would have completed a handshake."""
    return kernel_counters.read()["TcpExtListenOverflows"]


def answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(connection.recv(1))


class Caller(threading.Thread):
    """A client whose SYN leaves now; started, it asks when it is connected, and waits for its answer. Its
    times are ns of CLOCK_MONOTONIC."""

    def __init__(self, part: Part, group: str) -> None:
        super().__init__(daemon=True)
        self.connected = threading.Event()
        self.noted: dict[str, Any] = {}
        self.group, self._limit_s = group, part.limit_s
        self._socket = part.unconnected()
        self._socket.setblocking(False)
        self._begun = time.monotonic_ns()
        self._socket.connect_ex((part.peer, PORT))

    def run(self) -> None:
        with self._socket as one:
            select.select([], [one], [], self._limit_s)
            connected = time.monotonic_ns()
            one.settimeout(self._limit_s)
            syn_repeats = tcp_info(one).retransmits
            self.connected.set()
            asked = time.monotonic_ns()
            one.sendall(b"x")
            receive(one, 1)
            answered = time.monotonic_ns()
            repeats = tcp_info(one).retransmits - syn_repeats
            self.noted = {
                "group": self.group,
                "port": one.getsockname()[1],
                "asked_ns": asked,
                "connect_ns": connected - self._begun,
                "answer_ns": answered - asked,
                "syn_repeats": syn_repeats,
                "repeats": repeats,
            }

    def unheard(self) -> bool:
        """Whether it sends again what was not acknowledged."""
        return tcp_info(self._socket).retransmits > 0


def arrive(part: Part, group: str, count: int) -> list[Caller]:
    """So many clients at the same time."""
    callers = [Caller(part, group) for _ in range(count)]
    for caller in callers:
        caller.start()
    return callers


def client(part: Part) -> None:
    punctual()
    callers: list[Caller] = []
    for group, count in [("first", 1)] * FIRST + [("at once", AT_ONCE)]:
        callers += arrive(part, group, count)
        if not all(caller.connected.wait(part.limit_s / 2) for caller in callers):
            raise TcptraceError("a SYN was dropped too early: this takes a round trip of 1 ms or more")
    believers = callers[FIRST:]
    callers += arrive(part, "late", LATE)
    deadline = time.monotonic() + part.limit_s / 2
    while sum(caller.unheard() for caller in believers) < AT_ONCE - 1:
        if time.monotonic() > deadline:
            raise TcptraceError("the server's accept queue did not overflow")
        time.sleep(0.005)
    part.note("woken_ns", time.monotonic_ns())
    part.tell("wake")
    for caller in callers:
        caller.join(part.limit_s)
        if not caller.noted:
            raise TcptraceError(f"a client that came {caller.group} got no answer")
        part.note("callers", caller.noted)


def truth(witness: Witness) -> Truth:
    """Each client by its own clock and its TCP_INFO; whether the server's kernel had a connection of it
    when the server woke; what that kernel counted."""
    there = set(witness.server["client_ports"])
    return {
        "callers": [caller | {"in_queue": caller["port"] in there} for caller in witness.client["callers"]],
        "woken_ns": witness.client.one("woken_ns"),
        "listen_overflows": kernel_sum([witness.server], "TcpExtListenOverflows"),
        "listen_drops": kernel_sum([witness.server], "TcpExtListenDrops"),
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    callers = truth["callers"]
    ends = {row["local_port"]: row for row in rows.ends("active", PORT)}
    ports = {row["connection_id"]: port for port, row in ends.items()}
    turns = {ports[turn["connection_id"]]: turn for turn in rows.turns("client", PORT)}
    served = {row["remote_port"]: row for row in rows.ends("passive", PORT)}
    yield same("connections at the client", len(callers), len(ends))
    yield same("connections at the server, in the end", len(callers), len(served))
    late = [caller for caller in callers if caller["group"] == "late"]
    waiting = [caller for caller in callers if caller["in_queue"]]
    believers = [caller for caller in callers if caller not in late and caller not in waiting]
    for name, group in (("in the queue", waiting), ("believers", believers), ("late", late)):
        yield each(
            f"{name}: handshake at the client",
            [caller["connect_ns"] for caller in group],
            column(of(ends, group), "handshake_ns"),
            relative=0.02,
            absolute_ns=500_000,
        )
        for what, name_of_column in (("syn_repeats", "syn_retransmits"), ("repeats", "retransmits")):
            yield same(
                f"{name}: {name_of_column}",
                sum(caller[what] for caller in group),
                fold(sum, column(of(ends, group), name_of_column)),
            )
        yield each(
            f"{name}: total_ns of the question",
            [caller["answer_ns"] for caller in group],
            column(of(turns, group), "total_ns"),
            relative=0.02,
            absolute_ns=500_000,
        )
    # What a repeat cost is null when its event was hidden from the recording: rare, on a busy host.
    seen = [
        caller
        for caller, turn in zip(believers, of(turns, believers), strict=False)
        if turn["loss_recovery_ns"] is not None
    ]
    yield at_least("believers: those whose repeats were seen", len(believers) - 1, len(seen), "count")
    # Beyond a round trip, which a connect() without repeats is: the server slept.
    for name, group, stages in (
        ("in the queue", waiting, ["peer_ns"]),
        ("believers", seen, ["loss_recovery_ns", "peer_ns"]),
    ):
        yield each(
            f"{name}: {' + '.join(stages)} of the question",
            [caller["answer_ns"] - caller["connect_ns"] for caller in group],
            column(of(turns, group), *stages),
            relative=0.02,
            absolute_ns=5 * MS,
        )
    repairs = column(of(turns, seen), "loss_recovery_ns")
    half_open = column(of(served, believers), "syn_recv_ns")
    least = [truth["woken_ns"] - caller["asked_ns"] for caller in believers]
    most = [caller["connect_ns"] + caller["answer_ns"] for caller in believers]
    yield at_least("believers: shortest loss_recovery_ns", min(least), fold(min, repairs))
    yield at_least("believers: shortest syn_recv_ns at the server", min(least), fold(min, half_open))
    yield at_most("believers: longest syn_recv_ns at the server", max(most), fold(max, half_open))
    yield same(
        "half open at the server until it woke",
        len(believers),
        sum((row["syn_recv_ns"] or 0) >= min(least) for row in served.values()),
    )


def of(rows: dict[int, Row], callers: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of some clients, by their ports; a client without one has none in the list."""
    return [rows[caller["port"]] for caller in callers if caller["port"] in rows]


SCENARIO = Scenario(
    name="accept-queue-overflow",
    chapter="queues",
    title="An accept queue of five places, ten clients, and a server that sleeps",
    teaches="The accept queue holds connections until accept(), min(backlog, somaxconn) + 1 of them. When it "
    "is full, a handshake's last ACK is dropped silently: the client is connected and sends, the server has "
    "a half-open request and takes nothing. The client's row has a short handshake_ns, then retransmits and "
    "loss_recovery_ns on a network that loses nothing; the server's a long syn_recv_ns. Who comes later "
    "loses its SYN (syn_retransmits). `nstat TcpExtListenOverflows` counts both. Cures: accept faster, a "
    "longer backlog and somaxconn; tcp_abort_on_overflow resets the clients instead.",
    topology=Topology(delay_ns=DELAY_NS),
    sysctls={"server": {"net.ipv4.tcp_syncookies": 0, "net.ipv4.tcp_abort_on_overflow": 0}},
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
