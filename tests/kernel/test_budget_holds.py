"""Nagle's holds against the application's clock: the same requests with and without TCP_NODELAY."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from asking import Answering, Tuning, ask, closed, connected, nodelay
from budget import Budget, column, insist_close, insist_on_shares, read_budget
from budget_rows import other_holds, total
from drive import SERVER
from lacking import SLACK
from ledger import note
from recording import Row, only
from scene import MS, MakeLink, Record, Wired
from tcptrace.lab.link import Log
from turns import Times, punctual, without_jitter

Mask = npt.NDArray[np.bool_]

TURNS = 12
PART = b"q" * 50
ANSWER = b"a" * 100
STALL_NS = 30 * MS
"""The least delay of an ACK that somebody waits for (TCP_DELACK_MIN is 40 ms)."""


def two_writes(one: socket.socket) -> None:
    one.send(PART)
    one.send(PART)


def one_write(one: socket.socket) -> None:
    one.send(PART + PART)


def writev(one: socket.socket) -> None:
    one.sendmsg([PART, PART])


def acknowledge_at_once(one: socket.socket) -> None:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@dataclass(frozen=True)
class Played:
    """One connection's turns: its client's port, and the client's time of each turn."""

    port: int
    times: Times

    def stalled_beside(self, free: Played) -> tuple[Mask, Times]:
        """Which turns stalled, and by how much, beside a usual turn of another connection."""
        excess = self.times - int(np.median(free.times))
        stalled = excess > STALL_NS
        assert stalled.sum() >= TURNS - 3, f"the scene is not the one that this test is about: {self}, {free}"
        return stalled, excess[stalled]

    def turns(self, budget: Budget, spaces: Wired) -> tuple[list[Row], list[Row]]:
        """The rows of its client and of its server, all of them, with the bytes that went over."""
        client, server = (budget.turns(space, self.port) for space in spaces)
        for rows, side in ((client, "client"), (server, "server")):
            assert len(rows) == len(self.times)
            assert {row["side"] for row in rows} == {side}
            assert {(row["request_bytes"], row["response_bytes"]) for row in rows} == {(100, 100)}
            assert {row["hold_ambiguous"] for row in rows} == {False}
        return client, server


def play(
    spaces: Wired,
    request: Tuning = two_writes,
    *,
    tuned: Sequence[Tuning] = (),
    before_read: Tuning | None = None,
    answers: Sequence[bytes] = (ANSWER,),
) -> Played:
    """Take the turns on a connection of their own; both ends are tuned alike."""
    client, server = connected(*spaces, client=tuned, server=tuned)
    with punctual(), Answering(server, TURNS, 100, before=before_read, answers=answers):
        times = ask(client, TURNS, request, 100)
    port = client.getsockname()[1]
    closed(*spaces, (client, server))
    return Played(port, np.array(times))


def insist_on_nagle(rows: list[Row], held: Played, free: Played) -> None:
    """97 to 103 % of the difference in the application's time is Nagle's, less than 2 % any other hold's.

    By the median of the turns that stalled: in a single one the host may keep anybody waiting.
    """
    stalled, excess = held.stalled_beside(free)
    difference, nagle = np.median(excess), np.median(column(rows, "nagle_ns")[stalled])
    note("nagle_ns", len(excess), float(difference), float(nagle), "3 %")
    assert 0.97 <= nagle / difference <= 1.03, f"nagle_ns: {nagle} of {difference}; {held}, {free}, {rows}"
    assert sum(other_holds(rows, "nagle_ns").values()) < 0.02 * excess.sum(), other_holds(rows, "nagle_ns")


def flags(rows: list[Row]) -> list[bool | None]:
    return [row["delayed_ack"] for row in rows]


def test_hold_until_the_delayed_ack_is_nagle(wired: Wired, record: Record) -> None:
    recording = record("--port", SERVER)
    held, free = play(wired), play(wired, tuned=[nodelay])
    budget = read_budget(recording)
    client, server = held.turns(budget, wired)
    insist_on_nagle(client, held, free)
    stalled, excess = held.stalled_beside(free)
    insist_close("nagle_ns", column(client, "nagle_ns")[stalled], excess, 0.03, 0)
    # At the client by the ACK that released the hold, at the server because its own ACK came late.
    assert flags(client) == flags(server) == stalled.tolist()
    assert {row["writes"] for row in client} == {2}
    insist_on_shares([row for row, is_stalled in zip(client, stalled, strict=True) if is_stalled])
    connection = only(budget.ends(wired[0]), local_port=held.port)
    assert connection["held_nagle_ns"] >= total(client, "nagle_ns")
    assert (connection["pattern"], connection["exchanges"]) == ("turns", TURNS)


@pytest.mark.parametrize(
    ("request_", "tuned", "writes"),
    [
        (two_writes, [nodelay], 2),
        pytest.param(one_write, [], 1, marks=pytest.mark.matrix),
        (writev, [], 1),
    ],
    ids=["nodelay", "one write", "writev"],
)
def test_nothing_is_held(
    wired: Wired, record: Record, request_: Tuning, tuned: list[Tuning], writes: int
) -> None:
    recording = record("--port", SERVER)
    played = play(wired, request_, tuned=tuned)
    client, server = played.turns(read_budget(recording), wired)
    assert not any(other_holds(client).values()), other_holds(client)
    assert not any(other_holds(server).values()), other_holds(server)
    assert not any(flags(client)) and not any(flags(server))
    assert {row["writes"] for row in client} == {writes}
    assert max(played.times) < STALL_NS * SLACK, "the scene is not the one that this test is about"


def test_hold_that_switching_nagle_off_ends(wired: Wired, record: Record) -> None:
    """Before the delayed ACK comes: no ACK has ended it, so that none was late."""
    recording = record("--port", SERVER)
    held = []

    def write(one: socket.socket) -> None:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        one.send(PART)
        begin = time.monotonic_ns()
        one.send(PART)
        time.sleep(0.02)
        nodelay(one)
        held.append(time.monotonic_ns() - begin)

    client, _ = play(wired, write).turns(read_budget(recording), wired)
    # In its first turn the server acknowledges at once.
    insist_close("nagle_ns", column(client[1:], "nagle_ns"), np.array(held[1:]), 0.03, 0)
    assert min(held) > 20 * MS and not any(flags(client))
    assert not any(other_holds(client, "nagle_ns").values()), other_holds(client)


@dataclass(frozen=True)
class Path:
    """What the relay's log says of the turns of one connection, one value for each."""

    round_trips: Times
    """From the first half's coming from the client to the going of the ACK that covers it."""
    wires: Times
    """From the second half's coming from the client to the answer's going there."""

    @classmethod
    def of(cls, log: Log, port: int) -> Path:
        out = log[(log["direction"] == 0) & (log["source_port"] == port)]
        back = log[(log["direction"] == 1) & (log["destination_port"] == port)]
        first = out[out["payload"] > 0]["sequence"].min()
        answer = back[back["payload"] > 0]["sequence"].min()
        trips, wires = [], []
        for turn in range(TURNS):
            half = first + np.uint32(turn * 100)
            covering = (back["acknowledgement"] - (half + np.uint32(50))).astype("i4") >= 0
            trips.append(back[covering]["left_ns"].min() - _coming(out, half)["arrived_ns"])
            wire = _coming(back, answer + np.uint32(turn * 100))["left_ns"]
            wires.append(wire - _coming(out, half + np.uint32(50))["arrived_ns"])
        return cls(np.array(trips), np.array(wires))


def _coming(packets: Log, sequence: np.uint32) -> np.void:
    """The first packet with data from this sequence number on."""
    chosen = packets[(packets["sequence"] == sequence) & (packets["payload"] > 0)]
    found: np.void = chosen[chosen["arrived_ns"].argmin()]
    return found


def insist_on_nagle_over(path: Path, rows: list[Row], held: Played) -> None:
    """Nagle's holds are the turns' time less that on the wire, and a round trip and a delayed ACK long."""
    nagle = column(rows, "nagle_ns")
    note("nagle_ns", TURNS, float(np.median(path.round_trips)), float(np.median(nagle)), "3 %")
    insist_close("nagle_ns", nagle, held.times - path.wires, 0.03, 0)
    insist_close("nagle_ns", nagle, path.round_trips, 0.03, 0)
    assert sum(other_holds(rows, "nagle_ns").values()) < 0.02 * nagle.sum(), other_holds(rows, "nagle_ns")


def test_hold_with_quick_acks_is_a_round_trip_and_no_delayed_ack(linked: MakeLink, record: Record) -> None:
    link = without_jitter(linked(delay_ns=20 * MS))
    spaces = link.a, link.b
    recording = record("--port", SERVER)
    held = play(spaces, before_read=acknowledge_at_once)
    client, server = held.turns(read_budget(recording), spaces)
    path = Path.of(link.log(), held.port)
    assert 40 * MS < np.median(path.round_trips) < 50 * MS, path
    insist_on_nagle_over(path, client, held)
    at_once = path.round_trips < 40 * MS + STALL_NS  # but for what a busy host may do to the relay
    assert not any(np.array(flags(client))[at_once]) and not any(flags(server))
    insist_on_shares(client)


def test_delayed_ack_is_told_from_the_path(linked: MakeLink, record: Record) -> None:
    """Over a path of 20 ms the ACK comes after 60 ms: delayed, though it would not be on a longer path."""
    link = without_jitter(linked(delay_ns=10 * MS))
    spaces = link.a, link.b
    recording = record("--port", SERVER)
    held = play(spaces)
    client, server = held.turns(read_budget(recording), spaces)
    path = Path.of(link.log(), held.port)
    insist_on_nagle_over(path, client, held)
    delayed = path.round_trips > 20 * MS + STALL_NS
    assert delayed.sum() >= TURNS - 3, "the scene is not the one that this test is about"
    assert flags(client) == flags(server) == delayed.tolist()
    insist_on_shares(client)


def test_answer_that_nagle_holds_is_charged_at_the_server(wired: Wired, record: Record) -> None:
    """The client, which had the first half by then, sees it as the time between its reads."""
    recording = record("--port", SERVER)
    halves = (ANSWER[:50], ANSWER[50:])
    held = play(wired, one_write, answers=halves)
    free = play(wired, one_write, answers=halves, tuned=[nodelay])
    client, server = held.turns(read_budget(recording), wired)
    insist_on_nagle(server, held, free)
    assert not any(other_holds(client).values()), other_holds(client)
    stalled, excess = held.stalled_beside(free)
    insist_close("transfer_ns", column(client, "transfer_ns")[stalled], excess, 0.03, 0)
    assert flags(client) == flags(server) == stalled.tolist()
    assert {row["writes"] for row in server} == {2}
    assert {row["reads"] for row, is_stalled in zip(client, stalled, strict=True) if is_stalled} == {2}
