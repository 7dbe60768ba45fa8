"""The rows of a scenario's recording, as its checks want them: by role, by port, in order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tcptrace.errors import TcptraceError
from tcptrace.units import UNKNOWN

# The analysis is imported where it is used: both parts of a scenario import its module and so this one, and
# play without it, also in guests where such an import takes seconds.
if TYPE_CHECKING:
    from tcptrace.analysis.advice import Change
    from tcptrace.analysis.gap import Gap
    from tcptrace.analysis.question import Answer
    from tcptrace.trace.reader import Trace

Row = dict[str, Any]
Role = Literal["active", "passive"]
Side = Literal["client", "server"]


class Rows:
    """The tables `connections` and `exchanges` as lists of dicts, null as None, and the trace itself."""

    def __init__(self, path: Path) -> None:
        from tcptrace.analysis.connections import connections
        from tcptrace.analysis.exchanges import exchanges
        from tcptrace.trace.reader import read

        self.trace: Trace = read(path)
        self._ends = connections(self.trace)
        self._turns = exchanges(self.trace, self._ends)
        self.connections: list[Row] = self._ends.to_pylist()
        self.exchanges: list[Row] = self._turns.to_pylist()
        self._by_id = {row["connection_id"]: row for row in self.connections}

    def ends(self, role: Role, port: int) -> list[Row]:
        """Connections to this port, at the end that connected or at the one that was connected to, by
        their start (a null one comes first)."""
        column = "remote_port" if role == "active" else "local_port"
        return [row for row in self.connections if row["role"] == role and row[column] == port]

    def turns_of(self, end: Row) -> list[Row]:
        """Exchanges of one connection's end, by their start."""
        return [row for row in self.exchanges if row["connection_id"] == end["connection_id"]]

    def turns(self, side: Side, port: int) -> list[Row]:
        """Exchanges of connections with this server port, by their start."""
        column = "remote_port" if side == "client" else "local_port"
        return [
            row
            for row in self.exchanges
            if row["side"] == side and self._by_id[row["connection_id"]][column] == port
        ]

    def gap(self, port: int) -> Gap:
        """The steps of the clients' mean exchange with this server port and its share of set-up, as
        `tcptrace budget` has them. Raises TcptraceError when there was no exchange."""
        for gap in self._answer.gaps:
            if gap.key["remote_port"] == port:
                return gap
        raise TcptraceError(f"the recording has no exchange of a client with port {port}")

    def changes(self, port: int) -> list[Change]:
        """What `tcptrace budget` would change for the clients' exchanges with this server port."""
        return [change for change in self._answer.changes if change.key.get("remote_port") == port]

    @cached_property
    def _answer(self) -> Answer:
        from tcptrace.analysis.budget import pieces
        from tcptrace.analysis.exchanges import sums
        from tcptrace.analysis.question import answers

        everything = pieces(self._turns, sums(self.trace, self._ends))
        found = answers(everything, self._ends, sides=("client",), by=("remote",))
        if not found:
            raise TcptraceError("the recording has no exchange of a client")
        return found[0]

    def stray_resets(self, port: int) -> int | None:
        """Resets that a host sent to packets without a connection, with this port at either end; None where
        this kernel does not tell of them."""
        from tcptrace.analysis import hooks
        from tcptrace.trace.wire import Kind

        if hooks.limited(self.trace.header, hooks.RESET_SENT):
            return None
        events: list[Row] = self.trace.events.to_pylist()
        strays = [
            event
            for event in events
            if event["kind"] == Kind.RESET_SENT
            and event["connection_id"] is None
            and port in (event["local_port"], event["remote_port"])
        ]
        return len(strays)

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


def common(rows: Sequence[Row], name: str) -> str | None:
    """The word that all rows have in a column; several are joined; None without rows."""
    found = sorted({UNKNOWN if row[name] is None else str(row[name]) for row in rows})
    return ", ".join(found) or None


def chosen(rows: Sequence[Row], name: str, values: Sequence[Any]) -> list[Row]:
    """The row that has this value in a column, for each of the values, in their order; a value without a row
    is left out, one with several has them all."""
    return [row for value in values for row in rows if row[name] == value]
