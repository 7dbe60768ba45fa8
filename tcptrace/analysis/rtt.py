"""The minimum round-trip time of each connection: what separates network from peer where only one end is
known.

Every piece of evidence is an upper bound of the path's round trip, so the least of them is the best:
  - the handshake, where it is exact and nothing of it was repeated;
  - the connection's own clean samples, data handed to the device until its own ACK arrived;
  - the wire time of its turns without loss, less what the other end says that it had the request for, if it
    does; without that it contains the peer's work.
The kernel's minimum contains the peer's work, too, and ages out. It counts where a connection was open before
the recording, so that there is no handshake, and had no clean sample since: it may still know the handshake.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Ints, Mask, Nullable, at, nullable, plain, positions, truths
from tcptrace.trace.reader import Trace

# A duration beyond this, 18 years, is none: 14 stages of it still add up in 63 bits.
LONGEST_NS = 1 << 59


@dataclass(frozen=True)
class RoundTrips:
    """Minimum round trips, ns, null without evidence; whether a handshake, and whether data, is among
    that."""

    least: Nullable
    shaken: Mask
    carried: Mask

    def of(self, rows: Ints) -> "RoundTrips":
        """Those at these rows; unknown at row -1."""
        one = np.zeros(len(self.shaken), np.int64)
        shaken, carried = (at(Nullable(one, mask), rows).known for mask in (self.shaken, self.carried))
        return RoundTrips(at(self.least, rows), shaken, carried)


def round_trips(connections: pa.Table, samples: Nullable, of: Ints, wire: Nullable) -> RoundTrips:
    """Per row of the table `connections`.

    samples: clean_samples(). wire: time under way of the request and the answer of turns without loss (null
    in all others); of: the row of `connections` to which each of these turns belongs, -1 for none.
    """
    least = np.full(connections.num_rows, LONGEST_NS)
    turns = wire.known & (wire.values > 0) & (of >= 0)
    np.minimum.at(least, of[turns], wire.values[turns])
    usable = samples.known & (samples.values > 0)
    least[usable] = np.minimum(least[usable], samples.values[usable])
    carried = least < LONGEST_NS
    handshake = handshakes(connections)
    least[handshake.known] = np.minimum(least, handshake.values)[handshake.known]
    kernel = nullable(connections, "min_rtt_us")
    kernel.known &= ~handshake.known & ~usable & (kernel.values > 0) & (kernel.values < LONGEST_NS // 1000)
    least[kernel.known] = np.minimum(least, 1000 * kernel.values)[kernel.known]
    known = least < LONGEST_NS
    return RoundTrips(Nullable(np.where(known, least, 0), known), handshake.known, carried)


def handshakes(connections: pa.Table) -> Nullable:
    """Per row of the table `connections`: its handshake, ns, where that was one round trip and nothing
    else."""
    times = nullable(connections, "handshake_ns")
    times.known &= (times.values > 0) & (times.values < LONGEST_NS) & truths(connections, "handshake_exact")
    for repeated in ("syn_retransmits", "synack_retransmits"):
        times.forget(nullable(connections, repeated).values != 0)
    return times


def clean_samples(trace: Trace, connections: pa.Table) -> Nullable:
    """Per row of the table `connections`: the least time from data to its own ACK, ns, over all its
    records."""
    of = positions(plain(connections, "connection_id"), plain(trace.connections, "connection_id"))
    sample = nullable(trace.connections, "min_sample_ns")
    usable = sample.known & (sample.values > 0) & (of >= 0)
    least = np.full(connections.num_rows, LONGEST_NS)
    np.minimum.at(least, of[usable], sample.values[usable])
    return Nullable(np.where(least < LONGEST_NS, least, 0), least < LONGEST_NS)
