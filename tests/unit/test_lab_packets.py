"""What is read out of the link's log."""

from __future__ import annotations

import numpy as np
import pytest

from tcptrace.errors import TcptraceError
from tcptrace.lab import packets
from tcptrace.lab.link import RECORD, Log
from tcptrace.lab.packet import ACK, FIN

MS = 1_000_000


def log_of(*rows: tuple[int, int, int, int, int, int]) -> Log:
    """Packets of one flow on a link of 5 ms, from (arrival ms, direction, flags, sequence, acknowledgement,
    payload)."""
    log = np.zeros(len(rows), RECORD)
    for record, (at, direction, flags, sequence, acknowledgement, payload) in zip(log, rows, strict=True):
        record["arrived_ns"], record["left_ns"] = at * MS, (at + 5) * MS
        record["direction"], record["flags"], record["payload"] = direction, flags, payload
        record["sequence"], record["acknowledgement"] = sequence % 2**32, acknowledgement % 2**32
    return log


@pytest.mark.parametrize("first", [1000, 2**32 - 11])
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


def test_a_packet_that_nothing_acknowledges_has_no_time() -> None:
    flow = log_of((0, 0, FIN | ACK, 1000, 7, 0), (6, 1, ACK, 7, 1000, 0))
    with pytest.raises(TcptraceError, match="never acknowledged"):
        packets.acknowledged_ns(flow, flow[0])
