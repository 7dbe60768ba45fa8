"""Where each stage of an exchange lies: bars never overlap and add up, both ends share one axis."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_rows import MS, START, rows, server, turn

from tcptrace.acquire import providers
from tcptrace.analysis import timeline, unknowns
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.analysis.timeline import CHAINS, Span, Turn
from tcptrace.trace.reader import read

NO_HOOKS: dict[str, Any] = {"hooks": []}


def line(row: dict[str, Any], header: dict[str, Any] = NO_HOOKS) -> Turn:
    """The time line of a row as the table gives it."""
    made = rows(row).to_pylist()[0]
    return timeline.turn(made, header)


def adds_up(found: Turn) -> None:
    """Bars lie one behind the other, from 0 to the total, without a hole."""
    spans = sorted(
        (span for bar in found.bars for span in bar.spans if span.duration_ns),
        key=lambda span: span.start_ns,
    )
    assert all(earlier.end_ns == later.start_ns for earlier, later in pairwise(spans))
    assert sum(bar.duration_ns for bar in found.bars) == found.total_ns
    if spans:
        assert (spans[0].start_ns, spans[-1].end_ns) == (0, found.total_ns)
    assert all(span.duration_ns >= 0 for bar in found.bars for span in bar.spans)


lengths = st.none() | st.integers(0, 1 << 55)


@settings(deadline=None)  # other work on the machine takes its time
@given(
    side=st.sampled_from(["client", "server"]),
    stages=st.fixed_dictionaries(dict.fromkeys(STAGES, lengths)),
    rest=st.integers(0, 1 << 55),
    exact=st.none() | st.booleans(),
)
def test_bars_never_overlap_and_add_up_to_the_total(
    side: str, stages: dict[str, int | None], rest: int, exact: bool | None
) -> None:
    stages |= {stage: None for stage in STAGES if stage not in CHAINS[side]}
    total = sum(ns or 0 for ns in stages.values()) + rest
    found = line(turn(total, side=side, network_exact=exact, **stages))
    adds_up(found)
    assert found.bars[-1].stage == UNATTRIBUTED and found.bars[-1].duration_ns == rest
    assert {bar.stage for bar in found.bars} | {each.stage for each in found.unknown} == {
        *CHAINS[side],
        UNATTRIBUTED,
    }
    for bar in found.bars:
        assert bar.duration_ns == (rest if bar.stage == UNATTRIBUTED else stages[bar.stage])


@settings(deadline=None)
@given(
    wire=st.integers(0, 10**9),
    residence=st.integers(0, 10**9),
    before=st.integers(0, 10**9),
    offset=st.integers(-(10**10), 10**10),
    answer=st.integers(0, 10**9),
)
def test_both_ends_add_up_wherever_the_other_one_lies(
    wire: int, residence: int, before: int, offset: int, answer: int
) -> None:
    peer = min(wire, residence)
    own = line(turn(kernel_tx_ns=before, network_ns=wire - peer, peer_ns=peer, network_exact=True))
    other = line(server(started_ns=START + offset, app_ns=residence, kernel_tx_ns=answer))
    for both in (timeline.exchange_line(own, other), timeline.exchange_line(other, own)):
        assert both.other is not None
        adds_up(both.own)
        adds_up(both.other)
        assert both.low_ns <= min(0, both.other_start_ns)
        assert both.high_ns >= max(both.own.total_ns, both.other_start_ns + both.other.total_ns)


@pytest.mark.parametrize("side", ["client", "server"])
def test_stages_follow_the_chain_of_their_end(side: str) -> None:
    known = dict.fromkeys(CHAINS[side], 10)
    found = line((turn if side == "client" else server)(**known))
    order = sorted(found.bars, key=lambda bar: bar.start_ns)
    assert [bar.stage for bar in order] == [*CHAINS[side], UNATTRIBUTED]


def test_the_other_end_lies_between_there_and_back() -> None:
    found = line(turn(kernel_tx_ns=5, network_ns=101, peer_ns=40, kernel_rx_ns=3, network_exact=False))
    network, peer = found.bar("network_ns"), found.bar("peer_ns")
    assert network and peer
    assert network.spans == (Span(5, 50), Span(95, 51)) and peer.spans == (Span(55, 40),)
    assert network.estimated and peer.estimated
    assert not any(bar.estimated for bar in found.bars if bar not in (network, peer))


def test_one_clock_shows_how_the_network_divides() -> None:
    own = line(turn(app_ns=10, network_ns=100, peer_ns=40, kernel_rx_ns=5, network_exact=True))
    other = line(server(app_ns=40, started_ns=START + 10 + 70))
    both = timeline.exchange_line(own, other)
    network, peer = both.own.bar("network_ns"), both.own.bar("peer_ns")
    assert network and peer
    assert network.spans == (Span(10, 70), Span(120, 30)) and peer.spans == (Span(80, 40),)
    assert (both.other_start_ns, both.placement_exact) == (80, True)
    reverse = timeline.exchange_line(other, own)
    assert reverse.other and reverse.other.bar("network_ns") == network
    assert reverse.other_start_ns == -80 and (reverse.low_ns, reverse.high_ns) == (-80, 75)


def test_where_an_answer_of_many_packets_does_not_fit_the_network_stays_in_halves() -> None:
    own = line(turn(network_ns=100, peer_ns=40, transfer_ns=500, network_exact=True))
    other = line(server(app_ns=40, kernel_tx_ns=400, started_ns=START + 50))
    both = timeline.exchange_line(own, other)
    network = both.own.bar("network_ns")
    assert network and network.spans == (Span(0, 50), Span(90, 50))


def test_between_two_clocks_the_place_of_the_other_end_is_estimated() -> None:
    own = line(turn(network_ns=100, peer_ns=40, network_exact=True))
    other = line(server(app_ns=40, started_ns=START - 5 * 10**9 + 50))
    both = timeline.exchange_line(own, other, clock_offset_ns=5 * 10**9)
    assert (both.other_start_ns, both.placement_exact) == (50, False)


def test_an_unknown_stage_says_which_hook_was_missing() -> None:
    header = {"hooks": [{"fact": "waiting for a CPU", "provider": None, "reason": "no such field"}]}
    found = line(turn(kernel_tx_ns=5, wakeup_ns=None, transfer_ns=None), header)
    why = {each.stage: each.why for each in found.unknown}
    assert "waiting for a CPU" in why["wakeup_ns"] and "no such field" in why["wakeup_ns"]
    assert "was not seen" in why["transfer_ns"]
    assert set(why) == {"wakeup_ns", "transfer_ns"}


def test_without_a_round_trip_network_and_other_end_are_not_told_apart() -> None:
    blind = {"network_ns": None, "peer_ns": None}
    split, unseen = line(turn(9, **blind)), line(turn(9, **blind, kernel_rx_ns=None))
    assert ["apart" in each.why for each in split.unknown] == [True, True]
    assert ["apart" in each.why for each in unseen.unknown] == [False, False, False]


def test_reasons_look_for_facts_that_recordings_name() -> None:
    facts = {fact.name for fact in (*providers.LIFECYCLE, *providers.BUDGET)}
    assert set(unknowns._NEEDS) == set(STAGES)
    assert {fact for needed in unknowns._NEEDS.values() for fact in needed} <= facts


def test_a_server_has_no_network_of_which_it_could_be_ignorant() -> None:
    assert line(server(app_ns=5)).unknown == ()


def test_the_other_end_is_found_from_either_row() -> None:
    own = turn(7 * MS, connection_id=1, seq=3, peer_connection_id=2, peer_seq=9)
    other = server(5 * MS, connection_id=2, seq=9)
    table = rows(own, turn(MS, connection_id=1, seq=4), other, server(MS, connection_id=2, seq=10))
    found = timeline.find_row(table, 1, 3)
    assert found is not None and found["total_ns"] == 7 * MS
    mate = timeline.other_row(table, found)
    assert mate is not None and (mate["connection_id"], mate["seq"]) == (2, 9)
    back = timeline.other_row(table, mate)
    assert back is not None and (back["connection_id"], back["seq"]) == (1, 3)
    for lonely in ((1, 4), (2, 10)):
        row = timeline.find_row(table, *lonely)
        assert row is not None and timeline.other_row(table, row) is None
    assert timeline.find_row(table, 1, 5) is None


def test_a_row_without_a_time_has_no_line() -> None:
    nowhere = turn(MS, seq=1) | {"started_ns": None}
    endless = turn(MS, seq=2) | {"total_ns": None}
    table = rows(nowhere, endless)
    assert timeline.find_row(table, 1, 1) is None and timeline.find_row(table, 1, 2) is None


def test_every_exchange_of_a_busy_trace_adds_up(tmp_path: Path) -> None:
    records = synthetic.connections(30)
    path = synthetic.write_trace(tmp_path / "t.tct", records, None, synthetic.exchanges(300, of=records))
    trace = read(path)
    ends = connections(trace)
    table = exchanges(trace, ends)
    for row in table.to_pylist():
        adds_up(timeline.exchange_in(trace, ends, table, row).own)
