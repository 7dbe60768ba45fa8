"""Both ends of a connection, and of a turn, are found where they are in the trace, and never taken for
others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from conversations import FIRST_SERVER_ID, Ends, conversations, open_before
from hypothesis import given, settings
from hypothesis import strategies as st
from test_connections import AFTER, address, conn

from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges, sums
from tcptrace.analysis.pairs import other_ends, rough_isns
from tcptrace.trace.reader import read
from tcptrace.trace.wire import Kind, Role, Side

S = 10**9
MIRROR = {
    "local_addr": address("192.0.2.2"),
    "remote_addr": address("192.0.2.1"),
    "local_port": 443,
    "remote_port": 40000,
    "role": Role.PASSIVE,
}


def pairs(tmp_path: Path, *records: np.ndarray) -> dict[int, int]:
    (tmp_path / "t.tct").unlink(missing_ok=True)
    trace = read(synthetic.write_trace(tmp_path / "t.tct", np.concatenate(records)))
    made = connections(trace)
    ids, ends = made["connection_id"].to_pylist(), other_ends(made, rough_isns(trace, made)).tolist()
    return {ids[row]: ids[end] for row, end in enumerate(ends) if end >= 0}


def test_ends_with_each_others_addresses_and_sequence_numbers_are_one_connection(tmp_path: Path) -> None:
    client, server = {"snd_isn": 5, "rcv_isn": 9, "netns": 7}, {"snd_isn": 9, "rcv_isn": 5, "netns": 8}
    assert pairs(tmp_path, conn(1, **client), conn(2, **server | MIRROR)) == {1: 2, 2: 1}


@pytest.mark.parametrize(
    "other",
    [
        {"rcv_isn": 6},
        {"snd_isn": 8},
        {"snd_isn": 5, "rcv_isn": 9},
        {"local_port": 444},
        {"remote_port": 40001},
        {"local_addr": address("192.0.2.3")},
        {"remote_addr": address("2001:db8::1")},
    ],
)
def test_ends_that_differ_in_anything_are_none(tmp_path: Path, other: dict[str, Any]) -> None:
    server = MIRROR | {"snd_isn": 9, "rcv_isn": 5} | other
    assert pairs(tmp_path, conn(1, snd_isn=5, rcv_isn=9), conn(2, **server)) == {}


def test_the_sequence_numbers_tell_reused_ports_apart(tmp_path: Path) -> None:
    got = pairs(
        tmp_path,
        *(conn(number, snd_isn=number, rcv_isn=50 + number) for number in (1, 2, 3)),
        *(conn(10 + number, snd_isn=50 + number, rcv_isn=number, **MIRROR) for number in (3, 1, 2)),
    )
    assert got == {1: 11, 2: 12, 3: 13, 11: 1, 12: 2, 13: 3}


def test_two_rows_that_could_be_the_other_end_are_neither(tmp_path: Path) -> None:
    server = MIRROR | {"snd_isn": 9, "rcv_isn": 5}
    assert pairs(tmp_path, conn(1, snd_isn=5, rcv_isn=9), conn(2, **server), conn(3, **server)) == {}


def test_a_socket_connected_to_itself_is_not_its_own_other_end(tmp_path: Path) -> None:
    own = {"remote_addr": address("192.0.2.1"), "remote_port": 40000, "snd_isn": 5, "rcv_isn": 5}
    assert pairs(tmp_path, conn(1, **own)) == {}


def test_mapped_addresses_are_those_of_ipv4(tmp_path: Path) -> None:
    server = MIRROR | {"snd_isn": 9, "rcv_isn": 5, "v4_mapped": 1}
    assert pairs(tmp_path, conn(1, snd_isn=5, rcv_isn=9), conn(2, **server)) == {1: 2, 2: 1}


@pytest.mark.parametrize(
    ("server", "want"),
    [
        ({}, True),
        ({"rcv_isn": 5}, True),
        ({"rcv_isn": 6}, False),
        ({"snd_isn": 8}, False),
        ({"started_ns": AFTER + 2 * S, "ended_ns": AFTER + 3 * S}, False),
        ({"started_ns": -1, "ended_ns": -1}, True),
    ],
)
def test_without_a_sequence_number_time_must_agree(
    tmp_path: Path, server: dict[str, Any], want: bool
) -> None:
    got = pairs(tmp_path, conn(1, snd_isn=5, rcv_isn=9), conn(2, **MIRROR | server))
    assert got == ({1: 2, 2: 1} if want else {})


LATE = {"started_ns": AFTER + 9 * S, "ended_ns": AFTER + 10 * S}


@pytest.mark.parametrize(("own", "want"), [(9, True), (10, True), (11, False), (8, False), (-1, False)])
@pytest.mark.parametrize("client", [{"snd_isn": 5}, {"snd_isn": 5, "role": Role.UNKNOWN}])
def test_an_end_of_unknown_role_may_count_one_more(
    tmp_path: Path, client: dict[str, Any], own: int, want: bool
) -> None:
    server = MIRROR | {"snd_isn": own, "rcv_isn": 5, "role": Role.UNKNOWN} | LATE
    got = pairs(tmp_path, conn(1, rcv_isn=9, **client), conn(2, **server))
    assert got == ({1: 2, 2: 1} if want else {})


def test_an_end_that_may_count_one_more_and_fits_two_is_neithers(tmp_path: Path) -> None:
    rough = {"snd_isn": 10, "rcv_isn": 5, "role": Role.UNKNOWN}
    ours = [conn(1, snd_isn=5, rcv_isn=9), conn(3, snd_isn=5, rcv_isn=10)]
    assert pairs(tmp_path, *ours, conn(2, **MIRROR | rough | LATE)) == {}


def test_a_number_that_may_be_one_more_is_no_initial_sequence_number(tmp_path: Path) -> None:
    trace = read(synthetic.write_trace(tmp_path / "t.tct", conn(1, snd_isn=5, role=Role.UNKNOWN)))
    assert connections(trace)["snd_isn"].to_pylist() == [None]


def test_without_a_sequence_number_two_at_the_same_time_are_neither(tmp_path: Path) -> None:
    assert pairs(tmp_path, conn(1), conn(2, **MIRROR), conn(3, **MIRROR)) == {}
    assert pairs(tmp_path, conn(1), conn(2), conn(3, **MIRROR)) == {}
    later = {"started_ns": AFTER + 2 * S, "ended_ns": AFTER + 3 * S}
    got = pairs(tmp_path, conn(1), conn(2, **later), conn(3, **MIRROR), conn(4, **MIRROR | later))
    assert got == {1: 3, 3: 1, 2: 4, 4: 2}


def test_a_known_pair_leaves_the_unknown_one(tmp_path: Path) -> None:
    got = pairs(
        tmp_path,
        conn(1, snd_isn=5, rcv_isn=9),
        conn(2, **MIRROR | {"snd_isn": 9, "rcv_isn": 5}),
        conn(3, rcv_isn=8),
        conn(4, **MIRROR),
    )
    assert got == {1: 2, 2: 1, 3: 4, 4: 3}


def test_hundreds_on_the_same_ports_without_sequence_numbers_are_left_alone(tmp_path: Path) -> None:
    ours = [conn(number) for number in range(1, 200)]
    theirs = [conn(number, **MIRROR) for number in range(200, 400)]
    assert pairs(tmp_path, *ours, *theirs) == {}


# ---- turns ----


def rows(tmp_path: Path, ends: Ends, turns: np.ndarray | None = None) -> list[dict[str, Any]]:
    path = tmp_path / "t.tct"
    path.unlink(missing_ok=True)
    synthetic.write_trace(path, ends.connections, exchanges=ends.turns if turns is None else turns)
    trace = read(path)
    return exchanges(trace, connections(trace)).to_pylist()


def truth(ends: Ends) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Client's (connection, seq) -> (server's connection, seq, true network)."""
    keys = [zip(turns["connection_id"], turns["seq"], strict=True) for turns in (ends.clients, ends.servers)]
    return {
        (int(a), int(b)): (int(c), int(d), int(network))
        for (a, b), (c, d), network in zip(*keys, ends.network_ns, strict=True)
    }


def check(got: list[dict[str, Any]], want: dict[tuple[int, int], tuple[int, int, int]]) -> int:
    """Every pair is a true one with the true network; how many there are."""
    pairs = 0
    by_key = {(row["connection_id"], row["seq"]): row for row in got}
    for row in got:
        if row["peer_connection_id"] is None:
            continue
        mate = by_key[row["peer_connection_id"], row["peer_seq"]]
        assert (mate["peer_connection_id"], mate["peer_seq"]) == (row["connection_id"], row["seq"])
        if row["side"] == "client":
            pairs += 1
            found = (mate["connection_id"], mate["seq"], row["network_ns"])
            assert want[row["connection_id"], row["seq"]] == found
            assert row["network_exact"] is True
            assert row["peer_ns"] == mate["total_ns"]
        else:
            assert row["network_exact"] is None
    return pairs


def test_with_both_ends_the_network_is_exact(tmp_path: Path) -> None:
    ends = conversations()
    assert check(rows(tmp_path, ends), truth(ends)) == len(ends.clients)


def test_from_one_end_it_is_an_estimate(tmp_path: Path) -> None:
    ends = conversations()
    for row in rows(tmp_path, ends, ends.clients):
        assert row["network_exact"] is False and row["peer_connection_id"] is None
        assert row["network_ns"] + row["peer_ns"] > 0


def test_a_turn_whose_other_end_was_not_recorded_gets_no_other(tmp_path: Path) -> None:
    ends = conversations()
    kept = np.random.default_rng(1).random((2, len(ends.clients))) < 0.5
    turns = np.concatenate([ends.clients[kept[0]], ends.servers[kept[1]]])
    assert check(rows(tmp_path, ends, turns), truth(ends)) == (kept[0] & kept[1]).sum()


def test_the_same_sequence_number_4_gib_later_is_another_turn(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=6)
    for turns in (ends.clients, ends.servers):
        turns["request_end"] = 77
        turns["started_ns"] += np.arange(6) * S // 2
    ends.client_connections["ended_ns"] = ends.server_connections["ended_ns"] = AFTER + 9 * S
    assert check(rows(tmp_path, ends), truth(ends)) == 6
    kept = np.concatenate([ends.clients[[0, 2, 3, 5]], ends.servers[[1, 2, 4, 5]]])
    assert check(rows(tmp_path, ends, kept), truth(ends)) == 2


def test_both_ends_may_ask_on_one_connection(tmp_path: Path) -> None:
    ends = conversations(connections=2, turns=10)
    asked = ends.clients["seq"] % 2 == 1
    ids = ends.clients["connection_id"][asked].copy()
    ends.clients["connection_id"][asked] = ends.servers["connection_id"][asked]
    ends.servers["connection_id"][asked] = ids
    assert check(rows(tmp_path, ends), truth(ends)) == 20


def test_the_server_that_does_not_know_its_residence_leaves_an_estimate(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=3)
    ends.servers["residence_ns"] = -1
    for row in rows(tmp_path, ends):
        if row["side"] == "client":
            assert row["network_exact"] is False and row["peer_connection_id"] == FIRST_SERVER_ID


def test_a_request_that_arrived_before_it_was_sent_again_lost_nothing(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=1, think_ns=50_000_000)
    (client,) = ends.clients
    again = 30_000_000
    client["loss_recovery_ns"], client["wire_ns"] = again, client["wire_ns"] - again
    client["retransmits"] = 1
    first, _ = rows(tmp_path, ends)
    assert first["side"] == "client" and first["loss_recovery_ns"] == 0
    assert first["network_ns"] == ends.network_ns[0] and first["unattributed_ns"] == 0


def test_where_the_other_end_saw_the_repetition_arrive_it_was_a_loss(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=2)
    ends.clients["wire_ns"][0], ends.clients["loss_recovery_ns"][0] = 120_000, 10**9
    ends.servers["residence_ns"][0] = 50_000
    ends.clients["total_ns"][0] += 10**9
    first = rows(tmp_path, ends)[0]  # sooner than the least round trip, 200 us, and yet
    assert (first["loss_recovery_ns"], first["network_ns"], first["peer_ns"]) == (10**9, 70_000, 50_000)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    ports=st.integers(1, 4),
    kept=st.floats(0.3, 1.0),
    isn_known=st.booleans(),
)
def test_pairs_are_never_wrong(
    tmp_path_factory: pytest.TempPathFactory, seed: int, ports: int, kept: float, isn_known: bool
) -> None:
    random = np.random.default_rng(seed)
    ends = conversations(int(random.integers(1, 12)), int(random.integers(1, 12)), seed, ports=ports)
    if not isn_known:
        for records in (ends.client_connections, ends.server_connections):
            for name in ("snd_isn", "rcv_isn"):
                records[name][random.random(len(records)) < 0.3] = -1
    turns = ends.turns[random.random(2 * len(ends.clients)) < kept]
    check(rows(tmp_path_factory.mktemp("pairs"), ends, turns), truth(ends))


def test_turns_that_are_exact_tell_the_others_of_their_connection(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=30)
    open_before(ends.client_connections)
    ends.client_connections["min_sample_ns"] = -1
    several = ends.clients[:1].copy()
    several["kind"], several["summed"] = Kind.EXCHANGES, 1
    turns = np.concatenate([ends.clients, ends.servers[5:], several])
    trace = read(synthetic.write_trace(tmp_path / "t.tct", ends.connections, exchanges=turns))
    made = connections(trace)
    least = ends.network_ns[5:].min()
    found = [row for row in exchanges(trace, made).to_pylist() if row["network_exact"] is False]
    assert [row["network_ns"] for row in found] == [least] * 5
    assert sums(trace, made)["network_ns"].to_pylist() == [least]


def test_sides_are_told(tmp_path: Path) -> None:
    ends = conversations(connections=1, turns=1)
    assert [row["side"] for row in rows(tmp_path, ends)] == [side.name.lower() for side in Side]
