"""Lost and late segments: what is true of made-up logs, and what the checks make of made-up rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.lab import losses, losses_checks, packets
from tcptrace.lab.checks import OK
from tcptrace.lab.link import RECORD, Log
from tcptrace.lab.losses import ANSWER, CONNECTIONS, NO_KIND, STRUCK, TURNS, Case
from tcptrace.lab.packet import ACK, SYN
from tcptrace.lab.witness import Notes, Witness

MS = 1_000_000
PORT, CLIENT = 7001, 40000
SMALL = Case("small", "rto", {}, lost=(1,))
LARGE = Case("large", "fast", {}, lost=(2,), segments=4)
LATE = Case("late", NO_KIND, {}, late=(2,), late_ns=4 * MS, segments=4)


def log_of(case: Case, repeated: dict[int, int], isn: int = 0, repeated_answer_ms: int = 0) -> Log:
    """A connection on a link of 5 ms: turns 100 ms apart, segments 1 ms, answers 20 ms after the request.

    repeated: when (ms into the struck turn) which of its segments, from 0, goes once more; its answer comes
    20 ms after the last of them. repeated_answer_ms: when the answer before that comes again.
    """
    size = case.request // case.segments
    rows: list[tuple[int, int, int, int, int]] = [(-50, packets.OUT, SYN, isn - 1, 0)]
    for turn in range(TURNS):
        start, late = 100 * turn, max(repeated, default=0) if turn == STRUCK else 0
        for number in range(case.segments):
            rows.append((start + number, packets.OUT, ACK, isn + turn * case.request + number * size, size))
        if turn == STRUCK:
            for at, which in repeated.items():
                rows.append((start + at, packets.OUT, ACK, isn + turn * case.request + which * size, size))
            if repeated_answer_ms:
                answer = (start + repeated_answer_ms, packets.BACK, ACK, isn + (turn - 1) * ANSWER, ANSWER)
                rows.append(answer)
        at = start + max(late, case.segments - 1) + 20
        rows.append((at, packets.BACK, ACK, isn + turn * ANSWER, ANSWER))
    log = np.zeros(len(rows), RECORD)
    for record, (at, direction, flags, sequence, payload) in zip(log, sorted(rows), strict=True):
        record["arrived_ns"], record["left_ns"], record["rule"] = at * MS, (at + 5) * MS, -1
        record["direction"], record["flags"], record["payload"] = direction, flags, payload
        record["sequence"] = sequence % 2**32
        record["source_port"], record["destination_port"] = (
            (CLIENT, PORT) if direction == packets.OUT else (PORT, CLIENT)
        )
    return log


def truth_of(case: Case, log: Log) -> dict[str, Any]:
    client = Notes("client", {f"client_port_{PORT}": [CLIENT], f"turns_{PORT}_ns": [[25 * MS] * TURNS]})
    return losses_checks.truth(Witness(client, Notes("server", {}), log, 5 * MS), {PORT: case})


@given(st.integers(0, 2**32 - 1) | st.integers(-3000, 0))
def test_recovery_is_from_the_last_bytes_departure_to_the_last_repetition(isn: int) -> None:
    for case, repeated, recovery_ms in (
        (SMALL, {60: 0}, 60),
        (SMALL, {20: 0, 60: 0}, 60),
        (LARGE, {30: 1}, 27),  # the last byte left 3 ms after the first
        (LARGE, {30: 1, 31: 3}, 28),
    ):
        truth = truth_of(case, log_of(case, repeated, isn))
        assert truth[f"repeated_{PORT}"] == [len(repeated)]
        assert truth[f"recovery_{PORT}_ns"] == [recovery_ms * MS]
        assert truth[f"wire_{PORT}_ns"] == [25 * MS]


def test_an_answer_that_the_server_repeats_is_not_the_struck_turns() -> None:
    truth = truth_of(SMALL, log_of(SMALL, {60: 0}, repeated_answer_ms=61))
    assert truth[f"wire_{PORT}_ns"] == [25 * MS]


@pytest.mark.parametrize("repeated", [{}, {10: 1}])
def test_what_is_only_late_has_no_recovery_whatever_is_repeated(repeated: dict[int, int]) -> None:
    truth = truth_of(LATE, log_of(LATE, repeated))
    assert truth[f"repeated_{PORT}"] == [len(repeated)]
    assert truth[f"recovery_{PORT}_ns"] == [0]
    assert truth[f"wire_{PORT}_ns"] == [(32 if repeated else 25) * MS], "from the last byte's departure"


def test_the_links_rules_count_the_segments_before_the_struck_request() -> None:
    topology = losses.topology({7001: SMALL, 7002: LARGE, 7003: LATE})
    assert [(rule.port, rule.nth) for rule in topology.drops] == [(7001, (4,)), (7002, (14,))]
    assert [(rule.port, rule.nth, rule.by_ns) for rule in topology.lates] == [(7003, (14,), 4 * MS)]


class MadeUp:
    """Rows of CONNECTIONS connections in which a request was lost for 60 ms."""

    def __init__(self) -> None:
        self.connections = [
            {"connection_id": n, "local_port": CLIENT + n, "retransmits": 1} for n in range(CONNECTIONS)
        ]
        self.exchanges = [
            {
                "connection_id": n,
                "total_ns": 85 * MS if turn == STRUCK else 25 * MS,
                "loss_recovery_ns": 60 * MS if turn == STRUCK else 0,
                "network_ns": 20 * MS,
                "peer_ns": 5 * MS,
                "retransmits": int(turn == STRUCK),
                "retransmit_kind": "rto" if turn == STRUCK else None,
            }
            for n in range(CONNECTIONS)
            for turn in range(TURNS)
        ]

    def ends(self, role: str, port: int) -> list[dict[str, Any]]:
        return self.connections

    def turns_of(self, end: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in self.exchanges if row["connection_id"] == end["connection_id"]]

    def turn(self, connection: int, number: int) -> dict[str, Any]:
        return self.exchanges[connection * TURNS + number]


TRUTH = {
    f"client_ports_{PORT}": [CLIENT + n for n in range(CONNECTIONS)],
    f"turns_{PORT}_ns": [[25 * MS] * STRUCK + [85 * MS] + [25 * MS] * (TURNS - STRUCK - 1)] * CONNECTIONS,
    f"repeated_{PORT}": [1] * CONNECTIONS,
    f"recovery_{PORT}_ns": [60 * MS] * CONNECTIONS,
    f"wire_{PORT}_ns": [25 * MS] * CONNECTIONS,
}


def broken(rows: MadeUp) -> list[str]:
    checks = losses_checks.checks(TRUTH, rows, {PORT: SMALL})  # type: ignore[arg-type]
    return [check.what.partition(": ")[2] for check in checks if check.verdict() != OK]


def hide(rows: MadeUp, connection: int) -> None:
    """The retransmission of a connection ran no program."""
    rows.turn(connection, STRUCK).update(
        loss_recovery_ns=None, network_ns=None, peer_ns=None, retransmits=0, retransmit_kind=None
    )


def test_right_rows_keep_every_bound() -> None:
    assert broken(MadeUp()) == []


def test_one_hidden_retransmission_is_left_out_and_two_are_not() -> None:
    rows = MadeUp()
    hide(rows, 1)
    assert broken(rows) == []
    hide(rows, 2)
    assert broken(rows) == [f"connections with no retransmission hidden from eBPF, of {CONNECTIONS}"]


def test_a_hidden_retransmission_that_is_told_as_no_loss_breaks() -> None:
    rows = MadeUp()
    hide(rows, 1)
    rows.turn(1, STRUCK)["loss_recovery_ns"] = 0
    assert broken(rows) == ["the others, charged a wrong loss_recovery instead of none"]


def test_a_hidden_one_that_is_called_no_loss_is_wrong_in_the_connections_count_only() -> None:
    rows = MadeUp()
    hide(rows, 1)
    rows.connections[1]["retransmits"] = 0
    assert broken(rows) == ["connections with the retransmits of the link's log"]


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("retransmit_kind", "tlp", "retransmit_kind rto"),
        ("retransmit_kind", None, "retransmit_kind rto"),
        ("network_ns", None, "network and peer"),
    ],
)
def test_one_wrong_word_or_unknown_time_breaks(column: str, value: str | None, check: str) -> None:
    rows = MadeUp()
    rows.turn(0, STRUCK)[column] = value
    assert [what.partition(": how")[0] for what in broken(rows)] == [check]


def test_a_charge_to_another_turn_breaks() -> None:
    rows = MadeUp()
    rows.turn(2, STRUCK + 1)["loss_recovery_ns"] = 1
    assert broken(rows) == ["other turns, charged nothing"]


def test_loss_that_is_called_network_breaks() -> None:
    rows = MadeUp()
    for connection in range(CONNECTIONS):
        rows.turn(connection, STRUCK).update(loss_recovery_ns=0, network_ns=80 * MS)
    assert broken(rows) == ["loss_recovery", "network and peer"]


def test_a_connection_without_rows_breaks() -> None:
    rows = MadeUp()
    del rows.connections[0]
    assert broken(rows)[0] == "connections with the retransmits of the link's log"


def test_the_struck_turn_ends_with_the_answer_that_came_through() -> None:
    case = Case("answer", NO_KIND, {}, answer_lost=True)
    assert [(rule.direction, rule.nth) for rule in case.drops(PORT)] == [("ba", (4,))]
    log = log_of(case, {})
    again = log[log["direction"] == packets.BACK][STRUCK : STRUCK + 1].copy()
    again["arrived_ns"] += 70 * MS
    again["left_ns"] += 70 * MS
    log["left_ns"][(log["direction"] == packets.BACK) & (log["sequence"] == STRUCK * ANSWER)] = -1
    truth = truth_of(case, np.concatenate([log, again]))
    assert truth[f"repeated_{PORT}"] == [0] and truth[f"answers_repeated_{PORT}"] == [1]
    assert truth[f"recovery_{PORT}_ns"] == [0] and truth[f"wire_{PORT}_ns"] == [95 * MS]
