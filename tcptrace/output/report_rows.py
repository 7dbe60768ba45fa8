"""The report's two tables of connections: the slowest ones, and one row per remote end."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tcptrace.output.report_frame import Quantiles, quantiles
from tcptrace.output.report_text import endpoint
from tcptrace.output.report_views import FAILED

SLOWEST = 400  # by handshake ...
WORST = 100  # ... and by retransmitted data, where they are not among those
REMOTES = 200


@dataclass(frozen=True)
class ConnectionRow:
    """Numbers are None where the connection has none; times in ns, start_s since the recording began."""

    role: str
    process: str | None
    pid: int | None
    local: str
    remote: str
    start_s: float | None
    setup_ns: float | None
    completed: bool
    exact: bool
    life_ns: float | None
    min_rtt_ns: float | None
    retransmits: int | None
    bytes_sent: float | None
    bytes_received: float | None
    close_reason: str
    initiator: str | None
    left_censored: bool


@dataclass(frozen=True)
class Slowest:
    rows: list[ConnectionRow]
    of: int
    roles: list[str]
    reasons: list[str]


def slowest(frame: pd.DataFrame) -> Slowest:
    """The connections that took longest to be established or to fail, and those with most retransmissions.

    All of them, slowest first, when there are no more than the report shows.
    """
    again = frame[["retransmits", "syn_retransmits", "synack_retransmits"]].sum(axis=1, min_count=1)
    ordered = frame.assign(again=again).sort_values(
        "setup_ns", ascending=False, na_position="last", kind="stable"
    )
    chosen = ordered
    if len(ordered) > SLOWEST + WORST:
        worst = ordered.iloc[SLOWEST:].nlargest(WORST, "again")
        chosen = pd.concat([ordered.iloc[:SLOWEST], worst[worst["again"] > 0]])
    columns: Any = chosen.astype(object).where(chosen.notna(), None)
    rows = [
        ConnectionRow(
            role=row.role or "unknown",
            process=row.comm,
            pid=None if row.pid is None else int(row.pid),
            local=endpoint(row.local_addr, row.local_port),
            remote=endpoint(row.remote_addr, row.remote_port),
            start_s=row.start_s,
            setup_ns=row.setup_ns,
            completed=row.handshake_ns is not None,
            exact=row.handshake_exact != 0,
            life_ns=row.life_ns,
            min_rtt_ns=None if row.min_rtt_us is None else row.min_rtt_us * 1000,
            retransmits=None if row.again is None else int(row.again),
            bytes_sent=row.bytes_sent,
            bytes_received=row.bytes_received,
            close_reason=row.close_reason or "unknown",
            initiator=row.initiator,
            left_censored=row.left_censored == 1,
        )
        for row in columns.itertuples(index=False)
    ]
    return Slowest(
        rows, len(frame), sorted({row.role for row in rows}), sorted({row.close_reason for row in rows})
    )


@dataclass(frozen=True)
class RemoteRow:
    remote: str
    role: str
    port: int | None
    connections: int
    failed: int
    resets: int
    handshake: Quantiles
    retransmits: int
    bytes_sent: float
    bytes_received: float


@dataclass(frozen=True)
class Remotes:
    rows: list[RemoteRow]
    of: int


def remotes(frame: pd.DataFrame) -> Remotes:
    """Connections grouped by remote address, role and the service's port (remote for active ends, local for
    passive ones; none when the role is not known), the groups with most connections first."""
    port = frame["remote_port"].where(
        frame["role"] == "active", frame["local_port"].where(frame["role"] == "passive")
    )
    keyed = frame.assign(port=port.fillna(-1))
    keys = ["remote_addr", "role", "port"]
    counts = keyed.groupby(keys, observed=True).size().sort_values(ascending=False, kind="stable")
    top = counts.head(REMOTES)
    place = pd.Series(range(len(top)), index=top.index, name="place", dtype="int64")
    groups = keyed.merge(place, left_on=keys, right_index=True).groupby("place")
    rows = []
    for number, group in groups:
        address, role, service = top.index[int(str(number))]
        again = group[["retransmits", "syn_retransmits", "synack_retransmits"]].sum().sum()
        rows.append(
            RemoteRow(
                remote=str(address),
                role=str(role),
                port=int(service) if service >= 0 else None,
                connections=len(group),
                failed=int(group["close_reason"].isin(FAILED).sum()),
                resets=int(group["close_reason"].isin(["reset_sent", "reset_received"]).sum()),
                handshake=quantiles(group["handshake_ns"]),
                retransmits=int(again),
                bytes_sent=float(group["bytes_sent"].sum(min_count=1)),
                bytes_received=float(group["bytes_received"].sum(min_count=1)),
            )
        )
    return Remotes(rows, len(counts))
