"""Both ends close at once: their FINs cross, and neither is the one that closed first."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.checks import Check, same
from tcptrace.lab.part import Part, receive
from tcptrace.lab.rows import Role, Rows, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.teardown import state_checks, truth_of
from tcptrace.lab.witness import Witness

PORT = 7001
DELAY_NS = 60_000_000
ROUNDS = 5
ENDS: dict[Role, str] = {"active": "client", "passive": "server"}


def server(part: Part) -> None:
    with part.listen(PORT) as listener:
        part.ready()
        for _ in range(ROUNDS):
            with listener.accept()[0] as one:
                one.settimeout(part.limit_s)
                one.sendall(receive(one, 1))
                part.hear("close")
    part.until_done()


def client(part: Part) -> None:
    for _ in range(ROUNDS):
        with part.connect(PORT) as one:
            one.sendall(b"x")
            receive(one, 1)
            part.tell("close")  # arrives beside the link, long before our FIN does


def truth(witness: Witness) -> Truth:
    """Times in states by the relay's log. Raises TcptraceError when a host was so late that the FINs did not
    cross."""
    assert witness.log is not None
    for flow in packets.flows(witness.log, PORT):
        fins = packets.of_kind(flow, "fin")
        if fins["arrived_ns"].max() > fins["left_ns"].min():
            raise TcptraceError("the FINs did not cross: a part closed later than the link's delay")
    return truth_of(witness.log, PORT)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    for role, name in ENDS.items():
        ends = rows.ends(role, PORT)
        yield same(f"{name}: rows", ROUNDS, len(ends))
        yield same(f"{name}: close_reason", "fin", common(ends, "close_reason"))
        yield same(f"{name}: initiator", "simultaneous", common(ends, "initiator"))
        yield from state_checks(name, truth, role, PORT, ends)


SCENARIO = Scenario(
    name="simultaneous-close",
    chapter="teardown",
    title="Both ends close at once: FINs cross, CLOSING instead of FIN_WAIT2",
    teaches="When both ends close within half a round trip, each gets a FIN instead of the ACK of its own: "
    "FIN_WAIT1, CLOSING until that ACK comes, then TIME_WAIT, at both ends. initiator says simultaneous. "
    "Harmless; but both ends keep the port for 60 s, and a time-out that is the same at both ends makes it "
    "common: let one end be the first.",
    topology=Topology(delay_ns=DELAY_NS, relay=True),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
)
