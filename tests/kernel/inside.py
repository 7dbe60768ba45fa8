"""A recording by the test's own process, with providers of its choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drive import Background
from recording import Row
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.recorder import Options, Recorder
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges
from tcptrace.lab.namespaces import Namespace
from tcptrace.trace import reader

Ends = dict[tuple[int, str], list[Row]]
"""Turns by server port (the lower one) and side, in order."""


class Recorded(Background):
    """Records during a `with` block what happens in some namespaces; `losses` are known after it.

    Args:
        providers: fact -> the only provider to use, or "none".
    """

    def __init__(self, path: Path, spaces: Sequence[Namespace], providers: Mapping[str, str]) -> None:
        super().__init__()
        self.path = path
        self.losses: dict[str, int] = {}
        filters = Filters(namespaces=tuple(str(space.inode) for space in spaces))
        self._recorder = Recorder(Options(path, filters, providers=providers))

    def __enter__(self) -> Recorded:
        self._recorder.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
            self.losses = self._recorder.stop()
        finally:
            self._recorder.close()

    def work(self) -> None:
        while not self.stopping.wait(0.05):
            self._recorder.poll()


def turns_of_ports(path: Path) -> Ends:
    """The exchanges of a trace in which each server port has one connection."""
    trace = reader.read(path)
    table = connections(trace)
    ports = {row["connection_id"]: min(row["local_port"], row["remote_port"]) for row in table.to_pylist()}
    found: Ends = {}
    for row in sorted(exchanges(trace, table).to_pylist(), key=lambda row: int(row["seq"])):
        found.setdefault((ports[row["connection_id"]], row["side"]), []).append(row)
    return found
