"""Rows of the tables `exchanges`, sums and `connections`, made by hand for tests of budgets."""

from typing import Any

import pyarrow as pa

from tcptrace.analysis.schema import CONNECTIONS, EXCHANGES, SUMS
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED

MS = 10**6
START = 1_760_000_000 * 10**9


def turn(total_ns: int | None = None, connection_id: int = 1, seq: int = 0, **fields: Any) -> dict[str, Any]:
    """A client's exchange: stages are 0 unless named (None: not known), the rest of the total is
    unattributed. Without a total, the stages are all of it."""
    stages = dict.fromkeys(STAGES, 0) | {name: fields.pop(name) for name in STAGES if name in fields}
    spent = sum(ns or 0 for ns in stages.values())
    total = spent if total_ns is None else total_ns
    usual = {
        "connection_id": connection_id,
        "seq": seq,
        "side": "client",
        "started_ns": START + seq * MS,
        "total_ns": total,
        **stages,
        UNATTRIBUTED: total - spent,
        "network_exact": None if stages["network_ns"] is None else False,
        "delayed_ack": False,
        "hold_ambiguous": False,
        "request_bytes": 50,
        "response_bytes": 50,
        "writes": 1,
        "reads": 1,
        "retransmits": 0,
    }
    return usual | fields


def server(total_ns: int | None = None, connection_id: int = 2, **fields: Any) -> dict[str, Any]:
    absent = dict.fromkeys(("network_ns", "peer_ns", "loss_recovery_ns"))
    return turn(total_ns, connection_id, **{"side": "server"} | absent | fields)


def summed(exchanges: int, **fields: Any) -> dict[str, Any]:
    return turn(**fields) | {"exchanges": exchanges}


def rows(*turns: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(turns), schema=EXCHANGES)


def sums(*turns: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(turns), schema=SUMS)


def conn(connection_id: int = 1, **fields: Any) -> dict[str, Any]:
    """A client's connection to 10.0.0.2:5000 by order-gw, 4711."""
    usual = {
        "connection_id": connection_id,
        "netns": 7,
        "local_addr": "10.0.0.1",
        "local_port": 40000 + connection_id,
        "remote_addr": "10.0.0.2",
        "remote_port": 5000,
        "role": "active",
        "pid": 4711,
        "comm": "order-gw",
        "started_ns": START,
        "ended_ns": START + 1000 * MS,
        "handshake_ns": 500_000,
        "handshake_exact": True,
        "left_censored": False,
        "right_censored": False,
        "congestion_control": "cubic",
        "pattern": "turns",
    }
    return usual | fields


def accepted(connection_id: int = 2, **fields: Any) -> dict[str, Any]:
    """The other end of such a connection."""
    ends = {"local_addr": "10.0.0.2", "local_port": 5000, "remote_addr": "10.0.0.1", "remote_port": 40001}
    owner = {"role": "passive", "pid": 99, "comm": "order-db"}
    return conn(connection_id, **ends | owner | fields)


def conns(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=CONNECTIONS)
