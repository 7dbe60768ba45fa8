"""From the floor to what was measured: steps that add up, set-up in its share."""

import json
from typing import Any

import pyarrow as pa
import pytest
from turn_rows import MS, START, accepted, conn, conns, rows, server, summed, sums, turn

from tcptrace.analysis.budget import budgets, pieces
from tcptrace.analysis.floor import Floor, of_distance, of_round_trip
from tcptrace.analysis.gap import Gap, gap
from tcptrace.analysis.setup import Setup, setup


def gap_of(
    table: pa.Table,
    floor: Floor | None = None,
    target_ns: int | None = None,
    *,
    ends: pa.Table | None = None,
    several: pa.Table | None = None,
    with_setup: bool = True,
) -> Gap:
    own = pieces(table, sums() if several is None else several)
    ends = conns(conn(handshake_ns=None)) if ends is None else ends
    (one,) = budgets(own, ends, [])
    made = gap(one, setup(own, ends) if with_setup else None, floor, target_ns)
    json.dumps(made.json(), allow_nan=False)
    assert sum(step.ns for step in made.steps) == made.measured_ns
    return made


def steps(made: Gap) -> dict[str, int]:
    return {step.name: step.ns for step in made.steps}


def marked(made: Gap) -> list[str]:
    return [step.name for step in made.steps if step.estimated]


def setup_of(table: pa.Table, *ends: dict[str, Any], several: pa.Table | None = None) -> Setup:
    return setup(pieces(table, sums() if several is None else several), conns(*ends))


def test_the_steps_lead_from_the_floor_to_what_was_measured_largest_first() -> None:
    made = gap_of(
        rows(turn(nagle_ns=MS, network_ns=2 * MS, peer_ns=300_000, app_ns=0, total_ns=4 * MS)),
        of_round_trip(500_000),
        1 * MS,
    )
    assert list(steps(made).items()) == [
        ("floor_ns", 500_000),
        ("route_excess_ns", 1_500_000),
        ("nagle_ns", MS),
        ("unattributed_ns", 700_000),
        ("peer_ns", 300_000),
    ]
    assert (made.mean_ns, made.measured_ns, made.over_ns) == (4 * MS, 4 * MS, 3 * MS)
    assert made.json()["floor"]["round_trip_ns"] == 500_000


def test_without_a_floor_the_network_is_one_of_the_steps() -> None:
    made = gap_of(rows(turn(network_ns=MS, kernel_tx_ns=5)))
    assert steps(made) == {"network_ns": MS, "kernel_tx_ns": 5}
    assert made.over_ns is None and made.json()["floor"] is None


def test_a_floor_above_the_network_is_said_and_still_adds_up() -> None:
    made = gap_of(rows(turn(network_ns=MS)), of_distance(1000 * 10**6))
    assert made.below_floor
    assert steps(made) == {"floor_ns": MS}


def test_a_floor_under_an_unknown_network_is_no_step() -> None:
    made = gap_of(rows(turn(3 * MS, network_ns=None, peer_ns=None, app_ns=MS)), of_round_trip(MS))
    assert steps(made) == {"unattributed_ns": 2 * MS, "app_ns": MS}
    assert not made.below_floor
    assert made.unknown == ["network_ns", "peer_ns"]


def test_what_is_estimated_is_marked() -> None:
    made = gap_of(rows(turn(network_ns=MS, peer_ns=5, nagle_ns=7, app_ns=1)), of_round_trip(9))
    assert marked(made) == ["route_excess_ns", "peer_ns"]
    exact = gap_of(rows(turn(network_ns=MS, peer_ns=5, network_exact=True)), of_round_trip(9))
    assert marked(exact) == []
    unsure = gap_of(rows(turn(nagle_ns=MS, hold_ambiguous=True)))
    assert marked(unsure) == ["nagle_ns"]


def test_setting_up_is_spread_over_the_exchanges_that_the_connection_served() -> None:
    table = rows(*[turn(app_ns=MS, seq=seq) for seq in range(10)])
    made = gap_of(table, ends=conns(conn(handshake_ns=20 * MS)))
    assert steps(made) == {"setup_ns": 2 * MS, "app_ns": MS}
    assert (made.mean_ns, made.measured_ns) == (MS, 3 * MS)
    assert marked(made) == []
    made = gap_of(table, ends=conns(conn(handshake_ns=20 * MS, handshake_exact=False)))
    assert marked(made) == ["setup_ns"]
    several = sums(summed(10, app_ns=10 * MS))
    made = gap_of(table, ends=conns(conn(handshake_ns=20 * MS)), several=several)
    assert steps(made)["setup_ns"] == MS


def test_a_server_has_no_set_up_of_its_own() -> None:
    made = gap_of(rows(server(app_ns=MS)), ends=conns(accepted()), with_setup=False)
    assert steps(made) == {"app_ns": MS}


def test_only_connections_that_connected_in_view_cost_anything() -> None:
    table = rows(turn(5, 1), turn(5, 3), turn(5, 4), turn(5, 99))
    made = setup_of(
        table, conn(1), conn(3, handshake_ns=None, left_censored=True), conn(4, role="passive"), conn(5)
    )
    assert (made.connections, made.timed, made.handshakes_ns, made.exchanges) == (3, 1, 500_000, 4)
    assert made.each_ns == 125_000


def test_no_connection_at_all_costs_nothing() -> None:
    made = setup_of(rows(turn(5, 99)))
    assert (made.connections, made.pool, made.each_ns, made.saving_ns, made.exact) == (0, 0, 0, 0, True)


def one_after_another(number: int, gap_ns: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Connections of 0.5 ms handshake and one exchange of 1 ms each; each is closed 10 ms later."""
    ends, turns = [], []
    for place in range(number):
        start = START + place * gap_ns
        ends.append(conn(place + 1, started_ns=start, ended_ns=start + 12 * MS))
        turns.append(turn(MS, place + 1, started_ns=start + 500_000))
    return ends, turns


def test_requests_one_after_another_need_one_connection_however_slowly_the_old_ones_close() -> None:
    ends, turns = one_after_another(10, 2 * MS)
    made = setup_of(rows(*turns), *ends)
    assert (made.pool, made.kept_ns, made.timed) == (1, 500_000, 10)
    assert made.each_ns == 500_000
    assert made.saving_ns == 450_000


def test_the_next_may_begin_when_the_last_exchange_ends() -> None:
    ends, turns = one_after_another(10, 1_500_000)
    assert setup_of(rows(*turns), *ends).pool == 1


def test_requests_at_the_same_time_need_as_many_connections() -> None:
    ends, turns = one_after_another(10, 500_000)
    made = setup_of(rows(*turns), *ends)
    assert made.pool == 3
    assert made.saving_ns == 350_000


def test_a_connection_with_exchanges_in_sums_is_in_use_until_it_ends() -> None:
    ends, turns = one_after_another(10, 2 * MS)
    several = sums(*[one | {"exchanges": 2} for one in turns])
    assert setup_of(rows(), *ends, several=several).pool == 6
    still_open = [end | {"ended_ns": None} for end in ends]
    assert setup_of(rows(), *still_open, several=several).pool == 10


def test_what_a_pool_keeps_are_the_longest_handshakes() -> None:
    ends, turns = one_after_another(3, 2 * MS)
    ends[1]["handshake_ns"] = 1001 * MS
    made = setup_of(rows(*turns), *ends)
    assert made.kept_ns == 1001 * MS
    assert made.saving_ns == pytest.approx(MS / 3, abs=1)
