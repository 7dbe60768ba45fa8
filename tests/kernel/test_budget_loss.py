"""A lost segment is charged to loss_recovery with its kind; a late one that is repeated in vain is not.

Truth is the client's clock, turn against turn of the same connection; that the loss went as the test
means it to is the kernel's own TcpExt counters' to say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from budget import Budget, column, insist_on_shares, of, read_budget
from conftest import require, why_no_lab, why_no_recording
from drive import SERVER, Background, listen, receive
from ledger import note
from recording import Recording, Row
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Direction, Drop
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_B, Namespace
from turns import MS, Turn, growth, kernel_counts, punctual, take_turn, totals, without_jitter

SEGMENT = 1448
"""Payload of a full segment with timestamps, MTU 1500."""
TURNS, STRUCK = 5, 3
"""Of each connection's turns this one (from 0) is disturbed."""
SPARE = 3
"""So many connections of a case may go another way, because the host is busy."""
KINDS = ("TCPTimeouts", "TCPFastRetrans", "TCPLossProbes")
UNDONE = ("TCPLossUndo", "TCPDSACKUndo", "TCPSpuriousRTOs")


@dataclass(frozen=True)
class Case:
    """Turns of one connection, one of which is disturbed.

    `segments`: of each request. `lost`: which data segments of the connection the link drops, from 1.
    `counted`: what the kernel counts during the disturbed turn. `spike`: nothing is dropped, but the link
    stands still until the kernel has counted this, with the request in its queue or not even taken.
    """

    kind: str
    counted: dict[str, int]
    segments: int = 1
    lost: tuple[int, ...] = ()
    direction: Direction = "ab"
    sysctls: dict[str, int] = field(default_factory=dict)
    spike: str = ""
    queued: bool = True
    think_s: float = 0.0
    between_s: float = 0.0
    connections: int = 3


NO_PROBES = {"net.ipv4.tcp_early_retrans": 0}
LOSSES = {
    "time-out": Case("rto", {"TCPTimeouts": 1}, lost=(4,), sysctls=NO_PROBES),
    "fast retransmit": Case("fast", {"TCPFastRetrans": 1}, segments=10, lost=(34,)),
    "tail loss probe": Case("tlp", {"TCPLossProbes": 1}, lost=(4,)),
    "tail loss probe for the last of four": Case("tlp", {"TCPLossProbes": 1}, segments=4, lost=(16,)),
    "tail loss probe for the second write": Case("tlp", {"TCPLossProbes": 1}, lost=(8,), between_s=0.004),
    "probe lost as well": Case("rto+tlp", {"TCPLossProbes": 1, "TCPTimeouts": 1}, lost=(4, 5)),
}
SPIKES = {
    "time-out undone by timestamps": Case(
        "rto", {"TCPTimeouts": 1}, sysctls=NO_PROBES, spike="TCPTimeouts", queued=False
    ),
    "time-out answered too soon": Case(
        "rto",
        {"TCPTimeouts": 1},
        sysctls={**NO_PROBES, "net.ipv4.tcp_timestamps": 0},
        spike="TCPTimeouts",
    ),
    "probe answered too soon": Case("tlp", {"TCPLossProbes": 1}, spike="TCPLossProbes"),
}
# The server's delayed ACK comes first, or the client, too, would repeat what nobody acknowledged.
ANSWERS = {"answer lost": Case("", {}, lost=(4,), direction="ba", think_s=0.1, connections=1)}
CASES = {**LOSSES, **SPIKES, **ANSWERS}
PORTS = {name: SERVER + number for number, name in enumerate(CASES)}


class Spike(Background):
    """The link stands still from the start of the block, or with the request in its queue, until the kernel
    has counted a retransmission; a request in the queue then arrives at once.

    `resumed_ns`: how long after the retransmission the link went on, at most.
    """

    def __init__(self, link: Link, case: Case, client: Namespace) -> None:
        super().__init__()
        assert link._child
        self.relay, self.case, self.client = link._child.pid, case, client
        self.before = self._count()
        self.resumed_ns = 0
        if not case.queued:
            os.kill(self.relay, signal.SIGSTOP)

    def _count(self) -> int:
        return kernel_counts(self.client)[self.case.spike]

    def work(self) -> None:
        unseen = time.monotonic_ns()
        try:
            if self.case.queued:
                time.sleep(0.004)  # of the ten milliseconds for which the relay keeps a packet
                os.kill(self.relay, signal.SIGSTOP)
            deadline = time.monotonic() + 5
            while (looked := time.monotonic_ns()) and self._count() == self.before:
                assert time.monotonic() < deadline, f"no {self.case.spike}"
                unseen = looked
                time.sleep(0.001)
            if not self.case.queued:
                time.sleep(0.05)  # too late for any ACK to be sooner than the round trip
        finally:
            os.kill(self.relay, signal.SIGCONT)
            self.resumed_ns = time.monotonic_ns() - unseen


@dataclass(frozen=True)
class Done:
    """One connection's turns and what the kernel counted from the disturbed turn on."""

    port: int
    turns: list[Turn]
    counted: dict[str, int]
    undone: dict[str, int]
    resumed_ns: int
    """After the retransmission; 0 without a spike."""

    @property
    def delay_ns(self) -> int:
        """How much longer the disturbed turn took than those before."""
        times = totals(self.turns)
        return int(times[STRUCK] - np.median(times[:STRUCK]))


def converse(link: Link, name: str, listener: socket.socket) -> Done:
    """One connection of a case."""
    case, space = CASES[name], link.a
    with space.socket() as client:
        client.settimeout(10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")  # does not pace
        client.connect((SIDE_B.ipv4, PORTS[name]))
        with listener.accept()[0] as server:
            server.settimeout(10)
            shape: dict[str, Any] = {
                "request_bytes": case.segments * SEGMENT if case.segments > 1 else 100,
                "think_s": case.think_s,
                "between_s": case.between_s,
            }
            turns, resumed = [], 0
            for number in range(TURNS):
                if number == STRUCK:
                    before = kernel_counts(space)
                if case.spike and number == STRUCK:
                    with Spike(link, case, space) as spike:
                        turns.append(take_turn(client, server, **shape))
                    resumed = spike.resumed_ns
                else:
                    turns.append(take_turn(client, server, **shape))
                if number == STRUCK:
                    after = kernel_counts(space)
            undone = growth(before, kernel_counts(space), *UNDONE)
            port = client.getsockname()[1]
            client.shutdown(socket.SHUT_WR)
            assert receive(server, 1) == b""
    return Done(port, turns, growth(before, after, *KINDS), undone, resumed)


def went_as_meant(name: str, done: Done) -> bool:
    """Whether what happened is what the case is about: a busy host can be in the way."""
    case = CASES[name]
    if done.counted != case.counted:
        return False
    if case.spike and case.kind == "rto" and sum(done.undone.values()) != 1:
        return False
    # The answer to the first transmission takes half of the 20 ms, one to the second all of it.
    return not (case.spike and case.queued) or done.resumed_ns < 5 * MS


def converse_until(link: Link, name: str, listener: socket.socket) -> list[Done]:
    """As many connections of a case as it wants, each of which went as it is meant to."""
    held: list[Done] = []
    for _ in range(CASES[name].connections + SPARE):
        if len(held) < CASES[name].connections:
            held += [done for done in [converse(link, name, listener)] if went_as_meant(name, done)]
    assert len(held) == CASES[name].connections, f"{name}: the kernel did something else, or was late"
    return held


@dataclass(frozen=True)
class Losses:
    a: Namespace
    b: Namespace
    budget: Budget
    done: dict[str, list[Done]]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Losses]:
    """All cases over one link in one recording: the link's rules go by the server's port."""
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    drops = [
        Drop("data", nth=case.lost, direction=case.direction, port=PORTS[name])
        for name, case in CASES.items()
        if case.lost
    ]
    with contextlib.ExitStack() as stack:
        a, b = stack.enter_context(namespaces.pair(wired=False))
        link = without_jitter(stack.enter_context(Link(a, b, delay_ns=10 * MS, drops=drops)))
        recording = Recording(tmp_path_factory.mktemp("losses") / "loss.tct", of(a, b))
        stack.callback(recording.abandon)
        done = {}
        for name, case in CASES.items():
            usual = {sysctl: a.sysctl(sysctl) for sysctl in case.sysctls}
            for sysctl, value in case.sysctls.items():
                a.sysctl(sysctl, value)
            with listen(b, port=PORTS[name]) as listener, punctual():
                done[name] = converse_until(link, name, listener)
            for sysctl, before in usual.items():
                a.sysctl(sysctl, before)
        yield Losses(a, b, read_budget(recording), done)


def rows_of(losses: Losses, name: str) -> Iterator[tuple[Done, list[Row]]]:
    """A case's connections and the client's rows of each.

    Kernels were met that run no program while certain tasks are interrupted (docs/adr/0002-journal.md): a
    connection that repeated more, by the kernel's count, than its turns tell of is left out, one at most.
    """
    held = []
    for done in losses.done[name]:
        rows = losses.budget.turns(losses.a, done.port)
        assert [row["side"] for row in rows] == ["client"] * TURNS
        repeated = losses.budget.end(losses.a, done.port)["retransmits"]
        if rows[STRUCK]["loss_recovery_ns"] is not None and repeated == sum(
            row["retransmits"] for row in rows
        ):
            held.append((done, rows))
    assert len(held) >= max(1, CASES[name].connections - 1), f"{name}: {losses.done[name]}"
    yield from held


def undisturbed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["seq"] != STRUCK]


@pytest.mark.parametrize("name", LOSSES)
def test_a_lost_segment_is_charged_to_loss_recovery(losses: Losses, name: str) -> None:
    for done, rows in rows_of(losses, name):
        struck = rows[STRUCK]
        assert done.delay_ns > 15 * MS, done
        note("loss_recovery_ns", 1, done.delay_ns, struck["loss_recovery_ns"] or 0, ">= 90 % of the delay")
        assert 0.9 * done.delay_ns <= struck["loss_recovery_ns"] <= 1.05 * done.delay_ns + MS, (done, struck)
        assert struck["retransmit_kind"] == CASES[name].kind, struck
        assert struck["retransmits"] == len(CASES[name].lost), struck


@pytest.mark.parametrize("name", LOSSES)
def test_undisturbed_turns_are_charged_nothing(losses: Losses, name: str) -> None:
    for _, rows in rows_of(losses, name):
        for row in undisturbed(rows):
            assert (row["loss_recovery_ns"], row["retransmits"], row["retransmit_kind"]) == (0, 0, None), row


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_did_not_cost_is_as_before(losses: Losses, name: str) -> None:
    """Network and peer of a disturbed turn are those of the turns before it."""
    for done, rows in rows_of(losses, name):
        usual = np.median(column(rows[:STRUCK], "network_ns", "peer_ns"))
        struck = rows[STRUCK]
        assert struck["network_exact"] is True
        assert abs(struck["network_ns"] + struck["peer_ns"] - usual) < 0.1 * done.delay_ns + MS, (
            done,
            struck,
        )


@pytest.mark.parametrize("name", SPIKES)
def test_a_spurious_retransmission_is_charged_nothing(losses: Losses, name: str) -> None:
    """Nothing was lost: all of the delay is the network's."""
    for done, rows in rows_of(losses, name):
        struck = rows[STRUCK]
        assert done.delay_ns > 150 * MS, done
        note("loss_recovery_ns", 1, 0, struck["loss_recovery_ns"] or 0, "nothing")
        assert struck["loss_recovery_ns"] == 0, (done, struck)
        assert struck["network_ns"] + struck["peer_ns"] >= 0.9 * done.delay_ns, (done, struck)
        assert (struck["retransmits"], struck["retransmit_kind"]) == (1, CASES[name].kind), struck


def test_a_lost_answer_is_no_loss_of_the_client(losses: Losses) -> None:
    """It is invisible from this end: the server's kernel repeated it."""
    ((done, rows),) = rows_of(losses, "answer lost")
    struck = rows[STRUCK]
    assert done.delay_ns > 150 * MS, done
    assert (struck["loss_recovery_ns"], struck["retransmits"]) == (0, 0), struck
    assert struck["network_ns"] + struck["peer_ns"] >= 0.9 * done.delay_ns, (done, struck)


def test_little_is_unattributed(losses: Losses) -> None:
    insist_on_shares(losses.budget.exchanges)
