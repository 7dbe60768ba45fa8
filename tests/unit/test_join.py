"""Recordings of two hosts become one: the right ends meet, clocks are told apart, the network is exact."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from conversations import FIRST_SERVER_ID, Ends, conversations, open_before
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exchanges import EXTREMES, VALUES, adds_up, base, forged, raw
from test_exchanges_pairs import check, truth

from tcptrace.analysis.clocks import Comparisons, clocks
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges, sums
from tcptrace.analysis.join import Joined, join
from tcptrace.analysis.schema import CONNECTIONS, EXCHANGES, SUMS
from tcptrace.trace import wire
from tcptrace.trace.batch import SCHEMA, column_names, nullable
from tcptrace.trace.reader import Trace, read
from tcptrace.trace.wire import Kind

__all__ = ["base"]  # a fixture

S = 10**9
US = 1000
STEP = 10 ** len(str(FIRST_SERVER_ID))


def written(path: Path, ends: np.ndarray, turns: np.ndarray | None, ahead_ns: int = 0) -> Trace:
    """A trace whose wall clock shows so much more than the usual one of synthetic traces."""
    path.unlink(missing_ok=True)
    started = {"monotonic_ns": synthetic.STARTED_MONOTONIC_NS, "realtime_ns": synthetic.STARTED_REALTIME_NS}
    trace = read(
        synthetic.write_trace(
            path, ends, exchanges=turns, header_changes={"started": started, "seeded": None}
        )
    )
    clock = [(monotonic, realtime + ahead_ns) for monotonic, realtime in trace.clocks]
    return Trace(**{**vars(trace), "clocks": clock})


def both(tmp_path: Path, ends: Ends, ahead_ns: int = 0) -> list[Trace]:
    return [
        written(tmp_path / "client.tct", ends.client_connections, ends.clients),
        written(tmp_path / "server.tct", ends.server_connections, ends.servers, ahead_ns),
    ]


def checked(ends: Ends, joined: Joined) -> int:
    """Every pair is a true one; how many turns are paired."""
    rows = joined.exchanges.to_pylist()
    for row in rows:
        adds_up(row)
        assert row["connection_id"] == row["trace"] * STEP + row["trace_connection_id"]
    want = {key: (STEP + other[0], *other[1:]) for key, other in truth(ends).items()}
    found = check(rows, want)
    assert joined.turns == found
    return found


def test_one_recording_joined_is_itself(tmp_path: Path) -> None:
    ends = conversations()
    trace = written(tmp_path / "t.tct", ends.connections, ends.turns)
    joined, rows = join([trace]), connections(trace)
    assert joined.connections.select(CONNECTIONS.names).equals(rows)
    assert joined.exchanges.select(EXCHANGES.names).equals(exchanges(trace, rows))
    assert joined.sums.select(SUMS.names).equals(sums(trace, rows))
    assert (joined.pairs, joined.turns, joined.unmatched, joined.without_isn) == (0, 0, 0, 0)
    assert joined.clocks[0].reference == joined.clocks[0].ahead_ns == 0


def test_columns_are_those_of_one_recording_and_where_they_come_from(tmp_path: Path) -> None:
    joined = join(both(tmp_path, conversations(2, 2)))
    origin = ["trace", "trace_connection_id"]
    assert joined.connections.schema.names == [*CONNECTIONS.names, *origin, "peer_connection_id"]
    assert joined.exchanges.schema.names == [*EXCHANGES.names, *origin]
    assert joined.sums.schema.names == [*SUMS.names, *origin]


@pytest.mark.parametrize("ahead_ns", [0, 5 * S, -5 * S, 86_400 * S])
def test_every_turn_meets_its_other_end_whatever_the_clocks_show(tmp_path: Path, ahead_ns: int) -> None:
    ends = conversations(ports=1)
    joined = join(both(tmp_path, ends, ahead_ns))
    assert checked(ends, joined) == len(ends.clients)
    assert (joined.pairs, joined.unmatched, joined.without_isn) == (20, 0, 0)
    _, clock = joined.clocks
    assert clock.reference == 0
    assert clock.ahead_ns == pytest.approx(ahead_ns, rel=0, abs=clock.uncertainty_ns)
    assert 100 * US <= clock.uncertainty_ns < 120 * US  # half of 200 us


def test_connections_name_their_other_end(tmp_path: Path) -> None:
    joined = join(both(tmp_path, conversations(5, 2)))
    rows = {row["connection_id"]: row for row in joined.connections.to_pylist()}
    for row in rows.values():
        other = rows[row["peer_connection_id"]]
        assert other["peer_connection_id"] == row["connection_id"]
        assert (other["snd_isn"], other["trace"]) == (row["rcv_isn"], 1 - row["trace"])


def test_moments_are_on_the_first_recordings_time_line(tmp_path: Path) -> None:
    ends = conversations()
    joined = join(both(tmp_path, ends, 5 * S))
    rows = {(row["connection_id"], row["seq"]): row for row in joined.exchanges.to_pylist()}
    bound = joined.clocks[1].uncertainty_ns
    for row in rows.values():
        if row["side"] == "client":
            other = rows[row["peer_connection_id"], row["peer_seq"]]
            assert row["started_ns"] - bound <= other["started_ns"]
            assert other["started_ns"] + other["total_ns"] <= row["started_ns"] + row["total_ns"] + bound
    started = joined.exchanges["started_ns"].to_pylist()
    assert started == sorted(started)
    starts = joined.connections["started_ns"].to_pylist()
    assert starts == sorted(starts)


def test_clocks_that_drift_stay_on_the_time_line(tmp_path: Path) -> None:
    ends = conversations(60, 20, drift=100e-6)
    joined = join(both(tmp_path, ends, 3 * S))
    assert checked(ends, joined) == len(ends.clients)


def test_a_drift_of_a_second_is_followed() -> None:
    at = np.arange(0, 10_000 * S, S)
    drift = at // 10_000
    here = Comparisons(
        *(np.full(len(at), number) for number in (0, 1)), at, at + 7 * S + drift, np.full(len(at), 100 * US)
    )
    _, clock = clocks(2, here)
    assert clock.shifted(at + 7 * S + drift) == pytest.approx(at, rel=0, abs=100e-6 * 160 * S)
    assert clock.ahead_ns == pytest.approx(7.5 * S, abs=20_000_000)


def test_the_least_errors_count() -> None:
    good, bad = np.full(10, 50 * US), np.full(500, 900 * US)
    error = np.concatenate([good, bad])
    ahead = np.concatenate([np.full(10, 3 * S), np.full(500, 3 * S + 800 * US)])
    at = np.arange(510) * 1000
    _, clock = clocks(2, Comparisons(np.zeros(510, int), np.ones(510, int), at, at + ahead, error))
    assert (clock.ahead_ns, clock.uncertainty_ns, clock.comparisons) == (3 * S, 50 * US, 510)


def test_clocks_are_compared_by_way_of_others() -> None:
    at = np.arange(5) * S
    zero, one, two = (np.full(5, number) for number in range(3))
    found = Comparisons(
        *(np.concatenate(parts) for parts in ((one, one), (zero, two), (at + S, at + S), (at, at + 4 * S))),
        np.full(10, 7),
    )
    made = clocks(4, found)
    assert [clock.ahead_ns for clock in made] == [0, S, 4 * S, 0]
    assert [clock.uncertainty_ns for clock in made] == [0, 7, 14, 0]
    assert [clock.reference for clock in made] == [0, 0, 0, 3]
    assert made[2].shifted(at + 4 * S).tolist() == at.tolist()


def test_what_matches_nothing_is_counted(tmp_path: Path) -> None:
    ends = conversations(6, 3)
    translated = ends.server_connections["remote_port"]
    translated[0] += 1000
    ends.server_connections["rcv_isn"][1] = -1
    ends.server_connections["snd_isn"][2] += 1
    joined = join(both(tmp_path, ends))
    assert (joined.pairs, joined.unmatched, joined.without_isn) == (3, 5, 1)
    assert checked(ends, joined) == 9


def test_a_recording_beside_itself_is_not_joined(tmp_path: Path) -> None:
    ends = conversations(3, 3)
    trace = written(tmp_path / "t.tct", ends.client_connections, ends.clients)
    other = written(tmp_path / "u.tct", ends.server_connections, ends.servers)
    joined = join([trace, trace, other])
    assert joined.pairs == joined.turns == 0
    assert len(set(joined.connections["connection_id"].to_pylist())) == 9


def test_recordings_that_share_nothing_keep_their_clocks(tmp_path: Path) -> None:
    one, two = conversations(2, 2, seed=1), conversations(2, 2, seed=2)
    traces = [both(tmp_path, one)[0], both(tmp_path, two, 5 * S)[1]]
    joined = join(traces)
    assert [clock.reference for clock in joined.clocks] == [0, 1]
    rows = joined.connections.filter(pa.compute.equal(joined.connections["trace"], 1))
    assert rows["started_ns"].to_pylist() == connections(traces[1])["started_ns"].to_pylist()


def test_without_exchanges_handshakes_tell_the_clocks_apart(tmp_path: Path) -> None:
    ends = conversations()
    traces = [
        written(tmp_path / "c.tct", ends.client_connections, None),
        written(tmp_path / "s.tct", ends.server_connections, None, 5 * S),
    ]
    joined = join(traces)
    assert (joined.pairs, joined.turns, joined.exchanges.num_rows) == (20, 0, 0)
    assert joined.clocks[1].ahead_ns == pytest.approx(5 * S, abs=joined.clocks[1].uncertainty_ns)


def test_empty_recordings(tmp_path: Path) -> None:
    none = read(synthetic.write_trace(tmp_path / "none.tct"))
    turns = conversations(1, 2).clients
    orphans = written(tmp_path / "o.tct", np.zeros(0, synthetic.connections(1).dtype), turns)
    for traces in ([none], [none, none], [none, orphans]):
        joined = join(traces)
        assert joined.connections.num_rows == 0
        assert joined.exchanges.num_rows in (0, 2)


@pytest.mark.parametrize("which", ["client", "server", "both"])
def test_connections_that_were_open_before_are_joined(tmp_path: Path, which: str) -> None:
    ends = conversations(ports=1)
    for name in ("client", "server") if which == "both" else (which,):
        open_before(getattr(ends, f"{name}_connections"))
    joined = join(both(tmp_path, ends, 5 * S))
    assert checked(ends, joined) == len(ends.clients)
    assert (joined.pairs, joined.unmatched, joined.without_isn) == (20, 0, 0)
    _, clock = joined.clocks
    assert clock.ahead_ns == pytest.approx(5 * S, rel=0, abs=clock.uncertainty_ns)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    ports=st.integers(1, 3),
    before=st.sets(st.sampled_from(["client", "server"])),
    ahead_ns=st.integers(-(10**13), 10**13),
    kept=st.floats(0.2, 1.0),
    drift=st.floats(-2e-4, 2e-4),
    rtt_ns=st.sampled_from([50 * US, 2_000 * US, 100_000 * US]),
)
def test_joins_are_never_wrong(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    ports: int,
    before: set[str],
    ahead_ns: int,
    kept: float,
    drift: float,
    rtt_ns: int,
) -> None:
    random = np.random.default_rng(seed)
    sizes = {"ports": ports, "drift": drift, "rtt_ns": rtt_ns}
    ends: Any = conversations(int(random.integers(1, 12)), int(random.integers(1, 12)), seed, **sizes)
    for name in before:
        open_before(getattr(ends, f"{name}_connections"))
    directory = tmp_path_factory.mktemp("join")
    keep = random.random((2, len(ends.clients))) < kept
    traces = [
        written(directory / "c.tct", ends.client_connections, ends.clients[keep[0]]),
        written(directory / "s.tct", ends.server_connections, ends.servers[keep[1]], ahead_ns),
    ]
    assert checked(ends, join(traces)) == (keep[0] & keep[1]).sum()


@pytest.mark.parametrize(("before", "found"), [(False, 2), (True, 0)])
def test_laps_of_4_gib_are_told_apart_across_hosts(tmp_path: Path, before: bool, found: int) -> None:
    """By the time since the handshake; without one, rather no pair than a wrong one."""
    ends = conversations(connections=1, turns=6)
    for turns in (ends.clients, ends.servers):
        turns["request_end"] = 77
        turns["started_ns"] += np.arange(6) * S // 2
    if before:
        open_before(ends.client_connections)
    lost = [0, 2, 3, 5], [1, 2, 4, 5]
    traces = [
        written(tmp_path / "c.tct", ends.client_connections, ends.clients[lost[0]]),
        written(tmp_path / "s.tct", ends.server_connections, ends.servers[lost[1]], 5 * S),
    ]
    assert checked(ends, join(traces)) == found


CONNECTION_COLUMNS = column_names(wire.CONNECTION)


def raw_connections() -> st.SearchStrategy[dict[str, Any]]:
    """A client's or a server's record of one of two tuples, with anything in its numbers."""
    can_be_null = nullable(wire.CONNECTION)
    numbers = {
        name: st.none() | VALUES if name in can_be_null else VALUES
        for name in CONNECTION_COLUMNS
        if pa.types.is_integer(SCHEMA.field(name).type)
    }
    texts = {name: st.just(bytes(16)) for name in CONNECTION_COLUMNS if name not in numbers}
    few = {
        "kind": st.just(Kind.CONNECTION),
        "connection_id": st.integers(1, 3) | EXTREMES,
        "local_port": st.integers(1, 2),
        "remote_port": st.integers(1, 2),
        "snd_isn": st.none() | st.integers(0, 1),
        "rcv_isn": st.none() | st.integers(0, 1),
        "role": st.sampled_from([0, 1, 2, 9]),
    }
    return st.fixed_dictionaries(numbers | texts | few)


@settings(max_examples=200, deadline=None)
@given(
    turns=st.lists(st.lists(raw(st.sampled_from([Kind.EXCHANGE, Kind.EXCHANGES])), max_size=5), min_size=2),
    ends=st.lists(raw_connections(), max_size=5),
)
def test_forged_recordings_join_without_a_traceback(
    base: Trace, turns: list[list[dict[str, int | None]]], ends: list[dict[str, Any]]
) -> None:
    schema = pa.schema([SCHEMA.field(name) for name in CONNECTION_COLUMNS])
    forged_ends = dataclasses.replace(base, connections=pa.Table.from_pylist(ends, schema))
    joined = join([forged(forged_ends, rows) for rows in turns])
    for row in (*joined.exchanges.to_pylist(), *joined.sums.to_pylist()):
        adds_up(row)
