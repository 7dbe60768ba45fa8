"""Times in states out of the link's log."""

from __future__ import annotations

import numpy as np
import pytest

from tcptrace.errors import TcptraceError
from tcptrace.lab.checks import BROKEN, OK
from tcptrace.lab.link import RECORD, Log
from tcptrace.lab.packet import ACK, FIN, RST, SYN
from tcptrace.lab.packets import BACK, OUT
from tcptrace.lab.teardown import STATES, lived_ns, state_checks, state_times

MS = 1_000_000
HANDSHAKE = (
    (0, OUT, SYN, 99, 0),
    (10, BACK, SYN | ACK, 499, 100),
    (20, OUT, ACK, 100, 500),
)


def log_of(*rows: tuple[int, int, int, int, int]) -> Log:
    """A handshake and packets after it, on a link of 10 ms one way, from (arrival ms, direction, flags,
    sequence, acknowledgement)."""
    log = np.zeros(len(HANDSHAKE) + len(rows), RECORD)
    for record, (at, direction, flags, sequence, acked) in zip(log, (*HANDSHAKE, *rows), strict=True):
        record["arrived_ns"], record["left_ns"] = at * MS, (at + 10) * MS
        record["direction"], record["flags"] = direction, flags
        record["sequence"], record["acknowledgement"] = sequence, acked
    return log


def in_ms(times: dict[str, int]) -> dict[str, int]:
    return {state: took // MS for state, took in times.items()}


@pytest.mark.parametrize(("first", "second"), [(OUT, BACK), (BACK, OUT)])
def test_four_packets_and_who_sent_the_first(first: int, second: int) -> None:
    mine, theirs = (100, 500) if first == OUT else (500, 100)
    flow = log_of(
        (50, first, FIN | ACK, mine, theirs),
        (61, second, ACK, theirs, mine + 1),
        (100, second, FIN | ACK, theirs, mine + 1),
        (111, first, ACK, mine + 1, theirs + 1),
    )
    opened = {OUT: 20, BACK: 30}
    assert in_ms(state_times(flow, first)) == {
        "established": 50 - opened[first],
        "fin_wait1": 21,
        "fin_wait2": 39,
    }
    assert in_ms(state_times(flow, second)) == {
        "established": 60 - opened[second],
        "close_wait": 40,
        "last_ack": 21,
    }


def test_a_fin_that_acknowledges_the_other_leaves_no_time_in_fin_wait2() -> None:
    flow = log_of((50, OUT, FIN | ACK, 100, 500), (62, BACK, FIN | ACK, 500, 101), (73, OUT, ACK, 101, 501))
    assert in_ms(state_times(flow, OUT)) == {"established": 30, "fin_wait1": 22, "fin_wait2": 0}


def test_crossing_fins() -> None:
    flow = log_of(
        (50, OUT, FIN | ACK, 100, 500),
        (52, BACK, FIN | ACK, 500, 100),
        (61, BACK, ACK, 501, 101),
        (63, OUT, ACK, 101, 501),
    )
    assert in_ms(state_times(flow, OUT)) == {"established": 30, "fin_wait1": 12, "closing": 9}
    assert in_ms(state_times(flow, BACK)) == {"established": 22, "fin_wait1": 8, "closing": 13}


@pytest.mark.parametrize("sender", [OUT, BACK])
def test_a_reset_ends_it_at_both_ends(sender: int) -> None:
    flow = log_of((50, sender, RST, 100, 0))
    assert [lived_ns(flow, side) // MS for side in (OUT, BACK)] == [30, 30] if sender == OUT else [40, 20]


def test_a_reset_after_the_fin_does_not_end_it_once_more() -> None:
    flow = log_of((50, OUT, FIN | ACK, 100, 500), (61, BACK, ACK, 500, 101), (90, BACK, RST, 500, 101))
    assert [lived_ns(flow, side) // MS for side in (OUT, BACK)] == [30, 60]
    with pytest.raises(TcptraceError, match="neither"):
        lived_ns(log_of(), OUT)


def test_a_log_without_the_end_has_no_times() -> None:
    with pytest.raises(TcptraceError, match="both FINs"):
        state_times(log_of((50, OUT, FIN | ACK, 100, 500)), OUT)


def test_a_time_in_a_state_that_it_was_not_in_breaks_the_check() -> None:
    truth = {"active_7001_established_ns": [30 * MS], "active_7001_fin_wait2_ns": [40 * MS]}
    row: dict[str, int | None] = {f"{state}_ns": None for state in STATES} | {"established_ns": 30 * MS}
    right = [
        check.verdict() for check in state_checks("x", truth, "active", 7001, [row], hidden=["fin_wait2"])
    ]
    assert right == [OK, OK]
    row["close_wait_ns"] = 1
    wrong = [
        check.verdict() for check in state_checks("x", truth, "active", 7001, [row], hidden=["fin_wait2"])
    ]
    assert wrong == [OK, BROKEN]


@pytest.mark.parametrize(("kept_ms", "verdict"), [(40, OK), (1, BROKEN), (45, BROKEN)])
def test_a_hidden_state_that_stayed_on_a_socket_has_to_be_right(kept_ms: int, verdict: str) -> None:
    truth = {"active_7001_fin_wait2_ns": [50 * MS, 40 * MS]}
    nothing: dict[str, int | None] = {f"{state}_ns": None for state in STATES}
    rows = [nothing, nothing | {"fin_wait2_ns": kept_ms * MS}]
    checks = list(state_checks("x", truth, "active", 7001, rows, hidden=["fin_wait2"]))
    assert [check.verdict() for check in checks] == [verdict, OK]
