"""Columns of the table `connections` as text cells, and the table for reading."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from tcptrace.analysis.columns import endpoint_text
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
