"""Turns of request and answer over a link that loses segments of one of the requests, or reorders them.

How a loss is repaired is for the sender's kernel to choose, and on a busy host it may choose another way. Its
counters tell, and such a connection is made again. :mod:`tcptrace.lab.losses_checks` has the truth and the
checks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import kernel_counters
from tcptrace.lab.faults import Drop, Late
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.scenario import Topology

DELAY_NS = 10_000_000
TURNS, STRUCK = 5, 3
"""Of each connection's turns this one, counted from 0, is struck: by then its round trip is known."""
CONNECTIONS, SPARE = 3, 4
"""So many of each case are wanted, and so many may go another way."""
SEGMENT = 1448
"""Payload of a full segment with timestamps and an MTU of 1500."""
SMALL, ANSWER = 100, 200
NO_KIND = "none"
COUNTERS = (
    "TcpRetransSegs",
    "TcpExtTCPTimeouts",
    "TcpExtTCPFastRetrans",
    "TcpExtTCPLossProbes",
    "TcpExtTCPDSACKRecv",
)


@dataclass(frozen=True)
class Case:
    """One way to strike a request."""

    what: str
    """Which segments are lost, or what overtakes them, in words."""
    kind: str
    """The retransmit_kind that it shows as, or NO_KIND."""
    counted: Mapping[str, int]
    """By how much the client's kernel's COUNTERS change from that turn on; those left out do not."""
    lost: tuple[int, ...] = ()
    """Which of the struck request's segments the link loses, from 1; repetitions count as well."""
    late: tuple[int, ...] = ()
    """Which ones it keeps back."""
    late_ns: int = 0
    """For how long."""
    answer_lost: bool = False
    """Whether the link loses the answer to it."""
    think_s: float = 0.0
    """How long the server takes for it."""
    segments: int = 1
    """Of each request: one small one, or several full ones."""

    @property
    def label(self) -> str:
        """For its checks."""
        return f"overtaken {self.what}" if self.late else f"{self.what} lost"

    @property
    def request(self) -> int:
        """Bytes of a request."""
        return self.segments * SEGMENT if self.segments > 1 else SMALL

    def drops(self, port: int) -> list[Drop]:
        """The link's rules for what it loses."""
        rules = []
        if self.lost:
            rules.append(
                Drop("data", nth=self._nth(self.lost), direction="ab", port=port, name=self._name(port))
            )
        if self.answer_lost:
            rules.append(Drop("data", nth=(STRUCK + 1,), direction="ba", port=port, name=self._name(port)))
        return rules

    def keep(self, port: int) -> Late:
        """The link's rule for what it keeps back."""
        return Late(
            "data",
            nth=self._nth(self.late),
            direction="ab",
            port=port,
            name=self._name(port),
            by_ns=self.late_ns,
        )

    def _nth(self, which: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(STRUCK * self.segments + number for number in which)

    def _name(self, port: int) -> str:
        return f"{self.what} (port {port})"


Cases = Mapping[int, Case]
"""By port."""


def topology(cases: Cases, delay_ns: int = DELAY_NS) -> Topology:
    """A link that strikes them all."""
    return Topology(
        delay_ns=delay_ns,
        drops=tuple(rule for port, case in cases.items() for rule in case.drops(port)),
        lates=tuple(case.keep(port) for port, case in cases.items() if case.late),
    )


def server(part: Part, cases: Cases) -> None:
    """Answer each request when all of it is there."""
    for port, case in cases.items():

        def answer(connection: socket.socket, case: Case = case) -> None:
            for number in range(TURNS):
                receive(connection, case.request)
                if number == STRUCK:
                    time.sleep(case.think_s)
                connection.sendall(bytes(ANSWER))
            connection.recv(1)

        part.serve(port, answer)
    part.ready()
    part.until_done()


def client(part: Part, cases: Cases) -> None:
    """Connections of each case, one after the other, until enough went as it is meant. Notes of each of those
    `client_port_PORT`, and `turns_PORT_ns`: how long its turns took.

    Raises TcptraceError when too many went another way.
    """
    punctual()
    for port, case in cases.items():
        held = 0
        for _ in range(CONNECTIONS + SPARE):
            with _connect(part, port) as one:
                took, counted = _converse(one, case)
                if counted == case.counted:
                    held += 1
                    part.note(f"client_port_{port}", one.getsockname()[1])
                    part.note(f"turns_{port}_ns", took)
            if held == CONNECTIONS:
                break
        else:
            others = CONNECTIONS + SPARE - held
            raise TcptraceError(f"{case.label}: went another way {others} times, at last by {counted}")


def _connect(part: Part, port: int) -> socket.socket:
    """A connection that sends at once: no Nagle, and a congestion control that does not pace."""
    one = part.unconnected()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    except OSError as error:
        raise HostError(f"this kernel has no congestion control 'cubic': {error.strerror}") from error
    one.connect((part.peer, port))
    return one


def _converse(one: socket.socket, case: Case) -> tuple[list[int], dict[str, int]]:
    """Take the turns. Returns how long each took, and what the kernel counted from the struck one on."""
    took: list[int] = []
    for number in range(TURNS):
        if number == STRUCK:
            before = kernel_counters.read()
        begin = time.monotonic_ns()
        one.sendall(bytes(case.request))
        receive(one, ANSWER)
        took.append(time.monotonic_ns() - begin)
    change = kernel_counters.difference(before, kernel_counters.read())
    return took, {name: change[name] for name in COUNTERS if name in change}
