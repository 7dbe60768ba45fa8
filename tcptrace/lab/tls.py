"""What the scenarios `tls*` share: a certificate for a minute, a server, a client that is timed, the checks.

Nothing is verified: it is about time. `ssl` is imported late, so that a Python without it plays the rest.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, bounded, each, fold, same
from tcptrace.lab.part import Part, punctual, timed
from tcptrace.lab.rows import Row, Rows, column
from tcptrace.lab.scenario import FIRST_PORT, Scenario, Topology, Truth
from tcptrace.lab.witness import Witness

if TYPE_CHECKING:
    import ssl

Version = Literal["1.2", "1.3"]
Result = TypeVar("Result")

DELAY_NS = 10_000_000
CONNECTIONS = 8
REQUEST, ANSWER = 300, 1000
NAME = "tcptrace-lab"
NOTES = {
    "connect": "_ns",
    "handshake": "_ns",
    "waited": "_ns",
    "first": "_ns",
    "round_trips": "",
    "resumed": "",
}
"""What a client notes of each connection to PORT, as `connect_PORT_ns` and so on."""


def _context(version: Version, *, server: bool) -> ssl.SSLContext:
    try:
        import ssl
    except ImportError as error:
        raise HostError(f"the TLS scenarios need Python's module ssl: {error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    only = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = only
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_context(version: Version) -> ssl.SSLContext:
    """Of exactly this version, trusting everybody."""
    return _context(version, server=False)


def server_context(version: Version) -> ssl.SSLContext:
    """Of exactly this version, with a certificate of its own, whose files are gone again.

    TLS 1.3 hands out no tickets unless `num_tickets` is set: they leave by themselves, and whether they meet
    the client's request on the way would be chance.

    Raises:
        HostError: there is no command `openssl`, or it makes no certificate.
    """
    context = _context(version, server=True)
    if version == "1.3":
        context.num_tickets = 0
    program = shutil.which("openssl")
    if program is None:
        raise HostError("the TLS scenarios need the command 'openssl' for a certificate: apt install openssl")
    with tempfile.TemporaryDirectory(prefix="tcptrace-tls-") as directory:
        key, certificate = Path(directory, "key.pem"), Path(directory, "certificate.pem")
        words = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += [
            "-nodes",
            "-days",
            "1",
            "-subj",
            f"/CN={NAME}",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise HostError(f"openssl made no certificate: {last}")
        context.load_cert_chain(certificate, key)
    return context


def answer(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """A server's conversation: shake hands, answer one request, wait until the client closes."""

    def converse(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(connection, server_side=True) as secured:
            if secured.recv(REQUEST):
                secured.sendall(bytes(ANSWER))
            # OpenSSL would answer the end of a connection with an alert, and that a client with a reset.
            limit = secured.gettimeout()
            with socket.socket(fileno=secured.detach()) as plain:
                plain.settimeout(limit)
                plain.recv(1)

    return converse


class _Secured:
    """A client's end of TLS over a connection. `round_trips`: how often it sent something and had to wait for
    the server; `waited_ns`: how long, from the writes to the ends of the reads."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> None:
        import ssl

        self.round_trips, self.waited_ns = 0, 0
        self._connection = connection
        self._wait = ssl.SSLWantReadError
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=NAME, session=session)

    def handshake(self) -> None:
        """To the end. The client's last words leave with its request: sent alone they would ask a server of
        TLS 1.3 for a ticket, and a request that leaves after its arrival would begin no turn."""
        self._until(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def receive(self, count: int) -> None:
        while count:
            count -= len(self._until(self.tls.read))

    def _until(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                return step()
            except self._wait:
                begin = time.monotonic_ns()
                self.round_trips += self._flush()
                data = self._connection.recv(65536)
                self.waited_ns += time.monotonic_ns() - begin
                if not data:
                    raise TcptraceError("the server closed during a TLS conversation") from None
                self._in.write(data)

    def _flush(self) -> bool:
        data = self._out.read()
        if data:
            self._connection.sendall(data)
        return bool(data)


def ask(
    part: Part, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """A new connection, one request. Notes under `connect_PORT_ns`, `handshake_PORT_ns` and `first_PORT_ns`
    how long connect(), the TLS handshake, and everything up to the answer took; the handshake's round trips
    and its waiting for the server; and whether the session was resumed.

    session: one to resume. Returns the session for the next.
    """
    begin = time.monotonic_ns()
    with part.connect(port, nodelay=True) as connection:
        part.note(f"connect_{port}_ns", time.monotonic_ns() - begin)
        secured = _Secured(connection, context, session)
        with timed(part, f"handshake_{port}_ns"):
            secured.handshake()
        part.note(f"round_trips_{port}", secured.round_trips)
        part.note(f"waited_{port}_ns", secured.waited_ns)
        secured.send(bytes(REQUEST))
        secured.receive(ANSWER)
        part.note(f"first_{port}_ns", time.monotonic_ns() - begin)
        part.note(f"resumed_{port}", bool(secured.tls.session_reused))
        return secured.tls.session


def truth(witness: Witness, port: int) -> Truth:
    """Of the connections to a port, in order: what the client noted, and for how long the link had TCP's
    handshake and the turns of each."""
    names = [f"{what}_{port}{unit}" for what, unit in NOTES.items()]
    found: Truth = {name: witness.client[name] for name in names}
    if witness.log is not None:
        flows = packets.flows(witness.log, port)
        found[f"tcp_{port}_ns"] = [packets.handshake_ns(flow)[0] for flow in flows]
        found[f"link_{port}_ns"] = [sum(packets.carried_ns(flow)) for flow in flows]
    elif witness.delay_ns is not None:  # the handshake's, and the request's
        found[f"tcp_{port}_ns"] = [2 * witness.delay_ns for _ in found[f"connect_{port}_ns"]]
        found[f"link_{port}_ns"] = [
            (trips + 1) * 2 * witness.delay_ns for trips in found[f"round_trips_{port}"]
        ]
    return found


def checks(truth: Truth, rows: Rows, port: int, way: str, chosen: slice = slice(None)) -> Iterator[Check]:
    """The chosen connections to a port: every turn but the last is the TLS handshake's."""
    ends = rows.ends("active", port)[chosen]
    turns = [_of(rows.turns("client", port), end) for end in ends]
    yield same(
        f"{way}: round trips before the request, as turns",
        _all(truth[f"round_trips_{port}"][chosen]),
        _all([len(own) - 1 for own in turns]),
    )
    yield each(
        f"{way}: TCP's handshake, from what the link took to connect()",
        bounded(
            truth[f"tcp_{port}_ns"][chosen],
            truth[f"connect_{port}_ns"][chosen],
            column(ends, "handshake_ns"),
        ),
        column(ends, "handshake_ns"),
        relative=0.02,
        absolute_ns=300_000,
    )
    yield each(
        f"{way}: waiting for the server in the handshake",
        truth[f"waited_{port}_ns"][chosen],
        [fold(sum, column(own[:-1], "total_ns")) for own in turns],
        relative=0.02,
        absolute_ns=200_000,
    )
    # A packet that waits at the device until a busy host lets the relay read it is not in the log yet.
    yield each(
        f"{way}: network in all turns, of what the link took",
        truth[f"link_{port}_ns"][chosen],
        [fold(sum, column(own, "network_ns")) for own in turns],
        relative=0.05,
        absolute_ns=500_000,
    )
    yield each(
        f"{way}: first answer, from connect() on",
        truth[f"first_{port}_ns"][chosen],
        [
            own[-1]["started_ns"] + own[-1]["total_ns"] - end["started_ns"] if own else None
            for own, end in zip(turns, ends, strict=True)
        ],
        relative=0.02,
        absolute_ns=500_000,
    )


def _all(counts: Sequence[int]) -> int | str | None:
    """What they all are; otherwise each that is among them."""
    found = sorted(set(counts))
    return found[0] if len(found) == 1 else ", ".join(map(str, found)) or None


def _of(turns: list[Row], end: Row) -> list[Row]:
    return [turn for turn in turns if turn["connection_id"] == end["connection_id"]]


def scenario(version: Version, *, name: str, title: str, teaches: str) -> Scenario:
    """The scenario of full handshakes of one version."""

    def server(part: Part) -> None:
        punctual()
        part.serve(FIRST_PORT, answer(server_context(version)))
        part.ready()
        part.until_done()

    def client(part: Part) -> None:
        punctual()
        context = client_context(version)
        for _ in range(CONNECTIONS):
            ask(part, FIRST_PORT, context)

    def in_full(truth: Truth, rows: Rows) -> Iterator[Check]:
        yield from checks(truth, rows, FIRST_PORT, f"TLS {version}")

    return Scenario(
        name=name,
        chapter="handshake",
        title=title,
        teaches=teaches,
        topology=Topology(delay_ns=DELAY_NS),
        server=server,
        client=client,
        truth=partial(truth, port=FIRST_PORT),
        checks=in_full,
        fast=True,
    )
