"""What is read out of the link's log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.faults import Kind, kind_matches
from tcptrace.lab.link import RECORD, Log
from tcptrace.lab.packet import ACK, FIN, RST, SYN, Segment

MS = 1_000_000
PORT, CLIENT = 7001, 40000
ISNS = st.integers(0, 2**32 - 1) | st.sampled_from([2**32 - 1, 2**32 - 100])
"""Initial sequence numbers, some just before the wrap."""


def log_of(*rows: tuple[int, int, int, int, int, int]) -> Log:
    """Packets of one flow on a link of 5 ms, from (arrival ms, direction, flags, sequence, acknowledgement,
    payload)."""
    log = np.zeros(len(rows), RECORD)
    for record, (at, direction, flags, sequence, acknowledgement, payload) in zip(log, rows, strict=True):
        record["arrived_ns"], record["left_ns"], record["rule"] = at * MS, (at + 5) * MS, -1
        record["direction"], record["flags"], record["payload"] = direction, flags, payload
        record["sequence"], record["acknowledgement"] = sequence % 2**32, acknowledgement % 2**32
        ports = (CLIENT, PORT) if direction == packets.OUT else (PORT, CLIENT)
        record["source_port"], record["destination_port"] = ports
    return log


def lost(log: Log, *which: int) -> Log:
    """The same log, but that these packets were dropped."""
    log = log.copy()
    log["left_ns"][list(which)], log["rule"][list(which)] = -1, 0
    return log


RECORDS = st.lists(
    st.builds(
        dict,
        arrived_ns=st.integers(0, 50),
        flow=st.integers(0, 3),
        payload=st.integers(0, 3),
        flags=st.integers(0, 63),
        direction=st.integers(0, 1),
        source_port=st.sampled_from([PORT, CLIENT]),
        destination_port=st.sampled_from([PORT, CLIENT]),
    ),
    max_size=20,
)


def any_log(records: Sequence[dict[str, Any]]) -> Log:
    log = np.zeros(len(records), RECORD)
    for into, record in zip(log, records, strict=True):
        for name, value in record.items():
            into[name] = value
    log["sequence"] = np.arange(len(log))
    return log


@given(RECORDS)
def test_each_packet_of_a_port_is_in_one_flow_and_flows_are_in_order(records: list[dict[str, Any]]) -> None:
    log = any_log(records)
    flows = packets.flows(log, PORT)
    mine = [one for one in log if PORT in (one["source_port"], one["destination_port"])]
    assert sorted(int(one["sequence"]) for flow in flows for one in flow) == [one["sequence"] for one in mine]
    numbers = [set(flow["flow"].tolist()) for flow in flows]
    assert all(len(number) == 1 for number in numbers)
    assert [number.pop() for number in numbers] == sorted({int(one["flow"]) for one in mine})
    for flow in flows:
        order = list(zip(flow["arrived_ns"].tolist(), flow["sequence"].tolist(), strict=True))
        assert order == sorted(order), "by arrival, those of one instant as they were in the log"


@given(RECORDS, st.sampled_from(get_args(Kind)), st.sampled_from([None, packets.OUT, packets.BACK]))
def test_kinds_are_those_of_the_links_rules(
    records: list[dict[str, Any]], kind: Kind, direction: int | None
) -> None:
    log = any_log(records)
    expected = [
        one["sequence"]
        for one in log
        if direction in (None, one["direction"])
        and kind_matches(kind, Segment(4, b"", b"", 1, 2, 0, 0, int(one["flags"]), int(one["payload"])))
    ]
    assert packets.of_kind(log, kind, direction)["sequence"].tolist() == expected


@given(RECORDS, st.sampled_from([None, packets.OUT, packets.BACK]))
def test_a_pure_ack_is_of_no_kind(records: list[dict[str, Any]], direction: int | None) -> None:
    log = any_log(records)
    acks = packets.pure_acks(log, direction)
    for kind in ("syn", "synack", "data", "fin", "rst"):
        assert not len(packets.of_kind(acks, kind))
    assert ((acks["flags"] & ACK) != 0).all()
    others = [log[~np.isin(log["sequence"], acks["sequence"])]]
    for one in others[0]:
        wrong_way = direction is not None and one["direction"] != direction
        speaks = one["payload"] > 0 or one["flags"] & (SYN | FIN | RST) or not one["flags"] & ACK
        assert wrong_way or speaks


def test_dropped_is_what_a_rule_took_not_what_a_device_refused() -> None:
    log = lost(log_of((0, 0, SYN, 1, 0, 0), (1, 0, SYN, 1, 0, 0), (2, 0, SYN, 1, 0, 0)), 1)
    log["left_ns"][2] = -1
    assert packets.dropped(log)["arrived_ns"].tolist() == [MS]


HANDSHAKE = (
    (0, 0, SYN, 100, 0, 0),
    (1000, 0, SYN, 100, 0, 0),
    (1006, 1, SYN | ACK, 900, 101, 0),
    (1500, 1, SYN | ACK, 900, 101, 0),
    (1506, 0, SYN, 100, 0, 0),
    (1507, 0, ACK, 101, 901, 0),
    (1508, 0, ACK, 101, 901, 10),
)


@pytest.mark.parametrize(
    ("gone", "active_ms", "passive_ms"),
    [
        ((), 1011, 506),  # the ACK of the first SYN-ACK comes late, as it may
        ((0,), 1011, 506),
        ((2,), 1505, 506),
        ((0, 2), 1505, 506),
        ((2, 5), 1505, 507),  # the ACK is lost, and the first data says the same
    ],
)
def test_a_handshake_lasts_from_the_first_syn_and_synack_whatever_was_lost(
    gone: tuple[int, ...], active_ms: int, passive_ms: int
) -> None:
    assert packets.handshake_ns(lost(log_of(*HANDSHAKE), *gone)) == (active_ms * MS, passive_ms * MS)


@pytest.mark.parametrize(
    ("gone", "message"), [((2, 3), "never opened"), ((5, 6), "never answered"), ((), "never opened")]
)
def test_a_handshake_that_did_not_come_about_has_no_time(gone: tuple[int, ...], message: str) -> None:
    flow = lost(log_of(*HANDSHAKE), *gone) if gone else log_of(*HANDSHAKE[:2])
    with pytest.raises(TcptraceError, match=message):
        packets.handshake_ns(flow)


@given(ISNS)
def test_a_fin_is_acknowledged_by_the_first_ack_beyond_it(first: int) -> None:
    flow = log_of(
        (0, 0, FIN | ACK, first, 7, 10),
        (1, 1, ACK, 7, first, 3),  # under way before the FIN came
        (6, 1, ACK, 10, first + 10, 0),  # of its data alone
        (8, 1, ACK, 10, first + 11, 0),
        (9, 1, FIN | ACK, 10, first + 11, 0),
        (9, 0, ACK, first + 11, 11, 0),
    )
    assert packets.acknowledged_ns(flow, flow[0]) == 13 * MS


@given(ISNS, st.lists(st.integers(1, 1448), min_size=1, max_size=6))
def test_data_is_acknowledged_when_all_of_it_is(first: int, sizes: list[int]) -> None:
    """Segments a millisecond apart, and an ACK for each 10 ms after it."""
    starts = [first + sum(sizes[:n]) for n in range(len(sizes))]
    sent = [(n, 0, ACK, start, 7, size) for n, (start, size) in enumerate(zip(starts, sizes, strict=True))]
    acks = [(n + 10, 1, ACK, 7, start + size, 0) for n, _, _, start, _, size in sent]
    flow = log_of(*sent, *acks)
    assert [packets.acknowledged_ns(flow, flow[n]) for n in range(len(sizes))] == [15 * MS] * len(sizes)
    # The last ACK is for all of them: one in between may be lost.
    lossy = lost(flow, *range(len(sizes), 2 * len(sizes) - 1))
    waits = [packets.acknowledged_ns(lossy, lossy[n]) for n in range(len(sizes))]
    assert waits == [(15 + len(sizes) - 1 - n) * MS for n in range(len(sizes))]


def test_a_packet_that_nothing_acknowledges_has_no_time() -> None:
    flow = log_of((0, 0, FIN | ACK, 1000, 7, 0), (6, 1, ACK, 7, 1000, 0))
    with pytest.raises(TcptraceError, match="never acknowledged"):
        packets.acknowledged_ns(flow, flow[0])


def test_the_link_had_the_last_of_the_request_and_the_first_of_the_answer() -> None:
    flow = log_of(
        (0, 0, ACK, 100, 7, 10),
        (1, 0, ACK, 110, 7, 10),
        (1, 1, ACK, 7, 110, 0),
        (6, 1, ACK, 7, 120, 5),
        (7, 1, ACK, 12, 120, 5),
        (20, 0, ACK, 120, 17, 1),
        (30, 0, ACK, 120, 17, 1),  # once more: it was not answered in time
        (31, 1, ACK, 17, 121, 1),
        (40, 0, ACK, 121, 18, 1),  # and no answer to this
    )
    flow["left_ns"][[1, 3, 4, 6]] += (1 * MS, 2 * MS, 40 * MS, 80 * MS)
    assert packets.carried_ns(flow) == [13 * MS, 10 * MS]


@given(ISNS, st.lists(st.integers(1, 1448), min_size=1, max_size=6), st.data())
def test_bytes_have_departed_when_the_segment_with_the_last_of_them_has(
    first: int, sizes: list[int], data: st.DataObject
) -> None:
    total = sum(sizes)
    ends = data.draw(st.lists(st.integers(1, total)))
    sent = [(n, 0, ACK, first + 1 + sum(sizes[:n]), 7, size) for n, size in enumerate(sizes)]
    flow = log_of((-1, 0, SYN, first, 0, 0), *sent)
    segments = [next(n for n in range(len(sizes)) if sum(sizes[: n + 1]) >= end) for end in ends]
    assert packets.departures_ns(flow, ends) == [n * MS for n in segments]
    with pytest.raises(TcptraceError, match=f"less than {total + 1} bytes"):
        packets.departures_ns(flow, [*ends, total + 1])


def test_a_turn_has_its_request_s_last_segment_and_its_answer_s_first() -> None:
    flow = log_of(
        (0, 0, SYN, 99, 0, 0),
        (6, 1, SYN | ACK, 6, 100, 0),
        (12, 0, ACK, 100, 7, 20),
        (13, 0, ACK, 120, 7, 30),
        (14, 0, ACK, 120, 7, 30),  # once more
        (20, 1, ACK, 7, 150, 0),  # without data
        (21, 1, ACK, 7, 150, 10),
        (22, 1, ACK, 17, 150, 10),
        (30, 0, ACK, 150, 27, 50),
        (40, 1, ACK, 27, 200, 10),
        (50, 0, ACK, 200, 37, 50),  # never answered
    )
    flow["left_ns"][[3, 6]] += (1 * MS, 2 * MS)
    assert packets.carried_ns(flow) == [13 * MS, 10 * MS]
    assert packets.carried_ns(flow[:2]) == []


@pytest.mark.parametrize("first", [1000, 2**32 - 11])
def test_bytes_departed_when_the_link_first_had_them(first: int) -> None:
    flow = log_of(
        (0, 0, SYN, first - 1, 0, 0),
        (12, 0, ACK, first, 7, 20),
        (13, 0, ACK, first + 20, 7, 30),
        (14, 0, ACK, first, 7, 20),  # once more
        (15, 1, ACK, 7, first + 50, 500),
    )
    assert packets.departures_ns(flow, [10, 20, 21, 50]) == [12 * MS, 12 * MS, 13 * MS, 13 * MS]
    with pytest.raises(TcptraceError, match="less than 51 bytes"):
        packets.departures_ns(flow, [51])
