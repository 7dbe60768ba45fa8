"""The chapter of the budget: all that the page says of exchanges, of one recording or of joined ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tcptrace.analysis.budget import pieces
from tcptrace.analysis.clocks import Clock
from tcptrace.output import report_budget, report_exchanges, report_streams
from tcptrace.output.report_budget import Account
from tcptrace.output.report_exchanges import Latency, SlowRow
from tcptrace.output.report_streams import Streams
from tcptrace.output.report_timelines import timelines
from tcptrace.trace.reader import Trace


@dataclass(frozen=True)
class Material:
    """What a chapter is made of: tables of one recording, or of several joined ones with their clocks.

    start_ns: wall clock of the (first) recording's start; span_s: how long it took.
    """

    connections: pa.Table
    exchanges: pa.Table
    sums: pa.Table
    traces: Sequence[Trace]
    clocks: Sequence[Clock]
    start_ns: int
    span_s: float


@dataclass(frozen=True)
class Chapter:
    """key: begins the names of its sections and figures. recorded: exchanges with a record of their own."""

    key: str
    budget: Account
    latency: Latency
    slowest: list[SlowRow]
    recorded: int
    streams: Streams | None

    @property
    def anchors(self) -> list[str]:
        """Its sections."""
        found = ["budget"]
        if self.latency.rows:
            found += ["exchanges", "slow"]
        return found + (["streams"] if self.streams else [])

    def drawings(self) -> dict[str, Any]:
        """Name -> figure of all that the chapter draws."""
        made: dict[str, Any] = {}
        for stack in self.budget.stacks:
            made |= stack.drawings()
        made |= {f"{self.key}-moments-{side}": figure for side, figure in self.budget.over_time.items()}
        made |= {f"{self.key}-stages-{side}": figure for side, figure in self.latency.curves.items()}
        if self.latency.heatmap is not None:
            made[f"{self.key}-latency"] = self.latency.heatmap
        return made


def chapter(key: str, material: Material) -> Chapter:
    own = pieces(material.exchanges, material.sums)
    slow = report_exchanges.slowest_rows(material.exchanges)
    drawn = timelines(
        report_exchanges.one_end_each(slow)[: report_exchanges.TIMELINES],
        material.exchanges,
        material.connections,
        material.traces,
        material.clocks,
    )
    return Chapter(
        key,
        report_budget.account(
            key, own, material.connections, [trace.header for trace in material.traces], material.start_ns
        ),
        report_exchanges.latency(material.exchanges, material.start_ns, material.span_s),
        report_exchanges.slowest(slow, material.connections, material.start_ns, drawn),
        material.exchanges.num_rows,
        report_streams.stream_view(material.connections),
    )
