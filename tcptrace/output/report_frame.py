"""The columns of a recording that the report needs, as pandas frames.

Durations are float64 nanoseconds with NaN for null (exact up to 104 days); instants are seconds since the
recording began, because a wall clock in nanoseconds does not fit a float.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.analysis.quantiles import QUANTILES, quantile
from tcptrace.trace.wire import Kind

ROLES = ("active", "passive", "unknown")
STATES = (
    "syn_sent",
    "syn_recv",
    "established",
    "fin_wait1",
    "fin_wait2",
    "closing",
    "time_wait",
    "close_wait",
    "last_ack",
)
NAMES = ("local_addr", "remote_addr", "role", "comm", "close_reason", "initiator")
NUMBERS = (
    "local_port",
    "remote_port",
    "pid",
    "handshake_ns",
    *(f"{state}_ns" for state in STATES),
    "retransmits",
    "syn_retransmits",
    "synack_retransmits",
    "min_rtt_us",
    "bytes_sent",
    "bytes_received",
    "segments_sent",
)
FLAGS = ("handshake_exact", "left_censored", "right_censored")

_LARGEST = float((1 << 63) - 1024)  # the largest float that int64 holds

TCP_SYN_SENT, TCP_SYN_RECV = 2, 3  # include/net/tcp_states.h


@dataclass(frozen=True)
class Quantiles:
    """Nearest-rank quantiles in ns, by the rules of the summary; None when the sample is too small."""

    n: int
    min: int | None
    p25: int | None
    p50: int | None
    p75: int | None
    p90: int | None
    p99: int | None
    max: int | None


def quantiles(values: "pd.Series[float]") -> Quantiles:
    """Quantiles of the values that are not null."""
    # 2**63 as a float does not fit back; only a forged file has such a duration.
    ordered = np.sort(values.dropna().clip(upper=_LARGEST).to_numpy().astype(np.int64))
    p50, p90, p99 = (quantile(ordered, *QUANTILES[name]) for name in ("p50_ns", "p90_ns", "p99_ns"))
    low, p25, p75, high = (quantile(ordered, percent) for percent in (0, 25, 75, 100))
    return Quantiles(len(ordered), low, p25, p50, p75, p90, p99, high)


def connection_frame(table: pa.Table, start_ns: int) -> pd.DataFrame:
    """One row per connection end, in the order of the table.

    start_ns: wall clock of the recording's start. Adds `start_s` (since then), `life_ns` (null while open)
    and `setup_ns`: the handshake, or for one that never completed the time that was spent waiting for it.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name in NAMES:
        columns[name] = pc.dictionary_encode(table[name])
    for name in NUMBERS:
        columns[name] = pc.cast(table[name], pa.float64(), safe=False)
    for name in FLAGS:
        columns[name] = pc.cast(pc.cast(table[name], pa.int8()), pa.float64())
    started, ended = table["started_ns"], table["ended_ns"]
    columns["start_ns"] = pc.cast(
        pc.subtract(started, pa.scalar(start_ns, pa.int64())), pa.float64(), safe=False
    )
    columns["life_ns"] = pc.cast(pc.subtract(ended, started), pa.float64(), safe=False)
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    frame["start_s"] = frame.pop("start_ns") / 1e9
    waiting = frame["syn_sent_ns"].fillna(frame["syn_recv_ns"])
    frame["setup_ns"] = frame["handshake_ns"].fillna(waiting.where(frame["established_ns"].isna()))
    return frame


def event_frame(events: pa.Table, start_monotonic_ns: int) -> pd.DataFrame:
    """Rare events: time_s since the start, `what` (syn, synack, data, drop, reset), reason and local_port.

    Resets that belong to a connection are left out: they are that connection's close reason.
    """
    kind = events["kind"].to_numpy()
    state = pc.fill_null(events["state"], -1).to_numpy()
    orphan = events["connection_id"].is_null().to_numpy()
    retransmit, synack = kind == Kind.RETRANSMIT, kind == Kind.SYNACK_RETRANSMIT
    what = np.select(
        [
            retransmit & (state == TCP_SYN_SENT),
            synack | (retransmit & (state == TCP_SYN_RECV)),
            retransmit,
            kind == Kind.DROP,
            (kind == Kind.RESET_SENT) & orphan,
        ],
        ["syn", "synack", "data", "drop", "reset"],
        default="",
    )
    frame = pd.DataFrame(
        {
            "time_s": (events["time_ns"].to_numpy() - start_monotonic_ns) / 1e9,
            "what": what,
            "reason": pc.fill_null(events["reason"], -1).to_numpy(),
            "local_port": pc.fill_null(events["local_port"], 0).to_numpy(),
        }
    )
    return frame[frame["what"] != ""]
