"""What setting connections up cost the exchanges that they served.

A handshake is before the first exchange, in nobody's total; spread over the exchanges of its connection it is
what each of them pays for it. One connection for every request pays it every time.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tcptrace.analysis.budget import Pieces, share
from tcptrace.analysis.columns import Ints, exact_sum, int_array, nullable, plain, text_equals, truths
from tcptrace.analysis.groups import connection_rows

_FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Setup:
    """The connections on which clients' exchanges were.

    timed: how many of them connected in view; handshakes_ns: how long that took them, in sum. exact: no
    handshake among them is an estimate. pool: the most that were in use at once, from set-up to the end of
    the last exchange; kept_ns: what that many handshakes take, the longest of all. An accepted connection
    costs a client nothing here, and one that was open before the recording nothing in it.
    """

    exchanges: int
    connections: int
    timed: int
    handshakes_ns: int
    exact: bool
    pool: int
    kept_ns: int

    @property
    def each_ns(self) -> int:
        """Per exchange, to the nearest ns."""
        return share(self.handshakes_ns, self.exchanges)

    @property
    def saving_ns(self) -> int:
        """Per exchange: what a pool that stays open would not have paid, to the nearest ns."""
        return share(self.handshakes_ns - self.kept_ns, self.exchanges)


def setup(own: Pieces, connections: pa.Table) -> Setup:
    """The set-up of the connections of these exchanges, all of clients."""
    position = connection_rows(own.table, connections)
    used = np.unique(position[position >= 0])
    ends = connections.take(int_array(used))
    handshake = nullable(ends, "handshake_ns")
    timed = handshake.known & text_equals(ends["role"], "active")
    durations = np.sort(handshake.values[timed])[::-1]
    pool = _most_at_once(own, position, used, ends)
    return Setup(
        exchanges=int(own.weight.sum()),
        connections=len(used),
        timed=len(durations),
        handshakes_ns=exact_sum(durations),
        exact=bool(truths(ends, "handshake_exact")[timed].all()),
        pool=pool,
        kept_ns=exact_sum(durations[:pool]),
    )


def _most_at_once(own: Pieces, position: Ints, used: Ints, ends: pa.Table) -> int:
    """How many of the connections were in use at the same time, at most."""
    if not len(used):
        return 0
    place = np.searchsorted(used, np.maximum(position, 0))
    has = position >= 0
    start = plain(own.table, "started_ns")
    end = start + plain(own.table, "total_ns")
    begin, last = np.full(len(used), _FOREVER), np.zeros(len(used), np.int64)
    np.minimum.at(begin, place[has], start[has])
    np.maximum.at(last, place[has], end[has])
    started, ended = nullable(ends, "started_ns"), nullable(ends, "ended_ns")
    begin = np.where(started.known, np.minimum(begin, started.values), begin)
    # Of exchanges in sums only the first one's start is known: their connection counts until it ends.
    summed = np.unique(place[own.rows :][has[own.rows :]])
    last[summed] = np.where(ended.known, ended.values, _FOREVER)[summed]

    times = np.concatenate([begin, last])
    steps = np.concatenate([np.ones(len(used), np.int64), np.full(len(used), -1)])
    # At the same instant the end comes first: the next one could have used that connection.
    return int(np.cumsum(steps[np.lexsort((steps, times))]).max())
