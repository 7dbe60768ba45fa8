"""The numbers of a summary against values counted by hand, and what it says about what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from test_connections import conn, event

from tcptrace import __version__
from tcptrace.analysis.connections import connections
from tcptrace.analysis.quantiles import quantile
from tcptrace.analysis.summary import describe, problems, summarise
from tcptrace.trace.reader import Trace, read
from tcptrace.trace.wire import CloseReason, Kind, Role


def trace(tmp_path: Path, *records: np.ndarray, events: tuple[np.ndarray, ...] = (), **kwargs: Any) -> Trace:
    return read(
        synthetic.write_trace(
            tmp_path / "t.tct",
            np.concatenate(records) if records else None,
            np.concatenate(events) if events else None,
            **kwargs,
        )
    )


def summary(tmp_path: Path, *records: np.ndarray, **kwargs: Any) -> dict[str, Any]:
    contents = trace(tmp_path, *records, **kwargs)
    made = summarise(contents, connections(contents))
    json.dumps(made, allow_nan=False)
    return made


def handshakes(role: Role, *times: int) -> list[np.ndarray]:
    return [conn(number + 1, role=role, handshake_ns=time) for number, time in enumerate(times)]


def test_the_keys_are_those_of_the_interface(tmp_path: Path) -> None:
    made = summary(tmp_path, conn())
    assert list(made) == [
        *("tcptrace", "trace", "lost", "connections", "handshake", "retransmits"),
        *("exchanges", "budget", "events"),
    ]
    assert made["tcptrace"] == __version__
    assert list(made["connections"])[:3] == ["rows", "by_role", "by_close_reason"]
    for role in ("active", "passive"):
        assert list(made["handshake"][role])[:5] == ["n", "p50_ns", "p90_ns", "p99_ns", "max_ns"]


def test_an_empty_trace_has_zero_rows_and_null_quantiles(tmp_path: Path) -> None:
    made = summary(tmp_path)
    assert made["connections"]["rows"] == 0
    assert made["connections"]["by_role"] == {"active": 0, "passive": 0, "unknown": 0}
    assert made["connections"]["by_close_reason"] == {}
    nothing = dict.fromkeys(("p50_ns", "p90_ns", "p99_ns", "max_ns"))
    assert made["handshake"]["active"] == {"n": 0, **nothing, "not_observed": 0, "estimated": 0}
    assert made["lost"] == {"total": 0}


def test_rows_are_counted_by_role_and_reason(tmp_path: Path) -> None:
    made = summary(
        tmp_path,
        conn(1),
        conn(2, role=Role.PASSIVE, close_reason=CloseReason.OPEN, ended_ns=-1),
        conn(3, close_reason=CloseReason.UNKNOWN),
        conn(4, role=Role.UNKNOWN),
        conn(4, close_reason=CloseReason.OPEN),  # interim: not counted twice
    )["connections"]
    assert made == {
        "rows": 4,
        "by_role": {"active": 2, "passive": 1, "unknown": 1},
        "by_close_reason": {"fin": 2, "open": 1, "unknown": 1},
        "left_censored": 0,
        "right_censored": 1,
        "only_sighted": 0,
    }


def test_too_few_values_have_no_quantile(tmp_path: Path) -> None:
    made = summary(tmp_path, *handshakes(Role.ACTIVE, *range(9, 0, -1)))["handshake"]["active"]
    assert (made["n"], made["p50_ns"], made["p90_ns"], made["p99_ns"], made["max_ns"]) == (
        9,
        5,
        None,
        None,
        9,
    )


def test_quantiles_are_measured_values_of_one_role(tmp_path: Path) -> None:
    made = summary(
        tmp_path,
        *handshakes(Role.ACTIVE, *range(100, 0, -1)),
        conn(900, handshake_ns=-1),
        conn(901, role=Role.PASSIVE, handshake_ns=7777, handshake_exact=0),
    )["handshake"]
    active = made["active"]
    assert (active["n"], active["p50_ns"], active["p90_ns"], active["p99_ns"]) == (100, 50, 90, 99)
    assert (active["max_ns"], active["not_observed"], active["estimated"]) == (100, 1, 0)
    assert (made["passive"]["n"], made["passive"]["p50_ns"], made["passive"]["estimated"]) == (1, 7777, 1)


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=300), st.integers(1, 100))
def test_a_quantile_covers_its_share_and_no_more(values: list[int], percent: int) -> None:
    ordered = np.sort(np.array(values, np.int64))
    got = quantile(ordered, percent)
    assert got in values
    assert (ordered <= got).sum() * 100 >= percent * len(values)
    assert (ordered < got).sum() * 100 < percent * len(values)


def test_retransmits_and_events(tmp_path: Path) -> None:
    none = {"retransmits": 0, "syn_retransmits": 0, "synack_retransmits": 0}
    made = summary(
        tmp_path,
        conn(1, **none | {"retransmits": 3}),
        conn(2, **none | {"syn_retransmits": 1}),
        conn(3, role=Role.PASSIVE, **none | {"synack_retransmits": 2}),
        conn(4, **none),
        conn(5),
        events=(
            event(Kind.RETRANSMIT, connection_id=1),
            event(Kind.DROP, reason=3),
            event(Kind.DROP, reason=3),
            event(Kind.DROP, reason=250),
            event(Kind.DROP),
            event(Kind.RESET_SENT, reason=2),
            event(Kind.RESET_SENT, connection_id=4, reason=2),
        ),
    )
    assert made["retransmits"] == {
        "data": 3,
        "syn": 1,
        "synack": 2,
        "connections": 3,
        "connections_not_known": 1,
    }
    assert made["events"] == {
        "retransmit": 1,
        "synack_retransmit": 0,
        "reset_sent": 2,
        "drop": 4,
        "reset_sent_without_connection": 1,
        "drop_reasons": {"NO_SOCKET": 2, "250": 1, "unknown": 1},
        "reset_reasons": {"NO_SOCKET": 2},
    }


def test_what_the_host_could_not_tell_is_null(tmp_path: Path) -> None:
    def hook(fact: str, provider: str | None, reason: str | None) -> dict[str, object]:
        return {"fact": fact, "provider": provider, "exact": provider is not None, "reason": reason}

    hooks = [
        hook("reset sent", "tp_btf/tcp_send_reset", "only of its own sockets"),
        hook("drop with a reason", None, "no reason here"),
        hook("retransmission", "tp_btf/tcp_retransmit_skb", None),
    ]
    made = summary(tmp_path, conn(1), header_changes={"hooks": hooks})["events"]
    assert (made["reset_sent"], made["reset_sent_without_connection"]) == (0, None)
    assert (made["drop"], made["retransmit"], made["synack_retransmit"]) == (None, 0, 0)


def test_sightings_count_only_without_a_record(tmp_path: Path) -> None:
    made = summary(
        tmp_path,
        conn(1),
        events=tuple(event(Kind.SIGHTING, connection_id=number) for number in (1, 2, 2, 3)),
    )
    assert (made["connections"]["rows"], made["connections"]["only_sighted"]) == (3, 2)
    assert made["trace"]["records"] == {"connections": 1, "events": 0, "sightings": 4}


def test_a_complete_trace_has_no_problem(tmp_path: Path) -> None:
    contents = trace(tmp_path, conn(), losses={"connection_ring": 0})
    assert problems(contents) == []
    info = describe(contents)
    assert info["complete"] and info["clean_end"]
    assert info["lost"] == {"total": 0}
    assert info["duration_ns"] == 60 * 10**9
    assert info["header"]["hostname"] == "host.example"


def test_losses_are_named_largest_first(tmp_path: Path) -> None:
    contents = trace(tmp_path, conn(), losses={"state": 0, "event_ring": 2, "connection_ring": 5})
    assert list(describe(contents)["lost"].items()) == [
        ("total", 7),
        ("connection_ring", 5),
        ("event_ring", 2),
    ]
    assert problems(contents) == ["the recording lost something: connection_ring 5, event_ring 2"]


def test_without_a_trailer_losses_are_unknown_and_the_end_is_a_lower_bound(tmp_path: Path) -> None:
    contents = trace(tmp_path, conn(), clean=False)
    info = describe(contents)
    assert not info["complete"] and info["truncated"]
    assert info["lost"] == {"total": None}
    assert info["trailer"] is None
    assert isinstance(info["duration_ns"], int)
    assert "truncated" in problems(contents)[0]


def test_damage_is_said(tmp_path: Path) -> None:
    records = synthetic.connections(300)
    path = synthetic.write_trace(tmp_path / "d.tct", records, batch_rows=100)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 5] ^= 4
    path.write_bytes(data)
    contents = read(path)
    assert len(problems(contents)) == 1
    assert "the file is damaged" in problems(contents)[0]
    made = summarise(contents, connections(contents))
    assert 0 < made["connections"]["rows"] < 300
