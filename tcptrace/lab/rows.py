"""The rows of a scenario's recording, as its checks want them: by role, by port, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges
from tcptrace.trace.reader import Trace, read

Row = dict[str, Any]
Role = Literal["active", "passive"]
Side = Literal["client", "server"]


class Rows:
    """The tables `connections` and `exchanges` as lists of dicts, null as None, and the trace itself."""

    def __init__(self, path: Path) -> None:
        self.trace: Trace = read(path)
        ends = connections(self.trace)
        self.connections: list[Row] = ends.to_pylist()
        self.exchanges: list[Row] = exchanges(self.trace, ends).to_pylist()
        self._by_id = {row["connection_id"]: row for row in self.connections}

    def ends(self, role: Role, port: int) -> list[Row]:
        """Connections to this port, at the end that connected or at the one that was connected to, by
        their start (a null one comes first)."""
        column = "remote_port" if role == "active" else "local_port"
        return [row for row in self.connections if row["role"] == role and row[column] == port]

    def turns(self, side: Side, port: int) -> list[Row]:
        """Exchanges of connections with this server port, by their start."""
        column = "remote_port" if side == "client" else "local_port"
        return [
            row
            for row in self.exchanges
            if row["side"] == side and self._by_id[row["connection_id"]][column] == port
        ]

    @property
    def lost(self) -> int:
        """How many records were lost in recording, or events noticed to be missing."""
        return sum(count for count in self.trace.losses.values() if count)


def column(rows: Sequence[Row], *names: str) -> list[Any]:
    """One value per row; several columns are added up, null when one of them is."""
    return [
        None if any(row[name] is None for name in names) else sum(row[name] for name in names)
        if len(names) > 1
        else row[names[0]]
        for row in rows
    ]  # fmt: skip
