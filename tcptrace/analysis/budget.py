"""Budgets: what the exchanges of a group consist of, on average and around a percentile of their totals.

Percentiles of stages do not add up. A budget at a percentile is therefore the mean over the exchanges whose
total lies around that percentile, and says over how many; the mean covers every exchange, also those that
have no row of their own, because sums of them were kept.

Figures are whole ns. Each mean is rounded so that stages and unattributed add up to the total exactly: the
total to the nearest ns, each stage by less than one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Ints, Mask, bool_array, nullable, plain, text_equals, truths
from tcptrace.analysis.groups import Grouping, Key, connection_rows, group
from tcptrace.analysis.quantiles import QUANTILES
from tcptrace.analysis.stages import GROUPS, STAGES, UNATTRIBUTED

WINDOWS = {name.removesuffix("_ns"): (10 * percent, needed) for name, (percent, needed) in QUANTILES.items()}
"""Percentile in thousandths, and the rows that it needs, as in the summary."""
_WIDEST = 50  # thousandths at either side, or half of what lies beyond the percentile

AT = ("mean", *WINDOWS, "max")


@dataclass(frozen=True)
class Budget:
    """The mean over n exchanges.

    stages: mean ns of each stage, an exchange that does not know it counting 0 (its time is then in
    unattributed_ns); None when no exchange knows it. missing: stage -> exchanges that do not know it, where
    others do; at least, because a sum over several is only counted when none of them knows. exact and
    estimated: exchanges by how network and peer were told apart; the others have neither. delayed_ack,
    hold_ambiguous: exchanges with that mark; at most, because a sum over several has it when one of them
    does. value_ns: the percentile, or the maximum, around which the exchanges lie; None for the mean of all.
    """

    n: int
    total_ns: int
    stages: dict[str, int | None]
    unattributed_ns: int
    missing: dict[str, int]
    exact: int
    estimated: int
    delayed_ack: int
    hold_ambiguous: int
    value_ns: int | None = None

    @property
    def groups(self) -> dict[str, int | None]:
        """The same by group of stages; None when all of its stages are."""
        parts: dict[str, int | None] = self.stages | {UNATTRIBUTED: self.unattributed_ns}
        made: dict[str, int | None] = {}
        for name, stages in GROUPS.items():
            known = [ns for stage in stages if (ns := parts[stage]) is not None]
            made[name] = sum(known) if known else None
        return made

    def json(self) -> dict[str, Any]:
        made = {} if self.value_ns is None else {"value_ns": self.value_ns}
        return made | {
            "n": self.n,
            "total_ns": self.total_ns,
            **self.stages,
            UNATTRIBUTED: self.unattributed_ns,
            "groups": self.groups,
            "missing": self.missing,
            "network_exact": self.exact,
            "network_estimated": self.estimated,
            "delayed_ack": self.delayed_ack,
            "hold_ambiguous": self.hold_ambiguous,
        }


@dataclass(frozen=True)
class Group:
    """The budgets of one group: `mean`, and those of AT that have enough rows.

    exchanges: all of them; rows: those with a row each, over which percentiles go. connections: how many
    they were on. number: that of the group in its grouping.
    """

    number: int
    key: Key
    exchanges: int
    rows: int
    connections: int
    budgets: Mapping[str, Budget]

    @property
    def mean(self) -> Budget:
        return self.budgets["mean"]

    @property
    def side(self) -> str | None:
        side: str | None = self.key["side"]
        return side

    @property
    def sampling(self) -> float:
        """The share of exchanges that have a row."""
        return self.rows / self.exchanges

    def json(self) -> dict[str, Any]:
        return {
            **self.key,
            "exchanges": self.exchanges,
            "rows": self.rows,
            "sampling": self.sampling,
            "connections": self.connections,
            **{at: self.budgets[at].json() if at in self.budgets else None for at in AT},
        }


@dataclass(frozen=True)
class Pieces:
    """Exchanges with a row each, then sums over others; weight: how many exchanges each piece is."""

    table: pa.Table
    weight: Ints
    rows: int

    def of(self, chosen: Mask) -> "Pieces":
        return Pieces(
            self.table.filter(bool_array(chosen)), self.weight[chosen], int(chosen[: self.rows].sum())
        )

    def of_side(self, side: str) -> "Pieces":
        return self.of(text_equals(self.table["side"], side))


def pieces(rows: pa.Table, sums: pa.Table) -> Pieces:
    """rows, sums: the tables of analysis.exchanges. An exchange without a total can be in no budget."""
    weight = np.concatenate([np.ones(rows.num_rows, np.int64), plain(sums, "exchanges")])
    table = pa.concat_tables([rows, sums.select(rows.schema.names)])
    whole = Pieces(table, weight, rows.num_rows)
    usable = nullable(table, "total_ns").known & (weight > 0)
    return whole if usable.all() else whole.of(usable)


def budgets(
    own: Pieces,
    connections: pa.Table,
    by: Sequence[str] = ("remote",),
    *,
    bin_ns: int | None = None,
    limit: int | None = None,
) -> list[Group]:
    """The budgets by side and by each of `by` (see analysis.groups), most time in all first; by time, in its
    order. limit: only so many of them."""
    return of_groups(own, connections, group(own.table, connections, by, bin_ns), limit)


def of_groups(
    own: Pieces, connections: pa.Table, grouping: Grouping, limit: int | None = None
) -> list[Group]:
    """budgets() of exchanges that are grouped already."""
    groups = len(grouping.keys)
    total = plain(own.table, "total_ns")
    is_sum = np.arange(len(total)) >= own.rows
    order = np.lexsort((total, is_sum, grouping.codes))
    ends = np.cumsum(np.bincount(grouping.codes, minlength=groups))
    starts = np.concatenate([[0], ends[:-1]]) if groups else ends
    rows = np.bincount(grouping.codes[: own.rows], minlength=groups)

    time = np.array(_between(total[order], starts, ends), np.float64)
    chosen = np.lexsort((np.arange(groups), -time))[:limit]
    if groups and "from_ns" in grouping.keys[0]:
        chosen = np.array(sorted(chosen.tolist(), key=lambda g: grouping.keys[g]["from_ns"] or 0), np.int64)

    spans: list[tuple[int, str, int, int, int]] = []
    for g in chosen.tolist():
        start, n = int(starts[g]), int(rows[g])
        spans.append((g, "mean", start, int(ends[g]), -1))
        for at, (low, rank, high) in _windows(n).items():
            spans.append((g, at, start + low, start + high, start + rank - 1))
    means = _means(own, order, spans)

    on = _distinct(grouping.codes, connection_rows(own.table, connections), groups)
    exchanges = _between(own.weight[order], starts, ends)
    made: dict[int, dict[str, Budget]] = {}
    for (g, at, *_), mean in zip(spans, means, strict=True):
        made.setdefault(g, {})[at] = mean
    return [
        Group(g, grouping.keys[g], exchanges[g], int(rows[g]), int(on[g]), of_group)
        for g, of_group in made.items()
    ]


def around(at: str) -> str:
    """Which exchanges a budget is the mean of, in words."""
    if at == "mean":
        return "all exchanges"
    if at == "max":
        return "the slowest exchange"
    middle, _ = WINDOWS[at]
    low, high = (f"{(middle + half) / 10:g}" for half in (-_half(middle), _half(middle)))
    return f"exchanges whose total lies between percentiles {low} and {high}"


def share(ns: int, n: int) -> int:
    """The n-th of a sum of ns, to the nearest ns; 0 of nothing."""
    return (2 * ns + n) // (2 * n) if n else 0


def split(total: int, parts: Sequence[int], n: int) -> tuple[int, list[int]]:
    """The n-th of a total, to the nearest ns, and of its parts, which add up to it as they did before.

    Each part is rounded down, and those that lose most get the ns that are left over.
    """
    mean = share(total, n)
    whole = [part // n for part in parts]
    most = sorted(range(len(parts)), key=lambda place: (-(parts[place] % n), place))
    for place in most[: max(0, mean - sum(whole))]:
        whole[place] += 1
    return mean, whole


def _half(middle: int) -> int:
    return min(_WIDEST, (1000 - middle) // 2)


def _windows(n: int) -> dict[str, tuple[int, int, int]]:
    """For n rows in ascending order: at -> (first, rank of the percentile from 1, behind the last)."""
    found = {}
    for at, (middle, needed) in WINDOWS.items():
        if n >= needed:
            rank, half = -(-n * middle // 1000), _half(middle)
            first = -(-n * (middle - half) // 1000) - 1
            found[at] = (max(0, min(first, rank - 1)), rank, max(rank, n * (middle + half) // 1000))
    if n:
        found["max"] = (n - 1, n, n)
    return found


def _means(own: Pieces, order: Ints, spans: Sequence[tuple[int, str, int, int, int]]) -> list[Budget]:
    low, high = (np.array([span[place] for span in spans], np.int64) for place in (2, 3))
    weight = own.weight[order]
    n = _between(weight, low, high)
    total = plain(own.table, "total_ns")[order]
    totals = _between(total, low, high)
    sums, missing = [], []
    for stage in STAGES:  # one column at a time: there may be millions of rows
        column = nullable(own.table, stage)
        sums.append(_between(column.values[order], low, high))
        missing.append(_between(np.where(column.known[order], 0, weight), low, high))
    split_known, exact = nullable(own.table, "network_ns").known, truths(own.table, "network_exact")
    marks = (
        exact,
        split_known & ~exact,
        *(truths(own.table, mark) for mark in ("delayed_ack", "hold_ambiguous")),
    )
    marked = [_between(np.where(rows[order], weight, 0), low, high) for rows in marks]
    made = []
    for place, (_, _, _, _, middle) in enumerate(spans):
        parts = [column[place] for column in sums]
        mean, whole = split(totals[place], [*parts, totals[place] - sum(parts)], n[place])
        unknown = dict(zip(STAGES, (column[place] for column in missing), strict=True))
        made.append(
            Budget(
                n[place],
                mean,
                {
                    stage: None if unknown[stage] == n[place] else ns
                    for stage, ns in zip(STAGES, whole[:-1], strict=True)
                },
                whole[-1],
                {stage: count for stage, count in unknown.items() if 0 < count < n[place]},
                *(marked[0][place], marked[1][place], marked[2][place], marked[3][place]),
                int(total[middle]) if middle >= 0 else None,
            )
        )
    return made


def _between(values: Ints, low: Ints, high: Ints) -> list[int]:
    """The sums of values[low:high], exact also beyond 63 bits: a damaged trace can hold any duration."""
    if not len(values) or int(values.max()) < (1 << 62) // len(values):
        return _differences(values, low, high)
    upper, lower = _differences(values >> 32, low, high), _differences(values & 0xFFFFFFFF, low, high)
    return [(high_half << 32) + low_half for high_half, low_half in zip(upper, lower, strict=True)]


def _differences(values: Ints, low: Ints, high: Ints) -> list[int]:
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    found: list[int] = (running[high] - running[low]).tolist()
    return found


def _distinct(codes: Ints, positions: Ints, groups: int) -> Ints:
    """How many distinct positions each group has."""
    width = int(positions.max(initial=0)) + 2
    pairs = np.unique(codes * width + positions + 1)
    return np.bincount(pairs // width, minlength=groups)
