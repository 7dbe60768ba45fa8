"""Tables of exchanges as the analysis makes them, for tests of what shows them. All from a seed.

Rows belong to connections of a given table. Stages are drawn so that the whole zoo is there: requests that
Nagle held, retransmissions, receivers that were late, unattributed time, nulls.
"""

import numpy as np
import pyarrow as pa

from tcptrace.analysis.schema import EXCHANGES
from tcptrace.analysis.stages import STAGES

SERVER_LACKS = ("loss_recovery_ns", "network_ns", "peer_ns")


def exchanges(n: int, connections: pa.Table, seed: int = 5, null_stages: tuple[str, ...] = ()) -> pa.Table:
    """n exchanges on connections that had a handshake; active ends are the clients.

    null_stages: stages that no hook saw; their time is unattributed.
    """
    random = np.random.default_rng(seed)
    known = np.flatnonzero(
        np.array([role in ("active", "passive") for role in connections["role"].to_pylist()])
        & np.array([start is not None for start in connections["started_ns"].to_pylist()])
    )
    row = np.sort(random.choice(known, n))
    picked = connections.take(pa.array(row))
    client = np.array([role == "active" for role in picked["role"].to_pylist()])

    def times(median_ns: float, spread: float, share: float = 1.0) -> np.ndarray:
        made = (median_ns * random.lognormal(0, spread, n)).astype(np.int64)
        return np.where(random.random(n) < share, made, 0)

    slow = np.where(np.arange(n) % 7 == 0, 3.0, 1.0)
    stages = {
        "app_ns": np.where(client, times(9_000, 0.8), (times(900_000, 0.9) * slow).astype(np.int64)),
        "sndbuf_ns": times(300_000, 0.5, 0.01),
        "nagle_ns": times(41_000_000, 0.05, 0.08),
        "cork_ns": times(2_000_000, 0.3, 0.005),
        "cwnd_ns": times(1_500_000, 0.6, 0.02),
        "rwnd_ns": times(700_000, 0.6, 0.01),
        "pacing_ns": times(60_000, 0.6, 0.05),
        "kernel_tx_ns": times(11_000, 0.4),
        "loss_recovery_ns": times(210_000_000, 0.1, 0.004),
        "network_ns": times(210_000, 0.3),
        "peer_ns": times(1_000_000, 0.9),
        "kernel_rx_ns": times(4_000, 0.5),
        "wakeup_ns": times(9_000, 1.0),
        "app_late_ns": times(30_000, 1.5, 0.3),
        "transfer_ns": times(15_000, 1.5, 0.5),
    }
    for name in SERVER_LACKS:
        stages[name][~client] = 0
    unattributed = times(5_000, 0.8)
    total = np.sum(list(stages.values()), axis=0) + unattributed
    for name in null_stages:
        unattributed = unattributed + stages[name]
    exact = random.random(n) < 0.4
    again = stages["loss_recovery_ns"] > 0
    start = np.array(picked["started_ns"].to_pylist()) + random.integers(0, 5 * 10**9, n)
    columns: dict[str, pa.Array] = {
        "connection_id": picked["connection_id"].combine_chunks(),
        "seq": pa.array(np.arange(n)),
        "side": pa.array(np.where(client, "client", "server")),
        "started_ns": pa.array(start),
        "total_ns": pa.array(total),
        "unattributed_ns": pa.array(unattributed),
        "network_exact": pa.array(exact, mask=~client),
        "delayed_ack": pa.array(stages["nagle_ns"] > 0),
        "hold_ambiguous": pa.array(stages["cork_ns"] > 0),
        "request_bytes": pa.array(random.integers(50, 1500, n)),
        "response_bytes": pa.array(random.integers(50, 90_000, n)),
        "writes": pa.array(random.integers(1, 3, n)),
        "reads": pa.array(random.integers(1, 4, n)),
        "retransmits": pa.array(again.astype(np.int64)),
        "retransmit_kind": pa.array(np.where(again, "rto", ""), mask=~again),
        "peer_connection_id": pa.array(np.zeros(n, np.int64), mask=np.ones(n, bool)),
        "peer_seq": pa.array(np.zeros(n, np.int64), mask=np.ones(n, bool)),
    }
    for name in STAGES:
        mask = np.full(n, name in null_stages) | ((~client) & (name in SERVER_LACKS))
        columns[name] = pa.array(stages[name], mask=mask)
    table = pa.table([columns[name] for name in EXCHANGES.names], schema=EXCHANGES)
    return table.take(pa.array(np.argsort(start, kind="stable")))
