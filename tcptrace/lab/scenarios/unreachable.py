"""Nobody answers any more: connections that end by time-out, and how long that takes."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tcptrace.lab.checks import Check, alike, at_least, each, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Row, Rows, chosen, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import go_silent, linger_zero
from tcptrace.lab.tcpinfo import tcp_info
from tcptrace.lab.witness import Witness, kernel_sum

CONNECT, DATA = PORTS = (7001, 7002)
NAMES = {CONNECT: "connect", DATA: "data"}
TOGETHER = 3
"""Connections of each kind, all at once."""
USER_TIMEOUT_MS = 1000
SYN_REPEATS = 1
"""TCP_SYNCNT: after the first SYN 1 s, after the second 2 s."""


def server(part: Part) -> None:
    with part.listen(CONNECT) as deaf, part.listen(DATA) as listener:
        go_silent(deaf)
        part.ready()
        accepted = []
        for _ in range(TOGETHER):
            one = listener.accept()[0]
            one.sendall(receive(one, 1))
            accepted.append(one)
        part.hear("silence")
        for one in accepted:
            go_silent(one)
        part.tell("silent")
        part.hear("given up")
        for one in accepted:
            linger_zero(one)
            one.close()
        part.until_done()  # the deaf one must not close before


def client(part: Part) -> None:
    punctual()
    with ThreadPoolExecutor(2 * TOGETHER) as pool:
        connecting = [pool.submit(connect_in_vain, part) for _ in range(TOGETHER)]
        opened = []
        for _ in range(TOGETHER):
            one = part.connect(DATA)
            opened.append((one, time.monotonic_ns()))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            one.sendall(b"x")
            receive(one, 1)
        part.tell("silence")
        part.hear("silent")
        for job in [pool.submit(write_in_vain, part, one, opened_ns) for one, opened_ns in opened]:
            job.result()
        part.tell("given up")
        for job in connecting:
            job.result()


def connect_in_vain(part: Part) -> None:
    with part.unconnected() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, SYN_REPEATS)
        one.bind(("", 0))
        begin = time.monotonic_ns()
        try:
            one.connect((part.peer, CONNECT))
        except OSError as error:
            note(part, CONNECT, one, error, begin)


def write_in_vain(part: Part, one: socket.socket, opened_ns: int) -> None:
    with one:
        sent_ns = time.monotonic_ns()
        one.sendall(b"into the void")
        try:
            one.recv(1)
        except OSError as error:
            note(part, DATA, one, error, opened_ns, before_ns=sent_ns - opened_ns)


def note(
    part: Part, port: int, one: socket.socket, error: OSError, begin_ns: int, *, before_ns: int = 0
) -> None:
    """What the application and its kernel know of an end by time-out."""
    lived_ns = time.monotonic_ns() - begin_ns
    name = errno.errorcode.get(error.errno or 0, str(error))
    facts = {"lived_ns": lived_ns, "before_ns": before_ns, "error": name}
    facts |= {"local_port": one.getsockname()[1], "retransmits": tcp_info(one).retransmits}
    part.note(NAMES[port], facts)


def truth(witness: Witness) -> Truth:
    """What each client was told, when by its own clock, and what the kernel counted."""
    return {
        "connect": witness.client["connect"],
        "data": witness.client["data"],
        "aborts": kernel_sum([witness.client], "TcpExtTCPAbortOnTimeout"),
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    timed_out = 0
    for port, name in NAMES.items():
        told: list[dict[str, Any]] = truth[name]
        ends: list[Row] = chosen(rows.ends("active", port), "local_port", [one["local_port"] for one in told])
        timed_out += sum(row["close_reason"] == "timeout" for row in ends)
        yield same(f"{name}: rows", TOGETHER, len(ends))
        errors = ["timeout" if one["error"] == "ETIMEDOUT" else one["error"] for one in told]
        yield alike(f"{name}: close_reason", errors, column(ends, "close_reason"))
        yield same(f"{name}: initiator", "–", common(ends, "initiator"))
        lived = column(ends, "established_ns" if port == DATA else "syn_sent_ns")
        by_clock = [one["lived_ns"] for one in told]
        yield each(f"{name}: until the time-out", by_clock, lived, relative=0.01, absolute_ns=2_000_000)
        repeats = column(ends, "retransmits" if port == DATA else "syn_retransmits")
        yield alike(f"{name}: retransmissions", [one["retransmits"] for one in told], repeats)
    waited = [
        None if row["established_ns"] is None else row["established_ns"] - one["before_ns"]
        for row, one in zip(ends, told, strict=False)
    ]
    # Counted from the first retransmission on, so that is added: retransmits_timed_out().
    shortest = min((took for took in waited if took is not None), default=None)
    yield at_least("data: TCP_USER_TIMEOUT, shortest wait", USER_TIMEOUT_MS * 1_000_000, shortest)
    yield same("time-outs that the kernel counted (TCPAbortOnTimeout)", truth["aborts"], timed_out)
    server = rows.ends("passive", DATA)
    unaware = sum(
        None not in (theirs["established_ns"], ours["established_ns"])
        and theirs["established_ns"] > ours["established_ns"]
        for theirs, ours in zip(server, rows.ends("active", DATA), strict=False)
    )
    yield same("data: servers that outlived their clients", TOGETHER, unaware)


SCENARIO = Scenario(
    name="unreachable",
    chapter="resets",
    title="Nobody answers: a connect() and a write that end by time-out",
    teaches="Without an answer a connection ends by a clock of its own kernel. connect() gives up after "
    "TCP_SYNCNT repeats, 127 s by default; data after net.ipv4.tcp_retries2 repeats, a quarter of an hour, "
    "or after TCP_USER_TIMEOUT. close_reason is timeout and nobody is the initiator; the other end, if it "
    "lives, knows nothing of it. Set both options where failing late costs more than failing.",
    topology=Topology(),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
