"""Changes promise what was measured, for whom, and say whether one alone is enough."""

import json
from typing import Any

import pyarrow as pa
import pytest
from turn_rows import MS, START, accepted, conn, conns, rows, server, summed, sums, turn

from tcptrace.analysis.advice import Change
from tcptrace.analysis.budget import pieces
from tcptrace.analysis.floor import Floor, of_round_trip
from tcptrace.analysis.question import Answer, answers, totals

ENDS = (conn(handshake_ns=None), accepted(), conn(3, remote_addr="10.0.0.9", comm="cron", handshake_ns=None))


def asked(
    table: pa.Table, *ends: dict[str, Any], several: pa.Table | None = None, **kwargs: Any
) -> list[Answer]:
    everything = pieces(table, sums() if several is None else several)
    return answers(everything, conns(*(ends or ENDS)), **kwargs)


def changes(table: pa.Table, *ends: dict[str, Any], **kwargs: Any) -> list[Change]:
    found = [change for answer in asked(table, *ends, **kwargs) for change in answer.changes]
    json.dumps([change.json() for change in found], allow_nan=False)
    for change in found:
        assert 0 < change.saving_ns <= change.measured_ns
    return found


def only(table: pa.Table, *ends: dict[str, Any], **kwargs: Any) -> Change:
    (one,) = changes(table, *ends, **kwargs)
    return one


def test_nagle_is_named_with_whom_it_held_and_what_to_set() -> None:
    table = rows(*[turn(nagle_ns=41_200_000, network_ns=MS, seq=seq, writes=2) for seq in range(5)])
    one = only(table)
    assert one.what == "Nagle held 41.2 ms per exchange on 10.0.0.2:5000, owner order-gw"
    assert one.do == "set TCP_NODELAY, or write the request with one call (2 calls now)"
    assert (one.cause, one.saving_ns, one.measured_ns, one.whole_ns) == (
        *("nagle_ns", 41_200_000, 42_200_000),
        41_200_000,
    )
    assert not one.at_most and not one.estimated and one.reaches_target is None
    assert one.key == {
        "side": "client",
        "remote_addr": "10.0.0.2",
        "remote_port": 5000,
        "comm": "order-gw",
    }


def test_a_delayed_ack_is_said_in_how_many_of_the_held_exchanges() -> None:
    late = [turn(nagle_ns=40 * MS, delayed_ack=True, seq=seq) for seq in range(3)]
    own = [turn(nagle_ns=40 * MS, seq=3), turn(MS, seq=4, delayed_ack=True)]
    unknown = [turn(nagle_ns=40 * MS, delayed_ack=None, seq=5)]
    note = only(rows(*late, *own, *unknown)).note
    assert "delayed its ACK in 75 % of the exchanges that were held" in note
    assert only(rows(*unknown)).note == ""


def test_an_ambiguous_hold_is_marked() -> None:
    one = only(rows(turn(nagle_ns=40 * MS, hold_ambiguous=True)))
    assert one.estimated
    assert one.what.startswith("Nagle held ~40.0 ms")
    assert "MSG_MORE" in one.note


def test_a_saving_is_of_its_group_and_in_its_share_of_all() -> None:
    table = rows(turn(nagle_ns=30 * MS, connection_id=3), *[turn(MS, seq=seq) for seq in range(9)])
    one = only(table)
    assert (one.exchanges, one.saving_ns, one.whole_ns) == (1, 30 * MS, 3 * MS)
    assert "on 10.0.0.9:5000, owner cron" in one.what


def test_processes_of_one_program_are_one_owner() -> None:
    ends = [conn(number, pid=number, handshake_ns=None) for number in (1, 3)]
    assert only(rows(turn(nagle_ns=MS), turn(nagle_ns=MS, connection_id=3)), *ends).exchanges == 2


def test_sums_of_exchanges_without_rows_count() -> None:
    table, several = rows(turn(nagle_ns=MS)), sums(summed(3, nagle_ns=9 * MS, writes=6))
    one = only(table, several=several)
    assert (one.exchanges, one.saving_ns) == (4, 2_500_000)
    assert "(1.8 calls now)" in one.do


@pytest.mark.parametrize(("target", "reaches"), [(9 * MS, False), (10 * MS, True), (11 * MS, True)])
def test_a_change_says_whether_it_reaches_the_target_alone(target: int, reaches: bool) -> None:
    one = only(rows(turn(50 * MS, nagle_ns=40 * MS)), target_ns=target)
    assert one.reaches_target is reaches


@pytest.mark.parametrize(
    ("stage", "start", "do", "at_most"),
    [
        ("cork_ns", "TCP_CORK or MSG_MORE held 8.00 ms per exchange on", "take the cork off", False),
        ("cwnd_ns", "the congestion window held", "initcwnd", True),
        ("rwnd_ns", "the other end's receive window held", "SO_RCVBUF", True),
        ("sndbuf_ns", "a full send buffer blocked writes for", "SO_SNDBUF", True),
        ("pacing_ns", "pacing held", "SO_MAX_PACING_RATE", True),
        ("kernel_tx_ns", "the kernel took", "qdisc", True),
        ("kernel_rx_ns", "the kernel took", "RPS", True),
        ("wakeup_ns", "waiting for a CPU took", "give order-gw CPU", False),
        ("app_ns", "the application itself spent", "before the first write", True),
        ("app_late_ns", "the answer was there and not read for", "event loop", True),
        ("transfer_ns", "receiving the answer", "`tcptrace record --port 5000`", True),
        ("peer_ns", "the other end took", "`tcptrace record --port 5000`", True),
    ],
)
def test_each_stage_has_its_change(stage: str, start: str, do: str, at_most: bool) -> None:
    one = only(rows(turn(10 * MS, **{stage: 8 * MS}, network_exact=None)))
    assert (one.cause, one.saving_ns, one.at_most) == (stage, 8 * MS, at_most)
    assert one.what.startswith(start) and "on 10.0.0.2:5000, owner order-gw" in one.what
    assert do in one.do


def test_pacing_names_the_congestion_control() -> None:
    ends = [conn(1, congestion_control="bbr"), conn(3, congestion_control=None)]
    assert (
        "(bbr now)" in only(rows(turn(pacing_ns=90 * MS), turn(pacing_ns=90 * MS, connection_id=3)), *ends).do
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rto", "waiting for the retransmission timer (RTO) after a loss cost"),
        ("fast", "losses that duplicate ACKs told of (fast retransmit) cost"),
        ("tlp", "lost last segments that a tail loss probe found cost"),
        ("rto+tlp", "waiting for the retransmission timer (RTO) after a loss and lost last segments"),
        (None, "recovering from losses cost"),
    ],
)
def test_losses_are_told_by_their_kind(kind: str | None, words: str) -> None:
    one = only(rows(turn(loss_recovery_ns=200 * MS, retransmits=1, retransmit_kind=kind)))
    assert one.what.startswith(words) and "200 ms per exchange on" in one.what
    assert one.cause == "loss_recovery_ns" and "ethtool -S" in one.do


def test_losses_of_several_kinds_are_several_changes_that_add_up() -> None:
    table = rows(
        turn(loss_recovery_ns=200 * MS, retransmit_kind="rto"),
        turn(loss_recovery_ns=20 * MS, retransmit_kind="tlp"),
        turn(2 * MS),
    )
    assert [change.saving_ns for change in changes(table)] == [66_666_667, 6_666_667]


def test_the_route_is_what_the_network_takes_above_the_floor() -> None:
    table = rows(turn(network_ns=2 * MS))
    one = only(table, floor=of_round_trip(500_000))
    assert (one.cause, one.saving_ns, one.at_most, one.estimated) == (
        "route_excess_ns",
        1_500_000,
        True,
        True,
    )
    assert one.what.startswith("the network took ~1.50 ms per exchange more than the floor on 10.0.0.2:5000")
    assert "server nearer by" in one.do
    assert changes(table) == []
    assert changes(table, floor=of_round_trip(3 * MS)) == []


def test_a_connection_for_every_request_is_told_to_keep_it_open() -> None:
    ends = [conn(n, started_ns=START + n * 10 * MS, handshake_ns=20 * MS) for n in range(1, 11)]
    table = rows(*[turn(MS, n, started_ns=START + n * 10 * MS + 1) for n in range(1, 11)])
    one = only(table, *ends, target_ns=3 * MS)
    assert (one.cause, one.saving_ns, one.measured_ns) == ("setup_ns", 18 * MS, 21 * MS)
    assert one.what == (
        "setting up connections cost 20.0 ms per exchange on 10.0.0.2:5000, owner order-gw "
        "(10 connections for 10 exchanges)"
    )
    assert one.do == "keep connections open and reuse them: 1 would have been enough"
    assert one.reaches_target


def test_a_single_connection_has_nothing_to_save_in_set_up() -> None:
    assert changes(rows(turn(MS)), conn(handshake_ns=20 * MS)) == []


def test_what_is_less_than_a_hundredth_is_not_listed() -> None:
    assert changes(rows(turn(100 * MS, nagle_ns=999_999))) == []
    assert only(rows(turn(100 * MS, nagle_ns=MS))).saving_ns == MS


def test_a_server_is_told_by_its_port() -> None:
    app, nagle = changes(rows(server(app_ns=8 * MS, nagle_ns=2 * MS)))
    assert (
        app.what
        == "the application took 8.00 ms per exchange to make its answer at port 5000, owner order-db"
    )
    assert app.do.startswith("profile order-db")
    assert nagle.do.startswith("set TCP_NODELAY, or write the answer with one call")
    assert nagle.key == {"side": "server", "port": 5000, "comm": "order-db"}


def joined(**fields: Any) -> dict[str, Any]:
    return turn(network_exact=True, peer_connection_id=2, **fields)


def test_with_both_ends_the_other_end_is_taken_apart_by_its_own_stages() -> None:
    table = rows(
        joined(peer_ns=10 * MS, peer_seq=7),
        turn(peer_ns=10 * MS, seq=1),
        server(app_ns=8 * MS, nagle_ns=2 * MS, seq=7),
        server(app_ns=99 * MS, seq=8),
    )
    client = asked(table)[0]
    found = {change.cause: change for change in client.changes}
    assert list(found) == ["peer_ns", "app_ns", "nagle_ns"]
    assert found["peer_ns"].saving_ns == 5 * MS  # of the exchange whose other end is not known
    assert found["app_ns"].key["side"] == "server"
    assert (found["app_ns"].exchanges, found["app_ns"].saving_ns, found["app_ns"].whole_ns) == (
        *(1, 8 * MS),
        4 * MS,
    )


def test_what_the_trace_has_already_need_not_be_recorded() -> None:
    alone = only(rows(server(transfer_ns=MS)))
    assert alone.do == "make it smaller, or see what holds it at the client: record there, too"
    both = only(rows(server(transfer_ns=MS, peer_connection_id=1, peer_seq=0)))
    assert both.do == "make it smaller, or see what holds it at the client: it is in this trace"


def test_a_server_can_save_a_client_no_more_than_the_client_waited_for_it() -> None:
    table = rows(joined(peer_ns=3 * MS, transfer_ns=MS, peer_seq=0), server(app_ns=50 * MS))
    found = {change.cause: change for change in asked(table)[0].changes if change.key["side"] == "server"}
    assert found["app_ns"].saving_ns == 4 * MS


def test_what_a_server_does_before_it_has_the_request_is_no_time_that_the_client_waits_for_it() -> None:
    early = {"wakeup_ns": 2 * MS, "transfer_ns": 5 * MS}
    table = rows(
        joined(peer_ns=9 * MS, peer_seq=0),
        joined(peer_ns=9 * MS, peer_seq=1, seq=1),
        server(app_ns=MS, reads=2, **early),
        server(app_ns=MS, reads=1, seq=1, **early),
    )
    found = {change.cause: change for change in asked(table)[0].changes}
    assert {cause: change.saving_ns for cause, change in found.items()} == {"app_ns": MS, "wakeup_ns": MS}


@pytest.mark.parametrize("peer", [(2, 5), (99, 0), (0, 0)])
def test_a_row_whose_other_end_is_not_in_the_table_is_joined_with_nothing(peer: tuple[int, int]) -> None:
    one = joined(peer_ns=MS, peer_seq=peer[1]) | {"peer_connection_id": peer[0]}
    assert [change.key["side"] for change in asked(rows(one, server(app_ns=MS)))[0].changes] == []


def test_hostile_names_stay_as_they_are_for_whoever_shows_them() -> None:
    evil = "{0}{time}%s\x1b]0;x\x07"
    one = only(rows(turn(app_late_ns=MS)), conn(comm=evil, handshake_ns=None))
    assert one.what.endswith(f"owner {evil}")


def test_a_target_without_a_floor_and_a_floor_at_a_server() -> None:
    table = rows(turn(network_ns=2 * MS), server(app_ns=MS))
    client, serving = asked(table, floor=Floor(MS), target_ns=MS)
    assert client.gap.over_ns == MS and serving.gap.over_ns == 0
    assert serving.gap.floor is None
    assert [step.name for step in client.gap.steps] == ["floor_ns", "route_excess_ns"]
    (client,) = asked(table, sides=["client"], target_ns=MS)
    assert [step.name for step in client.gap.steps] == ["network_ns"]


def test_groups_have_their_own_steps_unless_they_are_times() -> None:
    table = rows(turn(network_ns=2 * MS), turn(network_ns=4 * MS, connection_id=3))
    (client,) = asked(table, floor=Floor(MS))
    assert [gap.measured_ns for gap in client.gaps] == [4 * MS, 2 * MS]
    assert client.gap.measured_ns == 3 * MS
    assert asked(table, by=["time"])[0].gaps == []
    (client,) = asked(table, limit=1)
    assert (len(client.groups), len(client.gaps), client.of) == (1, 1, 2)


def test_totals_count_rows_and_exchanges_without() -> None:
    made = totals(pieces(rows(turn(5), turn(7), server(9)), sums(summed(3, total_ns=90))))
    nothing = dict.fromkeys(("p90_ns", "p99_ns"))
    assert made == {
        "rows": 3,
        "summed": 3,
        "sampling": 0.5,
        "by_side": {"client": 5, "server": 1},
        "client": {"n": 2, "p50_ns": 5, **nothing, "max_ns": 7},
        "server": {"n": 1, "p50_ns": 9, **nothing, "max_ns": 9},
    }
    assert totals(pieces(rows(), sums()))["sampling"] is None
