"""Each rule that turns raw records into the table `exchanges`, on records made for it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from test_connections import AFTER, conn, near

from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges, sums, without_rows
from tcptrace.analysis.schema import EXCHANGES, SUMS
from tcptrace.analysis.stages import GROUPS, STAGES
from tcptrace.analysis.turns import RAW_STAGES
from tcptrace.trace import wire
from tcptrace.trace.batch import SCHEMA, column_names, nullable
from tcptrace.trace.reader import Trace, read
from tcptrace.trace.wire import ExchangeFlag, Kind, Role, Side

MS = 10**6
INTERFACE = """
    connection_id seq side started_ns total_ns
    app_ns sndbuf_ns nagle_ns cork_ns cwnd_ns rwnd_ns pacing_ns kernel_tx_ns loss_recovery_ns network_ns
    peer_ns kernel_rx_ns wakeup_ns app_late_ns transfer_ns unattributed_ns
    network_exact delayed_ack hold_ambiguous request_bytes response_bytes writes reads retransmits
    retransmit_kind peer_connection_id peer_seq
"""


def turn(connection_id: int = 1, **fields: Any) -> np.ndarray:
    """A client's turn of 10 ms, 6 of them on the wire and 1 in no stage, unless said otherwise."""
    usual: dict[str, Any] = dict.fromkeys(RAW_STAGES, 0) | {
        "kind": Kind.EXCHANGE,
        "side": Side.CLIENT,
        "connection_id": connection_id,
        "started_ns": AFTER,
        "total_ns": 10 * MS,
        "app_ns": MS,
        "kernel_tx_ns": MS,
        "wire_ns": 6 * MS,
        "wakeup_ns": MS,
        "request_bytes": 50,
        "response_bytes": 60,
        "writes": 1,
        "reads": 1,
        "retransmits": 0,
        "summed": 1,
    }
    if fields.get("side") == Side.SERVER:
        usual |= {"wire_ns": 0, "residence_ns": 9 * MS, "app_ns": 7 * MS}
    made = np.zeros(1, wire.EXCHANGE)
    for name in wire.EXCHANGE.names or ():
        if wire.EXCHANGE[name].kind == "i":
            made[name] = -1
    for name, value in (usual | fields).items():
        made[name] = value
    return made


def trace(tmp_path: Path, turns: list[np.ndarray], *ends: np.ndarray, **kwargs: Any) -> Trace:
    ends = ends or (conn(handshake_ns=2 * MS),)
    path = tmp_path / "t.tct"
    path.unlink(missing_ok=True)
    synthetic.write_trace(
        path, np.concatenate(ends), exchanges=np.concatenate(turns) if turns else None, **kwargs
    )
    return read(path)


def table(tmp_path: Path, turns: list[np.ndarray], *ends: np.ndarray) -> pa.Table:
    read_back = trace(tmp_path, turns, *ends)
    return exchanges(read_back, connections(read_back))


def row(tmp_path: Path, one: np.ndarray, *ends: np.ndarray) -> dict[str, Any]:
    (found,) = table(tmp_path, [one], *ends).to_pylist()
    adds_up(found)
    return found


def adds_up(row: dict[str, Any]) -> None:
    stages = [row[name] for name in (*STAGES, "unattributed_ns")]
    if row["total_ns"] is None:
        assert stages == [None] * len(stages)
    else:
        assert sum(stage or 0 for stage in stages) == row["total_ns"]
        assert min(stage or 0 for stage in stages) >= 0 and row["unattributed_ns"] is not None


def test_columns_are_those_of_the_interface_in_order(tmp_path: Path) -> None:
    made = table(tmp_path, [turn()])
    assert made.schema.names == INTERFACE.split()
    assert made.schema.equals(EXCHANGES)
    assert {str(field.type) for field in made.schema} == {"int64", "string", "bool"}


def test_only_starts_totals_and_stages_end_in_ns() -> None:
    in_ns = {name for name in EXCHANGES.names if name.endswith("_ns")}
    assert in_ns == {"started_ns", "total_ns", "unattributed_ns", *STAGES}


def test_every_stage_is_in_one_group() -> None:
    assert sorted(stage for group in GROUPS.values() for stage in group) == sorted(
        (*STAGES, "unattributed_ns")
    )


@pytest.mark.parametrize("ends", [[conn()], []])
def test_without_exchanges_there_are_columns_and_no_rows(tmp_path: Path, ends: list[np.ndarray]) -> None:
    path = synthetic.write_trace(tmp_path / "t.tct", np.concatenate(ends) if ends else None)
    empty = read(path)
    made = exchanges(empty, connections(empty)), sums(empty, connections(empty))
    assert [one.num_rows for one in made] == [0, 0]
    assert made[0].schema.equals(EXCHANGES) and made[1].schema.equals(SUMS)


def test_a_whole_row_of_a_client(tmp_path: Path) -> None:
    got = row(tmp_path, turn(seq=3, sndbuf_ns=5, cork_ns=7, reads=4, flags=ExchangeFlag.HOLD_AMBIGUOUS))
    assert got["started_ns"] == near(AFTER)
    want = dict.fromkeys(STAGES, 0) | {"app_ns": MS, "kernel_tx_ns": MS, "wakeup_ns": MS, "sndbuf_ns": 5}
    want |= {"cork_ns": 7, "network_ns": 2 * MS, "peer_ns": 4 * MS, "unattributed_ns": MS - 12}
    want |= {"connection_id": 1, "seq": 3, "side": "client", "total_ns": 10 * MS, "hold_ambiguous": True}
    want |= {"network_exact": False, "delayed_ack": False, "request_bytes": 50, "response_bytes": 60}
    want |= {"writes": 1, "reads": 4, "retransmits": 0, "retransmit_kind": None}
    want |= {"peer_connection_id": None, "peer_seq": None, "started_ns": got["started_ns"]}
    assert got == want


def test_a_server_has_neither_network_nor_peer_nor_loss(tmp_path: Path) -> None:
    got = row(tmp_path, turn(side=Side.SERVER))
    for name in ("network_ns", "peer_ns", "loss_recovery_ns", "network_exact"):
        assert got[name] is None
    assert (got["side"], got["app_ns"], got["unattributed_ns"]) == ("server", 7 * MS, MS)


@pytest.mark.parametrize("stage", [name for name in RAW_STAGES if name != "wire_ns"])
def test_a_stage_that_was_not_observed_is_unattributed(tmp_path: Path, stage: str) -> None:
    whole, part = row(tmp_path, turn(**{stage: MS})), row(tmp_path, turn(**{stage: -1}))
    assert part[stage] is None
    assert part["unattributed_ns"] - whole["unattributed_ns"] == MS


def test_a_wire_time_that_was_not_observed_splits_into_nothing(tmp_path: Path) -> None:
    got = row(tmp_path, turn(wire_ns=-1))
    assert [got[name] for name in ("network_ns", "peer_ns", "network_exact")] == [None] * 3
    assert got["unattributed_ns"] == 7 * MS


def test_rows_are_ordered_by_start_unknown_first(tmp_path: Path) -> None:
    starts = {1: AFTER + 5, 2: -1, 3: AFTER, 4: AFTER + 1}
    made = table(tmp_path, [turn(seq=seq, started_ns=start) for seq, start in starts.items()])
    assert made["seq"].to_pylist() == [2, 3, 4, 1]


# ---- the minimum round trip ----


def network(tmp_path: Path, *ends: np.ndarray, more: tuple[np.ndarray, ...] = ()) -> int | None:
    """What of a wire time of 6 ms is called network."""
    made = table(tmp_path, [turn(loss_recovery_ns=MS), *more], *ends).to_pylist()
    adds_up(made[0])
    found: int | None = made[0]["network_ns"]
    return found


def test_the_network_is_the_least_round_trip(tmp_path: Path) -> None:
    assert network(tmp_path, conn(handshake_ns=2 * MS, min_sample_ns=3 * MS)) == 2 * MS
    assert network(tmp_path, conn(handshake_ns=3 * MS, min_sample_ns=2 * MS)) == 2 * MS
    assert network(tmp_path, conn(handshake_ns=3 * MS), more=(turn(seq=1, wire_ns=MS),)) == MS
    assert network(tmp_path, conn(handshake_ns=9 * MS)) == 6 * MS


def test_the_least_sample_of_all_records_of_a_connection_counts(tmp_path: Path) -> None:
    interim = conn(min_sample_ns=MS, close_reason=wire.CloseReason.OPEN, ended_ns=-1)
    assert network(tmp_path, interim, conn(handshake_ns=-1, min_sample_ns=4 * MS)) == MS


@pytest.mark.parametrize(
    "handshake",
    [
        {"handshake_ns": -1},
        {"handshake_exact": 0},
        {"handshake_exact": -1},
        {"syn_retransmits": 1},
        {"role": Role.PASSIVE, "synack_retransmits": 1},
        {"handshake_ns": 0},
    ],
)
def test_a_handshake_that_is_not_one_round_trip_tells_nothing(
    tmp_path: Path, handshake: dict[str, Any]
) -> None:
    end = conn(**{"handshake_ns": 2 * MS} | handshake)
    assert network(tmp_path, end) is None
    assert network(tmp_path, end, more=(turn(2, wire_ns=MS),)) is None  # of another connection
    assert network(tmp_path, end, more=(turn(seq=1, wire_ns=MS, loss_recovery_ns=-1),)) is None
    assert network(tmp_path, end, more=(turn(seq=1, wire_ns=MS),)) == MS


def test_the_kernels_minimum_counts_where_nothing_else_was_measured(tmp_path: Path) -> None:
    kernel = {"min_rtt_us": 500}
    assert network(tmp_path, conn(handshake_ns=-1, **kernel)) == MS // 2
    assert network(tmp_path, conn(handshake_ns=-1, **kernel), more=(turn(seq=1, wire_ns=MS),)) == MS // 2
    assert network(tmp_path, conn(handshake_ns=-1, **kernel), more=(turn(seq=1, wire_ns=MS // 4),)) == MS // 4
    assert network(tmp_path, conn(handshake_ns=2 * MS, **kernel)) == 2 * MS
    assert network(tmp_path, conn(handshake_ns=-1, min_sample_ns=3 * MS, **kernel)) == 3 * MS


def test_without_any_round_trip_the_wire_time_is_unattributed(tmp_path: Path) -> None:
    got = row(tmp_path, turn(loss_recovery_ns=MS), conn(handshake_ns=-1))
    assert got["network_ns"] is got["peer_ns"] is got["network_exact"] is None
    assert got["unattributed_ns"] == 6 * MS


def test_a_turn_of_a_connection_without_a_row_is_there(tmp_path: Path) -> None:
    got = row(tmp_path, turn(9), conn(1))
    assert got["connection_id"] == 9 and got["network_ns"] is None


# ---- what is decided ----


def test_an_answer_too_soon_after_a_retransmission_did_not_wait_for_it(tmp_path: Path) -> None:
    lost = {"wire_ns": MS, "loss_recovery_ns": 5 * MS, "retransmits": 1, "flags": ExchangeFlag.TLP}
    end = conn(handshake_ns=2 * MS, min_sample_ns=3 * MS)
    got = row(tmp_path, turn(**lost), end)
    assert (got["loss_recovery_ns"], got["network_ns"], got["peer_ns"]) == (0, 2 * MS, 4 * MS)
    assert (got["retransmits"], got["retransmit_kind"]) == (1, "tlp")
    got = row(tmp_path, turn(**lost | {"wire_ns": MS * 9 // 5}), end)  # which may be jitter
    assert (got["loss_recovery_ns"], got["network_ns"], got["peer_ns"]) == (5 * MS, MS * 9 // 5, 0)


@pytest.mark.parametrize(
    "end",
    [
        conn(handshake_ns=2 * MS),  # may have waited for an address to be resolved
        conn(handshake_ns=-1, min_sample_ns=2 * MS),  # may contain the peer's work
        conn(handshake_ns=2 * MS, min_sample_ns=MS),
    ],
)
def test_a_loss_stays_one_without_strong_evidence(tmp_path: Path, end: np.ndarray) -> None:
    got = row(tmp_path, turn(wire_ns=MS, loss_recovery_ns=5 * MS, retransmits=1), end)
    assert got["loss_recovery_ns"] == 5 * MS


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, False),
        ({"flags": ExchangeFlag.DELAYED_ACK}, True),
        ({"release_ns": 2 * MS + 29 * MS}, False),
        ({"release_ns": 2 * MS + 30 * MS}, True),
        ({"release_ns": 2 * MS + 40 * MS}, True),
        ({"release_ns": 2 * MS + 210 * MS}, True),
        ({"release_ns": 2 * MS + 211 * MS}, False),
        ({"nagle_ns": -1}, None),
        ({"nagle_ns": -1, "flags": ExchangeFlag.DELAYED_ACK}, True),
    ],
)
def test_a_delayed_ack_comes_30_to_210_ms_after_the_round_trip(
    tmp_path: Path, fields: dict[str, Any], want: bool | None
) -> None:
    assert row(tmp_path, turn(**fields))["delayed_ack"] is want


@pytest.mark.parametrize(
    ("release", "least", "want"),
    [
        (29 * MS, -1, False),
        (41 * MS, -1, None),
        (-1, -1, False),
        (41 * MS, MS, True),
        (41 * MS, 30 * MS, None),
        (211 * MS, MS, None),
        (250 * MS, MS, False),
    ],
)
def test_where_the_round_trip_is_only_bounded_a_late_release_may_prove_nothing(
    tmp_path: Path, release: int, least: int, want: bool | None
) -> None:
    got = row(
        tmp_path, turn(release_ns=release, loss_recovery_ns=-1), conn(handshake_ns=-1, min_sample_ns=least)
    )
    assert got["delayed_ack"] is want


@pytest.mark.parametrize(
    ("flags", "count", "want"),
    [
        (ExchangeFlag.RTO, 1, "rto"),
        (ExchangeFlag.FAST, 2, "fast"),
        (ExchangeFlag.TLP | ExchangeFlag.RTO, 2, "rto+tlp"),
        (ExchangeFlag.TLP | ExchangeFlag.RTO | ExchangeFlag.FAST, 3, "rto+fast+tlp"),
        (ExchangeFlag.SMALL_QUEUE | ExchangeFlag.FAST, 1, "fast"),
        (ExchangeFlag.SMALL_QUEUE, 1, None),
        (ExchangeFlag.RTO, 0, None),
        (ExchangeFlag.RTO, -1, None),
    ],
)
def test_kinds_of_retransmission(tmp_path: Path, flags: int, count: int, want: str | None) -> None:
    got = row(tmp_path, turn(flags=flags, retransmits=count))
    assert got["retransmit_kind"] == want
    assert got["retransmits"] == (None if count < 0 else count)


# ---- sums ----


def test_sums_have_no_row_but_are_counted(tmp_path: Path) -> None:
    several = {"kind": Kind.EXCHANGES, "summed": 3, "total_ns": 30 * MS, "wire_ns": 18 * MS}
    made = trace(tmp_path, [turn(seq=7), turn(**several)])
    assert exchanges(made, connections(made))["seq"].to_pylist() == [7]
    assert without_rows(made) == 3
    (got,) = sums(made, connections(made)).to_pylist()
    adds_up(got)
    assert (got["exchanges"], got["total_ns"]) == (3, 30 * MS)
    assert (got["network_ns"], got["peer_ns"], got["network_exact"]) == (3 * 2 * MS, 12 * MS, False)
    assert got["delayed_ack"] is None and got["peer_seq"] is None


def test_a_sum_is_split_by_the_round_trip_that_single_turns_tell(tmp_path: Path) -> None:
    several = {"kind": Kind.EXCHANGES, "summed": 3, "wire_ns": 4 * MS}
    made = trace(tmp_path, [turn(wire_ns=MS), turn(**several)], conn(handshake_ns=-1))
    (got,) = sums(made, connections(made)).to_pylist()
    assert (got["network_ns"], got["peer_ns"]) == (3 * MS, MS)
    made = trace(tmp_path, [turn(wire_ns=3 * MS), turn(**several)], conn(handshake_ns=-1))
    (got,) = sums(made, connections(made)).to_pylist()
    assert (got["network_ns"], got["peer_ns"]) == (4 * MS, 0)


def test_sums_say_that_some_ack_was_delayed(tmp_path: Path) -> None:
    several = turn(
        kind=Kind.EXCHANGES, summed=2, flags=ExchangeFlag.DELAYED_ACK | ExchangeFlag.RTO, retransmits=2
    )
    made = trace(tmp_path, [several])
    (got,) = sums(made, connections(made)).to_pylist()
    assert (got["delayed_ack"], got["retransmit_kind"]) == (True, "rto")


# ---- any record at all ----

COLUMNS = column_names(wire.EXCHANGE)
EXTREMES = st.sampled_from([0, 1, 5, 10**6, -1, -2, -(1 << 63), (1 << 63) - 1, 1 << 62, 1 << 59, 1 << 32])
VALUES = st.integers(-5, 10**9) | EXTREMES


def raw(kinds: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int | None]]:
    can_be_null = nullable(wire.EXCHANGE)
    values = {name: st.none() | VALUES if name in can_be_null else VALUES for name in COLUMNS}
    some = {"kind": kinds, "side": st.sampled_from([1, 2, 77]), "connection_id": st.integers(1, 3)}
    return st.fixed_dictionaries(values | some)


def forged(base: Trace, rows: list[dict[str, int | None]]) -> Trace:
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    return dataclasses.replace(base, exchanges=pa.Table.from_pylist(rows, schema))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    ends = [conn(1, handshake_ns=2 * MS), conn(2, handshake_ns=-1), conn(3, handshake_ns=(1 << 63) - 1)]
    return trace(tmp_path_factory.mktemp("base"), [], *ends)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(raw(st.sampled_from([Kind.EXCHANGE, Kind.EXCHANGES])), max_size=6))
def test_whatever_a_file_says_stages_add_up_and_none_is_negative(
    base: Trace, rows: list[dict[str, int | None]]
) -> None:
    made = forged(base, rows)
    ends = connections(made)
    single, several = exchanges(made, ends), sums(made, ends)
    assert single.num_rows + several.num_rows == len(rows)
    for found in (*single.to_pylist(), *several.to_pylist()):
        adds_up(found)
        for name in ("request_bytes", "response_bytes", "writes", "reads", "retransmits", "seq"):
            assert found[name] is None or found[name] >= 0
        assert 1 <= found.get("exchanges", 1) <= 1 << 32


STAGE = st.none() | st.integers(0, 10**12)


@settings(max_examples=200, deadline=None)
@given(
    stages=st.fixed_dictionaries(dict.fromkeys(RAW_STAGES, STAGE)),
    rest=st.integers(0, 10**12),
    side=st.sampled_from(list(Side)),
    connection=st.integers(1, 4),
)
def test_what_was_observed_stays_and_null_stays_null(
    base: Trace, stages: dict[str, int | None], rest: int, side: Side, connection: int
) -> None:
    if side == Side.SERVER:
        stages |= {"wire_ns": 0, "loss_recovery_ns": 0}
    total = sum(stage or 0 for stage in stages.values()) + rest
    one = dict.fromkeys(COLUMNS, 0) | {"kind": Kind.EXCHANGE, "side": side, "connection_id": connection}
    made = forged(base, [one | stages | {"total_ns": total, "residence_ns": None, "release_ns": None}])
    (got,) = exchanges(made, connections(made)).to_pylist()
    adds_up(got)
    assert got["total_ns"] == total
    for name in set(RAW_STAGES) - {"wire_ns", "loss_recovery_ns"}:
        assert got[name] == stages[name]
    parts = [got[name] for name in ("loss_recovery_ns", "network_ns", "peer_ns")]
    if side == Side.SERVER:
        assert parts == [None] * 3
        assert got["unattributed_ns"] == rest
    elif got["network_ns"] is not None:
        assert sum(part or 0 for part in parts) == stages["wire_ns"] + (stages["loss_recovery_ns"] or 0)
        assert got["unattributed_ns"] == rest
    else:
        assert parts == [stages["loss_recovery_ns"], None, None]
        assert got["unattributed_ns"] == rest + (stages["wire_ns"] or 0)


def test_forged_connections_are_no_traceback(tmp_path: Path) -> None:
    ends = [
        conn(number, min_sample_ns=value, handshake_ns=value)
        for number, value in enumerate((1 << 62, 0, -9), 1)
    ]
    made = trace(tmp_path, [turn(number, loss_recovery_ns=5) for number in (1, 2, 3)], *ends)
    for found in exchanges(made, connections(made)).to_pylist():
        adds_up(found)
        assert found["network_ns"] is None


MAKE = """
import sys; from pathlib import Path; sys.path[:0] = [sys.argv[2]]; import synthetic
ends = synthetic.connections(20_000)
synthetic.write_trace(Path(sys.argv[1]), ends, exchanges=synthetic.exchanges(300_000, of=ends))
"""
MEASURE = r"""
import re, sys, time
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges
from tcptrace.trace.reader import read
trace = read(sys.argv[1]); ends = connections(trace)
start = time.process_time(); rows = exchanges(trace, ends).num_rows; took = time.process_time() - start
print(rows, took, re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


def test_300_000_exchanges_are_made_quickly_in_little_memory(tmp_path: Path) -> None:
    """In processes of their own, so that this one stays small: others measure what it hands on."""
    path = tmp_path / "big.tct"
    subprocess.run([sys.executable, "-c", MAKE, path, Path(__file__).parent], check=True, timeout=120)
    found = [
        subprocess.run([sys.executable, "-c", MEASURE, path], check=True, timeout=120, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    rows, took, peak_kb = zip(*[map(float, done.stdout.split()) for done in found], strict=True)
    assert set(rows) == {300_000}
    assert min(took) < 2  # the best of two: what else the machine does can only add
    assert max(peak_kb) < 500_000
