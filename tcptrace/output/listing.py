"""Columns of the tables `connections` and `exchanges` as text cells, and both tables for reading."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.analysis.columns import endpoint_text, nullable, plain, positions
from tcptrace.analysis.stages import GROUPS
from tcptrace.output.escape import visible
from tcptrace.output.tables import Column, text_lines
from tcptrace.units import UNKNOWN, format_count, format_duration, format_size


def connection_lines(table: pa.Table) -> Iterator[str]:
    """The most telling columns of the table `connections` as aligned lines, the titles first."""
    started, ended = table["started_ns"], table["ended_ns"]
    life = pc.subtract(ended, started).to_pylist()
    return text_lines(
        [
            Column("ID", plain_cells(table["connection_id"]), right=True),
            Column("STARTED (UTC)", [instant_text(ns) for ns in started.to_pylist()]),
            Column("ROLE", plain_cells(table["role"])),
            Column("LOCAL", endpoint_cells(table, "local")),
            Column("REMOTE", endpoint_cells(table, "remote")),
            Column("PID", plain_cells(table["pid"]), right=True),
            Column("COMM", plain_cells(table["comm"])),
            Column("HANDSHAKE", handshake_cells(table), right=True),
            Column("LIFE", [format_duration(ns) for ns in life], right=True),
            Column("SENT", size_cells(table["bytes_sent"]), right=True),
            Column("RECEIVED", size_cells(table["bytes_received"]), right=True),
            Column("RETR", _retransmit_cells(table), right=True),
            Column("CLOSE", plain_cells(table["close_reason"])),
            Column("BY", plain_cells(table["initiator"])),
        ]
    )


def exchange_lines(table: pa.Table, connections: pa.Table) -> Iterator[str]:
    """The table `exchanges` as aligned lines, the titles first: stages by group, and remote ends."""
    return text_lines(
        [
            Column("ID", plain_cells(table["connection_id"]), right=True),
            Column("SEQ", plain_cells(table["seq"]), right=True),
            Column("STARTED (UTC)", [instant_text(ns) for ns in table["started_ns"].to_pylist()]),
            Column("SIDE", plain_cells(table["side"])),
            Column("REMOTE", _remote_cells(table, connections)),
            Column("TOTAL", [format_duration(ns) for ns in table["total_ns"].to_pylist()], right=True),
            *(
                Column(title, _group_cells(table, group), right=True)
                for group, title in _GROUP_TITLES.items()
            ),
            Column("REQUEST", size_cells(table["request_bytes"]), right=True),
            Column("ANSWER", size_cells(table["response_bytes"]), right=True),
            Column("NOTES", _note_cells(table)),
        ]
    )


_GROUP_TITLES = {
    "application": "APP",
    "scheduler": "SCHED",
    "kernel": "KERNEL",
    "nagle": "NAGLE",
    "flow control": "FLOW",
    "network": "NETWORK",
    "loss recovery": "LOSS",
    "peer": "PEER",
    "transfer": "TRANSFER",
    "unattributed": "REST",
}


def _remote_cells(table: pa.Table, connections: pa.Table) -> list[str]:
    ends = endpoint_cells(connections, "remote")
    rows = positions(plain(connections, "connection_id"), plain(table, "connection_id"))
    return [ends[row] if row >= 0 else UNKNOWN for row in rows.tolist()]


def _group_cells(table: pa.Table, group: str) -> list[str]:
    """The sum of a group's stages that are known; ≥ when some are not, ~ when it is an estimate."""
    stages = [nullable(table, stage) for stage in GROUPS[group]]
    total = np.sum([np.where(stage.known, stage.values, 0) for stage in stages], axis=0)
    some = np.any([stage.known for stage in stages], axis=0)
    every = np.all([stage.known for stage in stages], axis=0)
    rough = group in ("network", "peer")
    exact = table["network_exact"].to_pylist() if rough else [None] * table.num_rows
    return [
        f"{'≥' if not whole else '~' if sure is False else ''}{format_duration(ns)}" if known else UNKNOWN
        for ns, known, whole, sure in zip(total.tolist(), some.tolist(), every.tolist(), exact, strict=True)
    ]


def _note_cells(table: pa.Table) -> list[str]:
    columns = [
        table[name].to_pylist()
        for name in ("delayed_ack", "hold_ambiguous", "retransmits", "retransmit_kind")
    ]
    return [
        ", ".join(
            note
            for note, applies in (
                ("delayed ACK", delayed),
                ("Nagle or cork", ambiguous),
                (f"sent again ({kind or 'kind unknown'})", again),
            )
            if applies
        )
        for delayed, ambiguous, again, kind in zip(*columns, strict=True)
    ]


def repeated_syn_cells(table: pa.Table) -> list[str]:
    columns = [table[name].to_pylist() for name in ("syn_retransmits", "synack_retransmits")]
    return [
        UNKNOWN if syn is None and synack is None else format_count((syn or 0) + (synack or 0))
        for syn, synack in zip(*columns, strict=True)
    ]


def _retransmit_cells(table: pa.Table) -> list[str]:
    return [format_count(count) for count in table["retransmits"].to_pylist()]


def handshake_cells(table: pa.Table) -> list[str]:
    times, exact = table["handshake_ns"].to_pylist(), table["handshake_exact"].to_pylist()
    return [
        f"{'~' if sure is False else ''}{format_duration(ns)}" for ns, sure in zip(times, exact, strict=True)
    ]


def endpoint_cells(table: pa.Table, end: str) -> list[str]:
    addresses, ports = table[f"{end}_addr"].to_pylist(), table[f"{end}_port"].to_pylist()
    return [endpoint_text(address, port) for address, port in zip(addresses, ports, strict=True)]


def size_cells(column: pa.ChunkedArray) -> list[str]:
    return [format_size(value) for value in column.to_pylist()]


def plain_cells(column: pa.ChunkedArray) -> list[str]:
    """Strings and whole numbers as they are; what is empty could be mistaken for a gap."""
    return [UNKNOWN if value is None else visible(str(value)) or '""' for value in column.to_pylist()]


def instant_text(realtime_ns: int | None) -> str:
    """Wall clock in UTC with microseconds."""
    if not isinstance(realtime_ns, int):
        return UNKNOWN
    try:
        at = datetime.fromtimestamp(realtime_ns // 1_000_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{realtime_ns} ns since 1970"
    return f"{at:%Y-%m-%d %H:%M:%S}.{realtime_ns % 1_000_000_000 // 1000:06d}"
