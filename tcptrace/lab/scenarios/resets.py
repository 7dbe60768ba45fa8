"""RST: every way in which the two ends themselves bring one about."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Role, Row, Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import ack_at_once, forget, linger_zero, until
from tcptrace.lab.tcpinfo import CLOSE, tcp_info
from tcptrace.lab.teardown import lived_ns
from tcptrace.lab.witness import Witness, kernel_sum

ROUNDS = 4
DELAY_NS = 2_000_000
OPEN_S = 0.04
"""How long an end waits before it does what it does."""
CLOSED, LINGER_CLIENT, LINGER_SERVER, UNREAD, LATE, FORGOTTEN, UNACCEPTED = PORTS = range(7001, 7008)
ACCEPTED = (LINGER_CLIENT, LINGER_SERVER, UNREAD, LATE, FORGOTTEN)
TOLD = {"ECONNREFUSED": "refused", "ECONNRESET": "reset_received", "EPIPE": "reset_received"}
"""What an end that got an error must be: by its name."""
ENDS: dict[str, Role] = {"client": "active", "server": "passive"}

Play = Callable[[Part, socket.socket, int], None]


def notice(part: Part, port: int, one: socket.socket) -> None:
    """Wait for the peer's reset, as an application that reads does; note which error it was told."""
    try:
        data = one.recv(1)
    except OSError as error:
        part.note(f"error_{port}", errno.errorcode.get(error.errno or 0, str(error)))
    else:
        raise TcptraceError(f"port {port}: no reset came to the {part.role}, but {len(data)} bytes")


def abort(part: Part, one: socket.socket, port: int) -> None:
    time.sleep(OPEN_S)
    linger_zero(one)


def suffer(part: Part, one: socket.socket, port: int) -> None:
    notice(part, port, one)


def leave_unread(part: Part, one: socket.socket, port: int) -> None:
    one.recv(1, socket.MSG_PEEK)
    time.sleep(OPEN_S)


def be_ignored(part: Part, one: socket.socket, port: int) -> None:
    one.sendall(b"never read")
    notice(part, port, one)


def leave(part: Part, one: socket.socket, port: int) -> None:
    time.sleep(OPEN_S)


def send_too_late(part: Part, one: socket.socket, port: int) -> None:
    """To an end that has closed: its kernel has only a timewait socket any more."""
    if one.recv(1):
        raise TcptraceError(f"port {port}: the client sent something")
    ack_at_once(one)
    half_ns = time.monotonic_ns()
    time.sleep(OPEN_S)
    one.sendall(b"too late")
    until(lambda: tcp_info(one).state == CLOSE, f"port {port}: a reset came", part.limit_s)
    part.note(f"close_wait_{port}_ns", time.monotonic_ns() - half_ns)
    try:
        one.send(b"x")
    except OSError as error:
        part.note(f"error_{port}", errno.errorcode.get(error.errno or 0, str(error)))


def lose(part: Part, one: socket.socket, port: int) -> None:
    """As a host does that restarts, but for the time that this takes."""
    time.sleep(OPEN_S)
    forget(one)
    part.tell("forgotten")


def ask_on(part: Part, one: socket.socket, port: int) -> None:
    part.hear("forgotten")
    one.sendall(b"still there?")
    notice(part, port, one)


@dataclass(frozen=True)
class Cause:
    """What brings a reset about, what both ends do, and what ends without an error must say."""

    name: str
    client: Play
    server: Play
    client_row: tuple[str, str] = ("", "remote")
    """close_reason ("": what the error says) and initiator."""
    server_row: tuple[str, str] = ("", "remote")
    stray: bool = False
    """The reset comes from where there is no connection any more."""


RESET = "reset_sent", "local"
CAUSES = {
    CLOSED: Cause("closed port", suffer, suffer, stray=True),
    LINGER_CLIENT: Cause("client with linger 0", abort, suffer, client_row=RESET),
    LINGER_SERVER: Cause("server with linger 0", suffer, abort, server_row=RESET),
    UNREAD: Cause("server closes with unread data", be_ignored, leave_unread, server_row=RESET),
    LATE: Cause("data after the close", leave, send_too_late, client_row=("fin", "local"), stray=True),
    FORGOTTEN: Cause("server that forgot the connection", ask_on, lose, server_row=("–", "–"), stray=True),
    UNACCEPTED: Cause("listener closed before accept()", suffer, leave, server_row=RESET),
}


def server(part: Part) -> None:
    punctual()
    with contextlib.ExitStack() as stack:
        listeners = {port: stack.enter_context(part.listen(port)) for port in ACCEPTED}
        part.ready()
        for port, listener in listeners.items():
            for _ in range(ROUNDS):
                with listener.accept()[0] as one:
                    opened_ns = time.monotonic_ns()
                    one.settimeout(part.limit_s)
                    one.sendall(receive(one, 1))
                    CAUSES[port].server(part, one, port)
                    part.note(f"open_{port}_ns", time.monotonic_ns() - opened_ns)
                part.tell("over")
        for _ in range(ROUNDS):
            with part.listen(UNACCEPTED) as short:
                part.tell("listening")
                select.select([short], [], [], part.limit_s)
                opened_ns = time.monotonic_ns()
                time.sleep(OPEN_S)
                part.note(f"open_{UNACCEPTED}_ns", time.monotonic_ns() - opened_ns)
        part.until_done()


def client(part: Part) -> None:
    punctual()
    for _ in range(ROUNDS):
        try:
            part.connect(CLOSED).close()
        except OSError as error:
            part.note(f"error_{CLOSED}", errno.errorcode.get(error.errno or 0, str(error)))
    for port in (*ACCEPTED, UNACCEPTED):
        for _ in range(ROUNDS):
            if port == UNACCEPTED:
                part.hear("listening")
            with part.connect(port) as one:
                opened_ns = time.monotonic_ns()
                if port != UNACCEPTED:
                    one.sendall(b"x")
                    receive(one, 1)
                CAUSES[port].client(part, one, port)
                part.note(f"open_{port}_ns", time.monotonic_ns() - opened_ns)
            if port != UNACCEPTED:
                part.hear("over")


def truth(witness: Witness) -> Truth:
    """By port and end: the error that the application got, and how long the connection lived, by the relay's
    log or else by the application's clock; resets that the kernels counted."""
    found: Truth = {}
    for notes in (witness.client, witness.server):
        for port in PORTS:
            for what in (f"error_{port}", f"open_{port}_ns", f"close_wait_{port}_ns"):
                if what in notes:
                    found[f"{notes.part}_{what}"] = notes[what]
    if witness.log is not None:
        for port in (*ACCEPTED, UNACCEPTED):
            flows = packets.flows(witness.log, port)
            found[f"client_open_{port}_ns"] = [lived_ns(flow, packets.OUT) for flow in flows]
            if port != FORGOTTEN:  # the wire does not tell when a host forgets
                found[f"server_open_{port}_ns"] = [lived_ns(flow, packets.BACK) for flow in flows]
            if port == LATE:
                came = [
                    [packets.of_kind(flow, kind, packets.OUT)["left_ns"] for kind in ("fin", "rst")]
                    for flow in flows
                ]
                found[f"server_close_wait_{port}_ns"] = [int(reset[0] - fin[0]) for fin, reset in came]
    # Not by port: a namespace counts for all of them.
    found["resets"] = kernel_sum([witness.client, witness.server], "TcpOutRsts")
    found["unread"] = kernel_sum([witness.client, witness.server], "TcpExtTCPAbortOnClose")
    return found


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for port, cause in CAUSES.items():
        for end, role in ENDS.items():
            ends = rows.ends(role, port)
            name = f"{cause.name}: {end}"
            if port == CLOSED and end == "server":
                yield same(f"{name}: rows", 0, len(ends))
                continue
            reason, initiator = cause.client_row if end == "client" else cause.server_row
            errors = truth.get(f"{end}_error_{port}", [])
            told = ", ".join(sorted({TOLD.get(error, error) for error in errors}))
            yield same(f"{name}: rows", ROUNDS, len(ends))
            yield same(f"{name}: close_reason", reason or told or None, common(ends, "close_reason"))
            yield same(f"{name}: initiator", initiator, common(ends, "initiator"))
            yield from times(name, truth, end, port, ends)
        strays = rows.stray_resets(port)
        if strays is not None:
            yield same(f"{cause.name}: resets without a connection", ROUNDS * cause.stray, strays)
    sent = [row for row in rows.connections if row["close_reason"] == "reset_sent"]
    known = [count for count in map(rows.stray_resets, PORTS) if count is not None]
    if len(known) == len(PORTS):
        total = len(sent) + sum(known)
        yield same("resets that the kernels counted (OutRsts)", truth["resets"], total)
    unread = [row for row in sent if row["local_port"] == UNREAD]
    yield same("of these for unread data (TCPAbortOnClose)", truth["unread"], len(unread))


def times(name: str, truth: Truth, end: str, port: int, ends: list[Row]) -> Iterator[Check]:
    """How long it lived, as its application knows: up to what it did itself, or was told."""
    late = truth.get(f"{end}_close_wait_{port}_ns")
    states = ["established_ns", "close_wait_ns"] if late else ["established_ns"]
    if port == CLOSED:
        yield same(f"{name}: times in ESTABLISHED", 0, sum(row["established_ns"] is not None for row in ends))
        return
    lived = truth[f"{end}_open_{port}_ns"], column(ends, *states)
    yield each(f"{name}: lived", *lived, relative=0.02, absolute_ns=1_500_000)
    if late:
        measured = column(ends, "close_wait_ns")
        yield each(f"{name}: CLOSE_WAIT", late, measured, relative=0.02, absolute_ns=1_500_000)


SCENARIO = Scenario(
    name="resets",
    chapter="resets",
    title="Resets by the ends: closed port, linger 0, unread data, data after close, lost state, no accept()",
    teaches="A reset ends a connection at once, and what was under way is lost. close_reason and initiator "
    "tell whose it was: refused (nobody listens), reset_sent at the end that aborts (linger 0, close() with "
    "unread data, a listener that closes before accept()), reset_received at the other. When a reset comes "
    "from where no connection is any more (data after the close, a host that restarted), the sender has "
    "no row with reset_sent: it is an event, a reset without a connection.",
    topology=Topology(delay_ns=DELAY_NS, logged=True),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    fast=True,
)
