"""The course of a connection: in order, every moment accounted for, every omission said."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import synthetic
import turn_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_connections import AFTER, START, WALL, S, conn, event, synack
from turn_rows import MS, rows, server, turn

from tcptrace.analysis import course as course_module
from tcptrace.analysis.connections import connections
from tcptrace.analysis.course import Course, End, Gap, Handshake, Happening, Omission, Passage, State, course
from tcptrace.trace.reader import Trace, read
from tcptrace.trace.wire import CloseReason, Flag, Initiator, Kind

NULL = -1


def course_of(
    directory: Path,
    record: np.ndarray,
    turns: list[dict[str, Any]] | None = None,
    events: tuple[np.ndarray, ...] = (),
    **changes: Any,
) -> Course:
    path = synthetic.write_trace(
        directory / "t.tct", record, np.concatenate(events) if events else None, header_changes=changes
    )
    trace = read(path)
    found = course(trace, connections(trace), rows(*turns or []), 1)
    path.unlink()
    assert found is not None
    return found


def begun(record_start: int = AFTER) -> int:
    """Wall clock of a monotonic moment in synthetic traces, whose clock drifts by 25 us in a minute."""
    since = record_start - START
    return WALL + since + round(since * 25_000 / (60 * 10**9))


def at(ms: float, seq: int = 0, total_ms: float = 1, **fields: Any) -> dict[str, Any]:
    """A turn that begins so many ms after the connection."""
    return turn(int(total_ms * MS), seq=seq, **{"started_ns": begun() + int(ms * MS)} | fields)


def plain_conn(**fields: Any) -> np.ndarray:
    """One second: 1 ms handshake, 990 ms established, 9 ms of closing."""
    usual = dict.fromkeys(("syn_recv_ns", "fin_wait2_ns", "closing_ns", "close_wait_ns", "last_ack_ns"), NULL)
    times = {"handshake_ns": MS, "syn_sent_ns": MS, "established_ns": 990 * MS, "fin_wait1_ns": 9 * MS}
    return conn(
        **usual | times | {"exchanges": 0, "pipelined": 0, "bytes_sent": 9, "bytes_received": 9} | fields
    )


def near(ms: float) -> Any:
    return pytest.approx(ms * MS, abs=2000)


def test_a_whole_life_in_order(tmp_path: Path) -> None:
    found = course_of(tmp_path, plain_conn(exchanges=2), [at(10, 0, 5), at(20, 1, 30)])
    handshake, before, first, idle, second, after, end = found.entries
    assert handshake == Handshake(0, MS, True, None)
    assert isinstance(before, Gap) and (before.start_ns, before.waits_for) == (MS, "first turn")
    assert before.duration_ns == near(9)
    assert isinstance(first, Passage) and (first.start_ns, first.turn.seq) == (near(10), 0)
    assert isinstance(idle, Gap) and idle.waits_for == "application"
    assert (idle.start_ns, idle.duration_ns) == (near(15), near(5))
    assert isinstance(second, Passage) and second.turn.total_ns == 30 * MS
    assert isinstance(after, Gap) and after.waits_for == "close"
    assert after.start_ns + after.duration_ns == near(991)
    assert end == End(near(1000), "fin", "local")
    assert found.origin == "start" and found.duration_ns == near(1000)
    assert found.states == (
        State("SYN_SENT", 0, MS),
        State("ESTABLISHED", MS, 990 * MS),
        State("FIN_WAIT1", 991 * MS, 9 * MS),
    )
    assert (found.turns, found.recorded, found.shown, found.longest_ns) == (2, 2, 2, 30 * MS)


def test_a_server_waits_for_the_other_end_between_turns(tmp_path: Path) -> None:
    turns = [server(MS, 1, seq=seq, started_ns=begun() + (5 + 10 * seq) * MS) for seq in range(2)]
    found = course_of(tmp_path, plain_conn(exchanges=2), turns)
    gaps = [entry.waits_for for entry in found.entries if isinstance(entry, Gap)]
    assert gaps == ["first turn", "other end", "close"]


@pytest.mark.parametrize("n", [0, 1, 24, 25, 200])
def test_of_many_turns_the_first_last_and_slowest_are_shown_and_the_rest_counted(
    tmp_path: Path, n: int
) -> None:
    slow = {60: 0.9, 70: 0.8}
    turns = [at(2 + seq, seq, slow.get(seq, 0.1 + seq / 10_000)) for seq in range(n)]
    found = course_of(tmp_path, plain_conn(exchanges=n), turns)
    shown = [entry.turn.seq for entry in found.entries if isinstance(entry, Passage)]
    left = [entry for entry in found.entries if isinstance(entry, Omission)]
    assert len(shown) == found.shown == min(n, 25 if n == 25 else 24)
    assert found.recorded == n and len(shown) + sum(each.recorded for each in left) == n
    assert shown[:8] == list(range(min(n, 8))) and shown == sorted(shown)
    if n == 200:
        assert {60, 70} <= set(shown) and shown[-8:] == list(range(192, 200))
        assert all(each.longest_ns <= 0.12 * MS and each.busy_ns >= each.longest_ns for each in left)
        first = left[0]
        assert first.start_ns == near(2 + 7 + 0.1007) and first.unrecorded == 0


def test_turns_without_a_row_of_their_own_are_no_idle_time(tmp_path: Path) -> None:
    found = course_of(tmp_path, plain_conn(exchanges=12), [at(10, 2, 5), at(40, 8, 5)])
    left = [entry for entry in found.entries if isinstance(entry, Omission)]
    assert [(each.unrecorded, each.recorded) for each in left] == [(2, 0), (5, 0), (3, 0)]
    assert not any(isinstance(entry, Gap) for entry in found.entries)
    assert (left[1].start_ns, left[1].duration_ns) == (near(15), near(25))


@pytest.mark.parametrize(
    ("fields", "waits_for"),
    [
        ({"exchanges": 0, "pipelined": 4}, "stream"),
        ({"exchanges": NULL, "pipelined": NULL}, "unknown"),
        ({"bytes_sent": 0, "bytes_received": 0}, "close"),
    ],
)
def test_without_turns_the_time_says_what_is_known(
    tmp_path: Path, fields: dict[str, int], waits_for: str
) -> None:
    found = course_of(tmp_path, plain_conn(**fields))
    assert [entry.waits_for for entry in found.entries if isinstance(entry, Gap)] == [waits_for]


def test_one_that_is_open_ends_with_the_recording(tmp_path: Path) -> None:
    record = plain_conn(
        ended_ns=NULL,
        close_reason=CloseReason.OPEN,
        initiator=Initiator.UNKNOWN,
        fin_wait1_ns=NULL,
        established_ns=5 * S,
        state=1,
        exchanges=1,
    )
    found = course_of(tmp_path, record, [at(10)])
    end = found.entries[-1]
    assert isinstance(end, End) and end.reason == "open" and end.initiator is None
    assert end.start_ns == found.duration_ns and end.start_ns > 50 * S


def open_before(**fields: Any) -> np.ndarray:
    unseen = ("started_ns", "handshake_ns", "handshake_exact", "syn_sent_ns", "established_ns")
    seeded = {"seen_ns": START + 1, "flags": Flag.FIRST_MISSED | Flag.SEEDED}
    return plain_conn(**dict.fromkeys(unseen, NULL) | seeded | fields)


def test_one_that_was_open_before_counts_from_the_start_of_the_recording(tmp_path: Path) -> None:
    found = course_of(tmp_path, open_before(exchanges=1), [at(10)])
    assert (found.origin, found.origin_ns, found.duration_ns) == ("recording", WALL, None)
    before, first, after, end = found.entries
    assert isinstance(before, Gap) and (before.start_ns, before.waits_for) == (0, "first turn")
    assert isinstance(first, Passage) and first.start_ns == begun() - WALL + 10 * MS
    assert isinstance(after, Gap) and isinstance(end, End)
    ended = begun() - WALL + 1000 * MS
    assert found.states == (State("FIN_WAIT1", pytest.approx(ended - 9 * MS, abs=2000), 9 * MS),)


@pytest.mark.parametrize(("pipelined", "waits_for"), [(3, "stream"), (0, "quiet")])
def test_one_that_was_only_ever_open_has_a_place_in_time(
    tmp_path: Path, pipelined: int, waits_for: str
) -> None:
    fields = {"ended_ns": NULL, "close_reason": CloseReason.OPEN, "fin_wait1_ns": NULL}
    found = course_of(tmp_path, open_before(pipelined=pipelined, **fields))
    stream, end = found.entries
    assert isinstance(stream, Gap) and (stream.start_ns, stream.waits_for) == (0, waits_for)
    assert isinstance(end, End) and stream.duration_ns == end.start_ns > 50 * S


def test_one_that_the_kernel_hid_at_first_counts_from_what_was_seen(tmp_path: Path) -> None:
    record = open_before(flags=Flag.FIRST_MISSED, seen_ns=AFTER, exchanges=1)
    found = course_of(tmp_path, record, [at(10)])
    assert found.origin == "first seen" and found.duration_ns is None
    assert isinstance(found.entries[0], Passage) and found.entries[0].start_ns == 0


def test_events_are_told_in_their_place_with_their_cause(tmp_path: Path) -> None:
    def again(ms: int, **fields: Any) -> np.ndarray:
        usual = {"connection_id": 1, "state": 1, "tcp_flags": 0x18, "length_bytes": 700}
        return event(Kind.RETRANSMIT, **usual | {"time_ns": AFTER + ms * MS} | fields)

    drop = {"time_ns": AFTER + 60 * MS, "reason": 3}
    found = course_of(
        tmp_path,
        plain_conn(),
        events=(
            again(0, state=2, tcp_flags=2, length_bytes=0),
            again(10, ca_state=4, pending=0),
            again(20, ca_state=3),
            again(30, ca_state=0, pending=5),
            again(40, ca_state=4, pending=1),
            again(50, tcp_flags=1, length_bytes=0),
            again(55, connection_id=99),
            event(Kind.DROP, **drop),
            event(Kind.DROP, **drop | {"remote_port": 444}),
            event(Kind.DROP, **drop | {"netns": 8}),
            event(Kind.DROP, **drop | {"netns": NULL, "reason": 77}),
            event(Kind.DROP, **drop | {"time_ns": AFTER + 2 * S}),
            event(Kind.RESET_SENT, connection_id=1, time_ns=AFTER + 2 * S, reason=2),
        ),
    )
    told = [entry.event for entry in found.entries if isinstance(entry, Happening)]
    assert [(each.what, each.of, each.detail, each.bytes) for each in told] == [
        ("retransmission", "SYN", None, None),
        ("retransmission", "data", "RTO", 700),
        ("retransmission", "data", "fast retransmit", 700),
        ("retransmission", "data", "tail loss probe", 700),
        ("retransmission", "data", "recovery after an RTO", 700),
        ("retransmission", "FIN", None, None),
        ("drop", None, "NO_SOCKET", None),
        ("drop", None, "77", None),
        ("reset sent", None, "NO_SOCKET", None),
    ]


def test_a_repeated_synack_belongs_to_the_handshake_it_was_part_of(tmp_path: Path) -> None:
    record = plain_conn(
        role=2,
        synack_retransmits=1,
        local_port=443,
        remote_port=40000,
        seen_ns=AFTER + 3 * S,
        ended_ns=AFTER + 9 * S,
    )
    ports = {"local_port": 443, "remote_port": 40000}
    found = course_of(tmp_path, record, events=(synack(**ports), synack(**ports, time_ns=AFTER + 20 * S)))
    told = [entry for entry in found.entries if isinstance(entry, Happening)]
    assert [(each.event.of, each.start_ns) for each in told] == [("SYN-ACK", pytest.approx(S, abs=2000))]
    handshake = found.entries[0]
    assert isinstance(handshake, Handshake) and (handshake.repeats, handshake.duration_ns) == (1, 3 * S)


def test_of_many_events_the_middle_is_counted(tmp_path: Path) -> None:
    many = tuple(
        event(Kind.RETRANSMIT, connection_id=1, state=1, time_ns=AFTER + ms * MS, length_bytes=1)
        for ms in range(100)
    )
    found = course_of(tmp_path, plain_conn(), events=many)
    told = [entry for entry in found.entries if isinstance(entry, Happening)]
    left = [entry for entry in found.entries if isinstance(entry, Omission)]
    assert len(told) == 2 * course_module.EVENTS
    assert [each.events for each in left] == [100 - len(told)]


def test_holds_over_the_whole_connection_leave_out_what_is_not_known(tmp_path: Path) -> None:
    found = course_of(tmp_path, plain_conn(held_nagle_ns=5, held_cork_ns=0))
    assert found.held == {"nagle": 5, "cork": 0}


def test_an_id_that_does_not_exist_has_no_course(tmp_path: Path) -> None:
    trace = read(synthetic.write_trace(tmp_path / "t.tct", conn()))
    assert course(trace, connections(trace), rows(), 7) is None


@cache
def an_empty_trace() -> Trace:
    with TemporaryDirectory() as directory:
        return read(synthetic.write_trace(Path(directory) / "t.tct"))


@settings(deadline=None)  # other work on the machine takes its time
@given(totals=st.lists(st.integers(0, 10**9), max_size=120))
def test_the_chosen_are_the_edges_the_slowest_and_those_alone_between_them(totals: list[int]) -> None:
    chosen = course_module._chosen(totals)
    assert chosen == sorted(set(chosen)) and min(len(totals), 24) <= len(chosen) <= 33
    assert {*range(8), *range(len(totals) - 8, len(totals))} & set(range(len(totals))) <= set(chosen)
    left = [place for place in range(len(totals)) if place not in chosen]
    # Eight in the middle are at least as slow as whatever is left out, of which none is alone.
    assert all(sum(totals[each] >= totals[place] for each in chosen[8:-8]) >= 8 for place in left)
    assert all({place - 1, place + 1} & set(left) for place in left)


@settings(deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300), st.integers(0, 40)), max_size=40),
    exchanges=st.none() | st.integers(0, 60),
)
def test_whatever_overlaps_or_is_out_of_order_no_time_is_negative(
    turns: list[tuple[int, int, int]], exchanges: int | None
) -> None:
    """A forged file may hold turns that overlap, repeat or run beyond their connection."""
    row = turn_rows.conn(
        started_ns=turn_rows.START,
        ended_ns=turn_rows.START + 1000 * MS,
        exchanges=exchanges,
        established_ns=998 * MS,
    )
    own = [turn(total * MS, seq=seq, started_ns=turn_rows.START + start * MS) for start, total, seq in turns]
    found = course(an_empty_trace(), turn_rows.conns(row), rows(*own), 1)
    assert found is not None
    assert all(entry.duration_ns >= 0 for entry in found.entries if isinstance(entry, Gap | Omission))
    assert [entry.start_ns for entry in found.entries] == sorted(entry.start_ns for entry in found.entries)
    passages = sum(isinstance(entry, Passage) for entry in found.entries)
    left = sum(entry.recorded for entry in found.entries if isinstance(entry, Omission))
    assert passages + left == len(own) == found.recorded
