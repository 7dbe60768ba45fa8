"""Each rule that turns raw records into the table `connections`, on records made for it."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.analysis.connections import _latest_before, connections
from tcptrace.analysis.schema import BUDGET, CONNECTIONS, STATE_TIMES
from tcptrace.trace import wire
from tcptrace.trace.reader import read
from tcptrace.trace.wire import CloseReason, Family, Flag, Initiator, Kind, Role

S = 10**9
START = synthetic.STARTED_MONOTONIC_NS
WALL = synthetic.STARTED_REALTIME_NS
SEEDED = synthetic.SEEDED_NS
AFTER = SEEDED + S  # a moment in the recording

INTERFACE = """
    connection_id cookie netns family v4_mapped local_addr local_port remote_addr remote_port role pid comm
    started_ns ended_ns handshake_ns handshake_exact syn_retransmits synack_retransmits
    syn_sent_ns syn_recv_ns established_ns fin_wait1_ns fin_wait2_ns closing_ns time_wait_ns close_wait_ns
    last_ack_ns time_wait_exact mss snd_wscale rcv_wscale sack timestamps ecn tfo snd_isn rcv_isn
    congestion_control retransmits srtt_us min_rtt_us bytes_sent bytes_received segments_sent
    segments_received close_reason initiator left_censored right_censored state
    pattern exchanges pipelined
    held_nagle_ns held_cork_ns held_cwnd_ns held_rwnd_ns held_pacing_ns held_sndbuf_ns unread_ns
"""


def near(monotonic_ns: int) -> Any:
    """Wall clock of a moment, as it drifts in synthetic traces."""
    return pytest.approx(WALL + monotonic_ns - START, rel=0, abs=25_000)


def address(text: str) -> np.ndarray:
    packed = ip_address(text).packed
    return np.frombuffer(bytes(10) + b"\xff\xff" + packed if len(packed) == 4 else packed, np.uint8)


def record(dtype: np.dtype, **fields: Any) -> np.ndarray:
    """One record: -1 in every signed field, and what is named."""
    made = np.zeros(1, dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "i":
            made[name] = -1
    made["local_addr"], made["remote_addr"] = address("192.0.2.1"), address("192.0.2.2")
    made["family"] = Family.IPV4
    for name, value in fields.items():
        made[name] = value
    return made


def conn(connection_id: int = 1, **fields: Any) -> np.ndarray:
    """A connection closed by FIN that was active and seen from its start, unless said otherwise."""
    usual = {
        "kind": Kind.CONNECTION,
        "connection_id": connection_id,
        "role": Role.ACTIVE,
        "netns": 7,
        "local_port": 40000,
        "remote_port": 443,
        "seen_ns": AFTER,
        "started_ns": AFTER,
        "ended_ns": AFTER + S,
        "handshake_ns": 500,
        "handshake_exact": 1,
        "close_reason": CloseReason.FIN,
        "initiator": Initiator.LOCAL,
        "state": 5,
        **dict.fromkeys(STATE_TIMES, 100),
    }
    return record(wire.CONNECTION, **usual | fields)


def event(kind: Kind, /, **fields: Any) -> np.ndarray:
    usual = {"kind": kind, "netns": 7, "local_port": 40000, "remote_port": 443, "time_ns": AFTER}
    return record(wire.EVENT, **usual | fields)


def table(
    tmp_path: Path, *records: np.ndarray, events: tuple[np.ndarray, ...] = (), **kwargs: Any
) -> pa.Table:
    path = synthetic.write_trace(
        tmp_path / "t.tct",
        np.concatenate(records) if records else None,
        np.concatenate(events) if events else None,
        **kwargs,
    )
    return connections(read(path))


def row(tmp_path: Path, *records: np.ndarray, **kwargs: Any) -> dict[str, Any]:
    rows = table(tmp_path, *records, **kwargs).to_pylist()
    assert len(rows) == 1
    return rows[0]


def test_columns_are_those_of_the_interface_in_order(tmp_path: Path) -> None:
    made = table(tmp_path, conn())
    assert made.schema.names == INTERFACE.split()
    assert made.schema.equals(CONNECTIONS)
    assert {str(field.type) for field in made.schema} == {"int64", "string", "bool"}


def test_an_empty_trace_has_all_columns_and_no_rows(tmp_path: Path) -> None:
    made = table(tmp_path)
    assert made.num_rows == 0
    assert made.schema.equals(CONNECTIONS)


def test_a_whole_row(tmp_path: Path) -> None:
    got = row(
        tmp_path,
        conn(
            cookie=4242,
            pid=77,
            comm=b"curl",
            congestion_control=b"bbr",
            snd_isn=1 << 31,
            rcv_isn=3,
            mss=1460,
            sack=1,
            ecn=0,
            snd_wscale=7,
            srtt_us=20,
            bytes_sent=9,
            retransmits=0,
        ),
    )
    assert got["connection_id"] == 1 and got["cookie"] == 4242 and got["netns"] == 7
    assert (got["local_addr"], got["local_port"]) == ("192.0.2.1", 40000)
    assert (got["remote_addr"], got["remote_port"]) == ("192.0.2.2", 443)
    assert (got["family"], got["v4_mapped"], got["role"]) == ("ipv4", False, "active")
    assert (got["pid"], got["comm"], got["congestion_control"]) == (77, "curl", "bbr")
    assert got["started_ns"] == near(AFTER)
    assert got["ended_ns"] - got["started_ns"] == pytest.approx(S, abs=1000)  # the wall clock drifts
    assert (got["handshake_ns"], got["handshake_exact"]) == (500, True)
    assert all(got[name] == 100 for name in STATE_TIMES)
    assert (got["snd_isn"], got["mss"], got["sack"], got["ecn"]) == (1 << 31, 1460, True, False)
    assert (got["close_reason"], got["initiator"]) == ("fin", "local")
    assert (got["left_censored"], got["right_censored"], got["state"]) == (False, False, None)
    # what the record did not have
    for name in ("min_rtt_us", "tfo", "timestamps", "rcv_wscale", "bytes_received", "segments_sent"):
        assert got[name] is None
    assert got["retransmits"] == 0  # observed, and none
    assert got["time_wait_ns"] is None and got["time_wait_exact"] is None


@pytest.mark.parametrize(
    ("text", "family"),
    [("10.1.2.3", 4), ("0.0.0.0", 4), ("::1", 6), ("2001:db8::1:0:0:1", 6), ("fe80::1", 6), ("::", 6)],
)
def test_addresses_are_text(tmp_path: Path, text: str, family: int) -> None:
    got = row(tmp_path, conn(local_addr=address(text), family=family, v4_mapped=family == 4))
    assert got["local_addr"] == text
    assert got["family"] == f"ipv{family}"
    assert got["v4_mapped"] is (family == 4)


def test_a_port_that_was_never_bound_is_null(tmp_path: Path) -> None:
    assert row(tmp_path, conn(local_port=0))["local_port"] is None


def test_a_name_counts_only_beside_a_pid(tmp_path: Path) -> None:
    got = row(tmp_path, conn(comm=b"ghost"))
    assert got["pid"] is None and got["comm"] is None


def test_names_stop_at_nul_and_keep_strange_bytes_readable(tmp_path: Path) -> None:
    assert row(tmp_path, conn(pid=1, comm=b"a\xff\x1b[m\0junk"))["comm"] == "a\\xff\x1b[m"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (CloseReason.UNKNOWN, None),
        (CloseReason.RESET_RECEIVED, "reset_received"),
        (CloseReason.TIMEOUT, "timeout"),
        (CloseReason.ABORTED, "aborted"),
        (99, None),
    ],
)
def test_close_reasons(tmp_path: Path, reason: int, text: str | None) -> None:
    assert row(tmp_path, conn(close_reason=reason))["close_reason"] == text


@pytest.mark.parametrize("initiator", list(Initiator))
def test_an_unknown_initiator_is_null(tmp_path: Path, initiator: Initiator) -> None:
    want = None if initiator == Initiator.UNKNOWN else initiator.name.lower()
    assert row(tmp_path, conn(initiator=initiator))["initiator"] == want


def test_open_rows_are_right_censored_and_tell_their_state(tmp_path: Path) -> None:
    got = row(tmp_path, conn(close_reason=CloseReason.OPEN, ended_ns=-1, state=8, initiator=Initiator.REMOTE))
    assert (got["close_reason"], got["right_censored"], got["state"]) == ("open", True, "close_wait")
    assert got["ended_ns"] is None


@pytest.mark.parametrize(
    ("flags", "seen", "left"),
    [
        (0, AFTER, False),
        (Flag.FIRST_MISSED | Flag.SEEDED, AFTER, True),
        (Flag.FIRST_MISSED, SEEDED, True),
        (Flag.FIRST_MISSED, SEEDED + 1, False),
        (Flag.SEEDED, SEEDED - 1, False),
    ],
)
def test_left_censored(tmp_path: Path, flags: int, seen: int, left: bool) -> None:
    assert row(tmp_path, conn(flags=flags, seen_ns=seen))["left_censored"] is left


@pytest.mark.parametrize(("off", "left"), [(0, False), (1, None)])
def test_in_a_namespace_that_was_not_walked_nobody_knows_what_was_open_before(
    tmp_path: Path, off: int, left: bool | None
) -> None:
    record = conn(flags=Flag.FIRST_MISSED, seen_ns=AFTER)
    seeded = {"seeded": {"monotonic_ns": SEEDED, "inodes": [int(record["netns"][0]) + off]}}
    assert row(tmp_path, record, header_changes=seeded)["left_censored"] is left


@pytest.mark.parametrize(("role", "left"), [(Role.UNKNOWN, None), (Role.PASSIVE, False)])
def test_a_sighting_of_unknown_birth_may_have_been_open_before(
    tmp_path: Path, role: Role, left: bool | None
) -> None:
    sighting = event(Kind.SIGHTING, connection_id=9, role=role, first_sent_ns=-1)
    assert row(tmp_path, events=(sighting,))["left_censored"] is left


def test_a_start_that_the_kernel_hid_is_unknown_not_censored(tmp_path: Path) -> None:
    got = row(tmp_path, conn(flags=Flag.FIRST_MISSED, seen_ns=AFTER))
    assert got["left_censored"] is False
    assert got["role"] == "unknown"
    for name in ("started_ns", "handshake_ns", "handshake_exact", *STATE_TIMES):
        assert got[name] is None
    assert got["close_reason"] == "fin" and got["ended_ns"] is not None


def test_what_was_seen_of_a_censored_connection_stays(tmp_path: Path) -> None:
    got = row(tmp_path, conn(flags=Flag.FIRST_MISSED | Flag.SEEDED, started_ns=-1, established_ns=-1))
    assert got["started_ns"] is None and got["established_ns"] is None
    assert got["fin_wait1_ns"] == 100


def test_a_skipped_transition_costs_the_state_times_only(tmp_path: Path) -> None:
    got = row(tmp_path, conn(flags=Flag.STATES_BROKEN))
    assert all(got[name] is None for name in STATE_TIMES)
    assert got["handshake_ns"] == 500 and got["role"] == "active"


def test_exactness_needs_a_handshake(tmp_path: Path) -> None:
    made = table(tmp_path, conn(1, handshake_ns=-1, handshake_exact=1), conn(2, handshake_exact=0))
    assert made["handshake_exact"].to_pylist() == [None, False]


def test_interim_records_give_way_to_the_last_word(tmp_path: Path) -> None:
    interim = {"close_reason": CloseReason.OPEN, "ended_ns": -1}
    made = table(
        tmp_path,
        conn(1, bytes_sent=1, **interim),
        conn(2, bytes_sent=1, **interim),
        conn(1, bytes_sent=2, **interim),
        conn(2, bytes_sent=9),
        conn(2, bytes_sent=1, **interim),  # took another way and came late
    )
    assert [(r["connection_id"], r["bytes_sent"], r["close_reason"]) for r in made.to_pylist()] == [
        (1, 2, "open"),
        (2, 9, "fin"),
    ]


def test_rows_are_ordered_by_start_unknown_first(tmp_path: Path) -> None:
    made = table(
        tmp_path,
        conn(1, started_ns=AFTER + 5),
        conn(2, started_ns=-1, seen_ns=AFTER + 9),
        conn(3, started_ns=AFTER),
        conn(4, started_ns=-1, seen_ns=AFTER + 1),
    )
    assert made["connection_id"].to_pylist() == [4, 2, 3, 1]


def passive(**fields: Any) -> np.ndarray:
    usual = {"role": Role.PASSIVE, "synack_retransmits": 1, "handshake_ns": -1, "syn_recv_ns": -1}
    return conn(**usual | {"started_ns": -1, "handshake_exact": -1, "seen_ns": AFTER + 3 * S} | fields)


def synack(**fields: Any) -> np.ndarray:
    return event(Kind.SYNACK_RETRANSMIT, **{"first_sent_ns": AFTER, "time_ns": AFTER + S} | fields)


@pytest.mark.parametrize(
    ("exchanges", "pipelined", "volume", "pattern"),
    [
        (3, 0, 9, "turns"),
        (3, 2, 9, "mixed"),
        (0, 2, 9, "stream"),
        (0, 0, 9, "stream"),
        (0, 0, 0, "none"),
        (0, 0, -1, None),
        (3, 0, -1, "turns"),
        (-1, -1, 9, None),
        (3, -1, 9, None),
        (-7, 3, 9, None),
    ],
)
def test_pattern(tmp_path: Path, exchanges: int, pipelined: int, volume: int, pattern: str | None) -> None:
    volumes = {"bytes_sent": volume, "bytes_received": volume}
    got = row(tmp_path, conn(exchanges=exchanges, pipelined=pipelined, **volumes))
    assert got["pattern"] == pattern
    assert got["exchanges"] == (None if exchanges < 0 else exchanges)


def test_without_a_budget_its_columns_are_null(tmp_path: Path) -> None:
    got = row(tmp_path, conn(bytes_sent=9, bytes_received=9))
    assert [got[name] for name in ("pattern", *BUDGET)] == [None] * (1 + len(BUDGET))


def test_holds_are_as_recorded(tmp_path: Path) -> None:
    got = row(tmp_path, conn(held_nagle_ns=5, held_cork_ns=0, unread_ns=8, held_rwnd_ns=-9))
    assert (got["held_nagle_ns"], got["held_cork_ns"], got["unread_ns"]) == (5, 0, 8)
    assert got["held_rwnd_ns"] is None and got["held_cwnd_ns"] is None


def test_a_repeated_synack_counts_from_the_first_one(tmp_path: Path) -> None:
    got = row(tmp_path, passive(), events=(synack(),))
    assert got["handshake_ns"] == got["syn_recv_ns"] == 3 * S
    assert got["handshake_exact"] is True
    assert got["started_ns"] == near(AFTER)


@pytest.mark.parametrize(
    "other",
    [
        {"netns": 8},
        {"remote_port": 444},
        {"local_port": 40001},
        {"remote_addr": address("192.0.2.3")},
        {"local_addr": address("192.0.2.3")},
        {"time_ns": AFTER + 4 * S},
        {"first_sent_ns": -1},
        {"kind": Kind.DROP},
    ],
)
def test_without_its_event_the_handshake_is_unknown(tmp_path: Path, other: dict[str, Any]) -> None:
    got = row(
        tmp_path, passive(handshake_ns=7, handshake_exact=1, started_ns=AFTER), events=(synack(**other),)
    )
    for name in ("handshake_ns", "handshake_exact", "syn_recv_ns", "started_ns"):
        assert got[name] is None


def test_no_events_at_all(tmp_path: Path) -> None:
    assert row(tmp_path, passive())["handshake_ns"] is None


def test_with_a_reused_tuple_the_latest_event_before_the_child_counts(tmp_path: Path) -> None:
    made = table(
        tmp_path,
        passive(connection_id=1, seen_ns=AFTER + 3 * S),
        passive(connection_id=2, seen_ns=AFTER + 20 * S, ended_ns=AFTER + 21 * S),
        events=(
            synack(),
            synack(time_ns=AFTER + 2 * S),
            synack(time_ns=AFTER + 12 * S, first_sent_ns=AFTER + 11 * S),
            synack(time_ns=AFTER + 40 * S, first_sent_ns=AFTER + 39 * S),
        ),
    )
    assert made["handshake_ns"].to_pylist() == [3 * S, 9 * S]


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=30)


@given(PAIRS, PAIRS)
def test_the_join_agrees_with_looking_at_every_pair(
    entries: list[tuple[int, int]], wanted: list[tuple[int, int]]
) -> None:
    def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        keys = np.array([pair[0] for pair in pairs], "<i8").view("V8")
        return keys, np.array([pair[1] for pair in pairs], np.int64)

    found = _latest_before(*split(entries), *split(wanted))
    for (key, time), place in zip(wanted, found.tolist(), strict=True):
        matching = [
            entry_time for entry_key, entry_time in entries if entry_key == key and entry_time <= time
        ]
        if matching:
            assert entries[place] == (key, max(matching))
        else:
            assert place == -1


def test_other_handshakes_are_left_alone(tmp_path: Path) -> None:
    got = row(tmp_path, passive(synack_retransmits=0, handshake_ns=9, syn_recv_ns=9), events=(synack(),))
    assert got["handshake_ns"] == got["syn_recv_ns"] == 9


def test_a_broken_states_row_does_not_regain_one(tmp_path: Path) -> None:
    got = row(tmp_path, passive(flags=Flag.STATES_BROKEN), events=(synack(),))
    assert got["syn_recv_ns"] is None and got["handshake_ns"] == 3 * S


def test_a_late_reset_amends_its_connection(tmp_path: Path) -> None:
    late = event(Kind.RESET_SENT, connection_id=2)
    made = table(
        tmp_path,
        conn(1),
        conn(2, initiator=Initiator.UNKNOWN),
        events=(late, event(Kind.RESET_SENT), event(Kind.RETRANSMIT, connection_id=1)),
    )
    assert made["close_reason"].to_pylist() == ["fin", "reset_sent"]
    assert made["initiator"].to_pylist() == ["local", "local"]


def test_a_late_reset_keeps_a_known_initiator(tmp_path: Path) -> None:
    late = event(Kind.RESET_SENT, connection_id=1)
    assert row(tmp_path, conn(initiator=Initiator.REMOTE), events=(late,))["initiator"] == "remote"


def test_a_connection_that_was_only_sighted_has_a_row_of_what_is_known(tmp_path: Path) -> None:
    sighting = event(Kind.SIGHTING, connection_id=9, role=Role.ACTIVE, first_sent_ns=AFTER)
    got = row(tmp_path, events=(sighting, sighting))
    assert (got["connection_id"], got["role"], got["netns"]) == (9, "active", 7)
    assert (got["local_addr"], got["local_port"], got["remote_port"]) == ("192.0.2.1", 40000, 443)
    assert got["started_ns"] == near(AFTER)
    assert (got["left_censored"], got["right_censored"]) == (False, False)
    known = {"connection_id", "netns", "family", "v4_mapped", "role", "started_ns"}
    known |= {f"{end}_{part}" for end in ("local", "remote") for part in ("addr", "port")}
    known |= {"left_censored", "right_censored"}
    assert {name for name, value in got.items() if value is not None} == known


def test_a_record_says_more_than_a_sighting(tmp_path: Path) -> None:
    got = row(tmp_path, conn(9), events=(event(Kind.SIGHTING, connection_id=9, first_sent_ns=AFTER),))
    assert got["close_reason"] == "fin"


def test_large_traces_keep_every_value(tmp_path: Path) -> None:
    records = synthetic.connections(20_000)
    made = table(tmp_path, records, events=(synthetic.events(500, of=records),), batch_rows=7000)
    assert made.num_rows == len(records)
    by_id = {
        row["connection_id"]: row
        for row in made.select(["connection_id", "established_ns", "srtt_us"]).to_pylist()
    }
    for one in records[::97]:
        want = {name: None if one[name] == -1 else int(one[name]) for name in ("established_ns", "srtt_us")}
        assert by_id[int(one["connection_id"])] == {"connection_id": int(one["connection_id"]), **want}
    started = [value for value in made["started_ns"].to_pylist() if value is not None]
    assert started == sorted(started)
