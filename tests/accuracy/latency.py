"""What load tools say of their latency against what was recorded of their turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from services import Told
from tcptrace.analysis.stages import UNATTRIBUTED
from tcptrace.errors import TcptraceError

BOUND = 0.10
Latencies = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """A tool's mean latency, and the same recorded: one value for each request or transaction, ns."""

    title: str
    told: Told
    recorded: Latencies
    turns: int
    unattributed: float
    """Share of the turns' time."""

    @property
    def difference(self) -> float:
        """Recorded less told, as a share of what the tool told."""
        return float(self.recorded.mean()) / self.told.mean_ns - 1

    @property
    def failure(self) -> str:
        """Why this is no match, or nothing."""
        if len(self.recorded) != self.told.count:
            return f"{self.title}: {len(self.recorded)} recorded, {self.told.count} done"
        if abs(self.difference) > BOUND:
            return (
                f"{self.title}: {self.recorded.mean() / 1e3:,.1f} us recorded, {self.told.mean_ns / 1e3:,.1f}"
                f" us told: {self.difference:+.1%}, bound {BOUND:.0%}"
            )
        return ""


def of_transactions(turns: pa.Table, statements: int) -> Latencies:
    """How long transactions of so many statements took: their turns and the client's own time between them.

    The client begins a transaction when the last turn of the one before has ended. The connection's own first
    turn is its start-up.
    """
    turns = turns.sort_by("seq").slice(1)
    numbers, starts, totals = (turns[name].to_numpy() for name in ("seq", "started_ns", "total_ns"))
    if (np.diff(numbers) != 1).any() or len(numbers) % statements:
        raise TcptraceError(f"{len(numbers)} turns are no transactions of {statements} statements")
    ends = (starts + totals)[statements - 1 :: statements]
    latencies: Latencies = np.diff(ends, prepend=starts[:1])
    return latencies


def compare(title: str, told: Told, turns: pa.Table, recorded: Latencies) -> Comparison:
    unattributed = pc.sum(turns[UNATTRIBUTED]).as_py() / pc.sum(turns["total_ns"]).as_py()
    return Comparison(title, told, recorded, len(turns), unattributed)
