"""The report's exchanges: how long they took, what each stage took, and the slowest ones.

Works on Arrow columns, one at a time: a recording may have a million exchanges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from tcptrace.analysis.columns import bool_array, int_array, nullable, plain, rows_at
from tcptrace.analysis.stages import GROUPS
from tcptrace.output import figures
from tcptrace.output.figures_budget import group_colour
from tcptrace.output.report_frame import Quantiles, quantiles
from tcptrace.output.report_text import endpoint
from tcptrace.output.stage_words import stage_name

SIDES = ("client", "server")
SLOWEST = 60  # exchanges in the table
TIMELINES = 6  # of them with their timeline
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class SideRow:
    """The exchanges of one side of a recording that have a record of their own."""

    side: str
    times: Quantiles
    exact: int  # network measured at both ends
    estimated: int  # network split from the peer by the minimum RTT
    delayed_ack: int
    ambiguous: int
    retransmitted: int


@dataclass(frozen=True)
class Piece:
    """One group's share of an exchange, for the small bar in its row."""

    group: str
    ns: int
    percent: float


@dataclass(frozen=True)
class SlowRow:
    """One slow exchange; connection_id is that of its own recording. Null facts are None; network_exact is
    None where there is no network stage."""

    connection_id: int
    seq: int
    side: str
    start_s: float | None
    total_ns: int
    process: str | None
    pid: int | None
    local: str
    remote: str
    pieces: list[Piece]
    network_exact: bool | None
    delayed_ack: bool | None
    hold_ambiguous: bool
    retransmits: int | None
    retransmit_kind: str | None
    request_bytes: int | None
    response_bytes: int | None
    timeline: Markup | None
    recording: int | None  # its number from 1, where there are several

    @property
    def marks(self) -> list[str]:
        """What is worth knowing about it, in words."""
        kind = f" ({self.retransmit_kind.upper()})" if self.retransmit_kind else ""
        times = f", {self.retransmits} times" if (self.retransmits or 0) > 1 else ""
        return [
            words
            for words, true in (
                ("delayed ACK", self.delayed_ack),
                (f"sent again{kind}{times}", self.retransmits),
                ("hold ambiguous", self.hold_ambiguous),
            )
            if true
        ]

    @property
    def largest(self) -> Piece | None:
        return max(self.pieces, key=lambda piece: piece.ns, default=None)


@dataclass(frozen=True)
class Latency:
    """Quantiles, percentile curves by side and the heatmap."""

    rows: list[SideRow]
    curves: dict[str, Any]
    heatmap: Any | None


def of_side(table: pa.Table, side: str) -> pa.Array:
    """Positions of the rows of one side, ascending."""
    return int_array(np.flatnonzero(pc.equal(table["side"], side).to_numpy(zero_copy_only=False)))


def latency(table: pa.Table, start_ns: int, span_s: float) -> Latency:
    """table: exchanges; start_ns: wall clock of the recording's start."""
    rows, curves, maps = [], {}, {}
    for side in SIDES:
        own = of_side(table, side)
        if not len(own):
            continue
        total = plain(_taken(table, own, "total_ns"), "total_ns")
        rows.append(_side_row(side, table, own, total))
        if total.max() > 0:
            curves[side] = _stage_curves(table, own, side)
        since = plain(_taken(table, own, "started_ns"), "started_ns") - start_ns
        maps[side] = pd.DataFrame({"start_s": since / 1e9, "total_ns": total})
    return Latency(
        rows, curves, figures.latency_heatmap(maps, span_s, "total_ns", "exchanges") if maps else None
    )


def _taken(table: pa.Table, rows: pa.Array, *names: str) -> pa.Table:
    return table.select(list(names)).take(rows)


def _side_row(side: str, table: pa.Table, own: pa.Array, total: "np.ndarray[Any, Any]") -> SideRow:
    facts = _taken(table, own, "network_exact", "delayed_ack", "hold_ambiguous", "retransmits")
    exact = pc.value_counts(facts["network_exact"]).to_pylist()
    known = {entry["values"]: entry["counts"] for entry in exact}
    again = nullable(facts, "retransmits")
    return SideRow(
        side,
        quantiles(pd.Series(total, dtype="float64")),
        known.get(True, 0),
        known.get(False, 0),
        int(pc.sum(facts["delayed_ack"]).as_py() or 0),
        int(pc.sum(facts["hold_ambiguous"]).as_py() or 0),
        int((again.known & (again.values > 0)).sum()),
    )


def _stage_curves(table: pa.Table, own: pa.Array, side: str) -> Any:
    """The total and every stage that is more than nothing in any exchange, each with its own percentiles."""
    total = plain(_taken(table, own, "total_ns"), "total_ns")
    series: dict[str, Any] = {"total": total}
    styles = [(figures.COLOUR["ink"], "solid")]
    for group, stages in GROUPS.items():
        drawn = 0
        for stage in stages:
            column = nullable(_taken(table, own, stage), stage)
            values = column.values[column.known]
            if len(values) and values.max() > 0:
                series[stage_name(stage)] = values
                styles.append((group_colour(group), DASHES[drawn % len(DASHES)]))
                drawn += 1
    return figures.percentile_curve(series, styles)


def slowest(
    rows: list[dict[str, Any]],
    connections: pa.Table,
    start_ns: int,
    timelines: Mapping[tuple[int, int], Markup],
) -> list[SlowRow]:
    """What the table says of these rows of `exchanges`.

    timelines: (connection_id, seq) -> its timeline as HTML.
    """
    owners = _owners(connections, {row["connection_id"] for row in rows})
    return [_slow_row(row, owners.get(row["connection_id"], {}), start_ns, timelines) for row in rows]


def slowest_rows(table: pa.Table, number: int = SLOWEST) -> list[dict[str, Any]]:
    """The rows of the exchanges with the largest total, largest first; of equals, the earlier first."""
    total = plain(table, "total_ns")
    most = min(number, len(total))
    chosen = np.sort(np.argpartition(-total, most - 1)[:most]) if most else np.zeros(0, np.int64)
    return rows_at(table, chosen[np.argsort(-total[chosen], kind="stable")])


def one_end_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows without those whose other end comes before: a turn seen from both ends is one."""
    shown: set[tuple[Any, Any]] = set()
    kept = []
    for row in rows:
        if (row["peer_connection_id"], row["peer_seq"]) not in shown:
            kept.append(row)
            shown.add((row["connection_id"], row["seq"]))
    return kept


def _owners(connections: pa.Table, ids: set[int]) -> dict[int, dict[str, Any]]:
    names = ("connection_id", "local_addr", "local_port", "remote_addr", "remote_port", "pid", "comm")
    wanted = np.isin(plain(connections, "connection_id"), np.array(sorted(ids), np.int64))
    found = connections.select(list(names)).filter(bool_array(wanted)).to_pylist()
    return {row["connection_id"]: row for row in found}


def _slow_row(
    row: Mapping[str, Any],
    owner: Mapping[str, Any],
    start_ns: int,
    timelines: Mapping[tuple[int, int], Markup],
) -> SlowRow:
    total = row["total_ns"]
    several = "trace" in row
    sums = {group: sum(row[stage] or 0 for stage in stages) for group, stages in GROUPS.items()}
    return SlowRow(
        connection_id=row["trace_connection_id" if several else "connection_id"],
        seq=row["seq"],
        side=row["side"],
        start_s=None if row["started_ns"] is None else (row["started_ns"] - start_ns) / 1e9,
        total_ns=total,
        process=owner.get("comm"),
        pid=owner.get("pid"),
        local=endpoint(owner.get("local_addr"), owner.get("local_port")),
        remote=endpoint(owner.get("remote_addr"), owner.get("remote_port")),
        pieces=[Piece(name, ns, 100 * ns / total) for name, ns in sums.items() if ns > 0 and total > 0],
        network_exact=row["network_exact"],
        delayed_ack=row["delayed_ack"],
        hold_ambiguous=row["hold_ambiguous"] is True,
        retransmits=row["retransmits"],
        retransmit_kind=row["retransmit_kind"],
        request_bytes=row["request_bytes"],
        response_bytes=row["response_bytes"],
        recording=row["trace"] + 1 if several else None,
        timeline=timelines.get((row["connection_id"], row["seq"])),
    )
