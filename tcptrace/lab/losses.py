"""Turns of request and answer over a link that loses segments of one of the requests, or reorders them.

How a loss is repaired is for the sender's kernel to choose, and on a busy host it may choose another way. Its
counters tell, and such a connection is made again; the truth then names the connections that count.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import kernel_counters, packets
from tcptrace.lab.checks import Check, alike, at_least, each, same
from tcptrace.lab.faults import Drop, Late
from tcptrace.lab.link import Log
from tcptrace.lab.packets import BACK, OUT
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Row, Rows, chosen, column
from tcptrace.lab.scenario import Topology, Truth
from tcptrace.lab.witness import Witness

DELAY_NS = 10_000_000
TURNS, STRUCK = 5, 3
"""Of each connection's turns this one, counted from 0, is struck: by then its round trip is known."""
CONNECTIONS, SPARE = 3, 4
"""So many of each case are wanted, and so many may go another way."""
SEEN = CONNECTIONS - 1
"""Of so many the retransmissions must be seen: kernels were met that run no program while certain tasks are
interrupted (docs/adr/0002-journal.md). What is hidden so is unknown, never wrong."""
SEGMENT = 1448
"""Payload of a full segment with timestamps and an MTU of 1500."""
SMALL, ANSWER = 100, 200
NOTHING = (0, 0, None)
"""loss_recovery_ns, retransmits and retransmit_kind of a turn without loss."""
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
    """In words."""
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
    segments: int = 1
    """Of each request: one small one, or several full ones."""

    @property
    def request(self) -> int:
        """Bytes of a request."""
        return self.segments * SEGMENT if self.segments > 1 else SMALL

    def drop(self, port: int) -> Drop:
        """The link's rule for what it loses."""
        return Drop("data", nth=self._nth(self.lost), direction="ab", port=port, name=self._name(port))

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
        drops=tuple(case.drop(port) for port, case in cases.items() if case.lost),
        lates=tuple(case.keep(port) for port, case in cases.items() if case.late),
    )


def server(part: Part, cases: Cases) -> None:
    """Answer each request when all of it is there."""
    for port, case in cases.items():

        def answer(connection: socket.socket, size: int = case.request) -> None:
            for _ in range(TURNS):
                receive(connection, size)
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
            raise TcptraceError(f"{case.what}: went another way {others} times, at last by {counted}")


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


def truth(witness: Witness, cases: Cases) -> Truth:
    """By port, one value per connection that counts: its client's port, how long its turns took, how many
    segments the client repeated, and of the struck turn, at the relay: from its last byte's first departure
    until all of it was on its way for good, and from there until the answer came."""
    assert witness.log is not None
    found: Truth = {}
    for port, case in cases.items():
        flows = {int(flow["source_port"][0]): flow for flow in packets.flows(witness.log, port)}
        clients = witness.client[f"client_port_{port}"]
        found[f"client_ports_{port}"] = clients
        found[f"turns_{port}_ns"] = witness.client[f"turns_{port}_ns"]
        found[f"repeated_{port}"] = [_repeated(flows[mine], case) for mine in clients]
        ways = [_struck_ns(flows[mine], case) for mine in clients]
        found[f"recovery_{port}_ns"], found[f"wire_{port}_ns"] = (
            list(way) for way in zip(*ways, strict=True)
        )
    return found


def _repeated(flow: Log, case: Case) -> int:
    """Segments that the client sent more than once."""
    return len(packets.of_kind(flow, "data", OUT)) - TURNS * case.segments


def _struck_ns(flow: Log, case: Case) -> tuple[int, int]:
    """Of the struck request: from its last byte's first departure to the last departure of any of its bytes,
    0 when nothing was lost, whatever was repeated; from there to the answer's arrival."""
    sent, answers = packets.of_kind(flow, "data", OUT), packets.of_kind(flow, "data", BACK)
    offset = _offsets(sent)
    end = (STRUCK + 1) * case.request
    mine = sent[(offset >= STRUCK * case.request) & (offset < end)]
    first_ns = int(sent["arrived_ns"][offset + sent["payload"] == end].min())
    gone_ns = int(mine["arrived_ns"].max()) if case.lost else first_ns
    # By its place in the stream: the server may repeat the answer before, whose ACK was lost as well.
    came_ns = int(answers["left_ns"][_offsets(answers) == STRUCK * ANSWER].min())
    return gone_ns - first_ns, came_ns - gone_ns


def _offsets(data: Log) -> npt.NDArray[np.int64]:
    """Where in the stream of its direction each segment's payload begins."""
    found: npt.NDArray[np.int64] = (data["sequence"].astype(np.int64) - int(data["sequence"][0])) % (1 << 32)
    return found


def checks(truth: Truth, rows: Rows, cases: Cases) -> Iterator[Check]:
    """What was lost is charged to loss_recovery with its kind; what was late, and other turns, are not."""
    for port, case in cases.items():
        repeated = truth[f"repeated_{port}"]
        ends = chosen(rows.ends("active", port), "local_port", truth[f"client_ports_{port}"])
        yield alike(
            f"{case.what}: connections with the retransmits that the link carried",
            repeated,
            column(ends, "retransmits"),
        )
        turns = [rows.turns_of(end) for end in ends]
        seen = [n for n, mine in enumerate(turns) if _complete(mine, repeated[n])]
        yield at_least(
            f"{case.what}: connections with no retransmission hidden from eBPF, of {CONNECTIONS}",
            SEEN,
            len(seen),
            "count",
        )
        struck = [turns[n][STRUCK] for n in seen]
        yield from _charged(case, truth, port, seen, struck)
        others = [row for n in seen for row in turns[n] if row is not turns[n][STRUCK]]
        yield same(
            f"{case.what}: other turns, charged nothing",
            len(others),
            sum(
                (row["loss_recovery_ns"], row["retransmits"], row["retransmit_kind"]) == NOTHING
                for row in others
            ),
        )


def _complete(turns: list[Row], repeated: int) -> bool:
    """Whether all turns were seen with all their retransmissions."""
    counts = column(turns, "retransmits")
    return (
        len(turns) == TURNS
        and None not in counts
        and sum(counts) == repeated
        and turns[STRUCK]["loss_recovery_ns"] is not None
    )


def _charged(case: Case, truth: Truth, port: int, seen: list[int], struck: list[Row]) -> Iterator[Check]:
    """The struck turns of connections of which everything was seen."""
    took = [truth[f"turns_{port}_ns"][n] for n in seen]
    totals = [turns[STRUCK] for turns in took]
    longer = [turns[STRUCK] - statistics.median(turns[:STRUCK]) for turns in took]
    recoveries = column(struck, "loss_recovery_ns")
    yield each(f"{case.what}: total", totals, column(struck, "total_ns"), relative=0.02, absolute_ns=300_000)
    if case.lost:
        yield each(
            f"{case.what}: loss_recovery",
            [truth[f"recovery_{port}_ns"][n] for n in seen],
            recoveries,
            relative=0.02,
            absolute_ns=300_000,
        )
        yield each(
            f"{case.what}: loss_recovery, by what the turn took longer than others",
            longer,
            recoveries,
            relative=0.05,
            absolute_ns=1_000_000,
        )
    else:
        yield alike(
            f"{case.what}: turns with a loss_recovery of 0",
            [truth[f"recovery_{port}_ns"][n] for n in seen],
            recoveries,
        )
    yield each(
        f"{case.what}: network and peer",
        [truth[f"wire_{port}_ns"][n] for n in seen],
        column(struck, "network_ns", "peer_ns"),
        relative=0.02,
        absolute_ns=300_000,
    )
    yield alike(
        f"{case.what}: retransmit_kind {case.kind}",
        [case.kind] * len(seen),
        [row["retransmit_kind"] or NO_KIND for row in struck],
    )
    yield alike(
        f"{case.what}: retransmits of the turn",
        [truth[f"repeated_{port}"][n] for n in seen],
        column(struck, "retransmits"),
    )
