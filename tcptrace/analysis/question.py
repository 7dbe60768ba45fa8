"""Where the time of a trace's exchanges went, and what would help: budgets, steps and changes in one.

Sides are kept apart. Asked for a floor or a target, the question is a client's: only there is the network in
the total.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tcptrace.analysis.advice import Change, changes
from tcptrace.analysis.budget import Group, Pieces, budgets, of_groups, pieces
from tcptrace.analysis.columns import plain
from tcptrace.analysis.exchanges import exchanges, sums
from tcptrace.analysis.floor import Floor
from tcptrace.analysis.gap import Gap, gap
from tcptrace.analysis.groups import group
from tcptrace.analysis.quantiles import quantiles
from tcptrace.analysis.setup import setup
from tcptrace.trace.reader import Trace

SIDES = ("client", "server")
FIRST_TIMED = 2
"""The wire version from which on traces have exchanges."""


@dataclass(frozen=True)
class Answer:
    """The exchanges of one side: all of them as one group, and by group (the first `limit` of `of`), with the
    steps of their means, and what would help.

    A floor is that of one place: the steps of a group that goes to one place mean more than those of all.
    gaps: those of groups; empty for groups by time.
    """

    whole: Group
    groups: list[Group]
    of: int
    gap: Gap
    gaps: list[Gap]
    changes: list[Change]

    @property
    def side(self) -> str:
        return str(self.whole.side)


def answers(
    everything: Pieces,
    connections: pa.Table,
    *,
    sides: Sequence[str] = SIDES,
    by: Sequence[str] = ("remote",),
    bin_ns: int | None = None,
    floor: Floor | None = None,
    target_ns: int | None = None,
    limit: int | None = None,
) -> list[Answer]:
    """One answer for each of the sides that has exchanges."""
    made = []
    for side in sides:
        own = everything.of_side(side)
        if not len(own.weight):
            continue
        (whole,) = budgets(own, connections, ())
        grouping = group(own.table, connections, by, bin_ns)
        groups = of_groups(own, connections, grouping, limit)

        def steps(one: Group, within: Pieces) -> Gap:
            if side != "client":  # noqa: B023 - used at once
                return gap(one, None, None, target_ns)
            return gap(one, setup(within, connections), floor, target_ns)

        gaps = [steps(one, own.of(grouping.codes == one.number)) for one in groups if "time" not in by]
        first = steps(whole, own)
        found = changes(everything, connections, first)
        made.append(Answer(whole, groups, len(grouping.keys), first, gaps, found))
    return made


@dataclass(frozen=True)
class Brief:
    """What a summary says of exchanges. untimed: why there are none (see why_untimed); totals: their counts
    and quantiles, null when untimed; groups: the first by remote, those of both sides together."""

    untimed: str | None
    totals: dict[str, Any]
    groups: list[Group]


def brief(trace: Trace, connections: pa.Table, limit: int) -> Brief:
    """connections: the table of this trace."""
    untimed = why_untimed(trace, connections)
    everything = pieces(exchanges(trace, connections), sums(trace, connections))
    counts = totals(everything)
    if untimed is not None:
        return Brief(untimed, _unknown(counts), [])
    return Brief(None, counts, budgets(everything, connections, limit=limit))


def _unknown(value: dict[str, Any]) -> dict[str, Any]:
    return {name: _unknown(entry) if isinstance(entry, dict) else None for name, entry in value.items()}


def totals(everything: Pieces) -> dict[str, Any]:
    """How many exchanges there are with and without a row, and the quantiles of those with one: the part
    `exchanges` of a summary."""
    sides = {side: everything.of_side(side) for side in SIDES}
    number = int(everything.weight.sum())
    return {
        "rows": everything.rows,
        "summed": number - everything.rows,
        "sampling": everything.rows / number if number else None,
        "by_side": {side: int(own.weight.sum()) for side, own in sides.items()},
        **{side: quantiles(plain(own.table, "total_ns")[: own.rows]) for side, own in sides.items()},
    }


def why_untimed(trace: Trace, connections: pa.Table) -> str | None:
    """Why the recording timed no exchanges at all, as what follows its name; None when it did.

    connections: its table.
    """
    known = connections.num_rows - connections["exchanges"].null_count
    if trace.exchanges.num_rows or known:
        return None
    version, options = trace.header.get("wire_version"), trace.header.get("options")
    if isinstance(version, int) and version < FIRST_TIMED:
        by = trace.header.get("tcptrace_version")
        return f"was recorded by tcptrace {by if isinstance(by, str) else 'of old'}, which timed no exchanges"
    if isinstance(options, dict) and options.get("mode") == "lifecycle":
        return "was recorded with --mode lifecycle, which times no exchanges"
    return None
