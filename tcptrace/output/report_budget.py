"""The report's first chapter: where the time of exchanges went, in words first, then as bars.

The numbers are those of analysis.budget; here they get names, colours and an order of reading.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from tcptrace.analysis import groups
from tcptrace.analysis.advice import changes
from tcptrace.analysis.budget import AT, Budget, Group, Pieces, around, budgets
from tcptrace.analysis.gap import gap
from tcptrace.analysis.setup import setup
from tcptrace.analysis.stages import GROUPS, NOT_AT, STAGES
from tcptrace.analysis.unknowns import why_unknown
from tcptrace.output import figures_budget
from tcptrace.output.figures_budget import BAR_HEIGHT, HEIGHT, Bar
from tcptrace.output.pages import with_code
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import stage_meaning, stage_name
from tcptrace.units import format_duration, plural

_MARK = re.compile(r"(?<= )~(?=[0-9.]+ \S+ per exchange )")  # of an estimate, in a terminal
SIDES = ("client", "server")
ESTIMATED = ("network", "peer")  # what the minimum RTT separates where only one end is known
CAUSES = 4  # named in the first sentence, if they are this much of the mean:
LEAST_SHARE = 0.01
PERCENTILES = AT[1:-1]
NAMES = {"mean": "mean", **{at: f"around {at}" for at in PERCENTILES}, "max": "slowest"}
CHANGES, OTHER_CHANGES = 6, 3  # that would help, of the first side and of another
BARS = 12  # of one figure by group


@dataclass(frozen=True)
class Cause:
    """A group of stages that takes much of the mean."""

    group: str
    ns: int
    share: str
    estimated: bool
    words: str


@dataclass(frozen=True)
class Answer:
    """What the mean exchange of one side consists of, largest first."""

    side: str
    count: int
    mean_ns: int
    p99_ns: int | None
    causes: list[Cause]
    unattributed_ns: int
    unattributed_share: str
    exact: int  # of them, those whose network is measured at both ends


@dataclass(frozen=True)
class Advice:
    """One change, what it would save of the mean over all exchanges of a side, and what else is known."""

    what: Markup
    do: Markup
    note: Markup
    saving: str


@dataclass(frozen=True)
class Stack:
    """A figure of bars in two variants, by share and by time, and the table with the same numbers."""

    key: str
    title: str
    what: str
    caption: str
    heading: str
    bars: list[Bar]
    first: str = "share"
    folded: bool = False  # the table is shown on demand

    @property
    def groups(self) -> list[str]:
        """Columns of the table: what takes any time, and always what is unattributed."""
        used = {group for bar in self.bars for group, ns in bar.parts.items() if ns}
        return [group for group in GROUPS if group in used or group == "unattributed"]

    @property
    def height(self) -> int:
        return HEIGHT + BAR_HEIGHT * len(self.bars)

    @property
    def estimated(self) -> bool:
        return any(bar.estimated for bar in self.bars)

    def drawings(self) -> dict[str, Any]:
        return {
            f"{self.key}-{kind}": figures_budget.stacked(self.bars, shares=kind == "share")
            for kind in ("share", "time")
        }


@dataclass(frozen=True)
class Gap:
    """Stages that were not seen in some exchanges of a side, the same number of them, and why."""

    side: str
    stages: list[str]
    count: int
    of: int
    reason: str


@dataclass(frozen=True)
class Account:
    """The words and stacks of the budget. single, summed: exchanges with a record each and without."""

    answers: list[Answer]
    stacks: list[Stack]
    missing: list[Gap]
    single: int
    summed: int
    over_time: dict[str, Any] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)

    @property
    def windows(self) -> list[tuple[str, str]]:
        """Which exchanges `around p90` means."""
        return [(NAMES[at], around(at)) for at in PERCENTILES]

    @property
    def estimated(self) -> bool:
        return any(stack.estimated for stack in self.stacks)


def account(
    key: str, own: Pieces, connections: pa.Table, headers: Sequence[Mapping[str, Any]], start_ns: int
) -> Account:
    """own: exchanges and sums, on these connections; headers: of their traces, which say which hooks were
    missing; start_ns: wall clock at which the figure over time begins."""
    advice: list[Advice] = []
    answers, stacks, missing, over_time = [], [], [], {}
    for side in SIDES:
        here = own.of_side(side)
        if not len(here.weight):
            continue
        whole = budgets(here, connections, ())[0]
        answers.append(_answer(side, whole))
        said = {(one.what, one.do) for one in advice}  # of a turn seen from both ends, once
        found = _advice(own, here, connections, whole)
        most = CHANGES if not advice else OTHER_CHANGES
        advice += [one for one in found if (one.what, one.do) not in said][:most]
        stacks.append(_percentiles(f"{key}-{side}", side, whole))
        for by, heading in (("remote", "Remote end"), ("process", "Process")):
            made = budgets(here, connections, (by,), limit=BARS + 1)
            if len(made) > 1 or by == "remote":
                stacks.append(_groups(f"{key}-{side}-{by}", side, heading, made))
        moments = [
            group for group in budgets(here, connections, ("time",)) if group.key["from_ns"] is not None
        ]
        if len(moments) > 1:
            over_time[side] = figures_budget.over_time(
                [(group.key["from_ns"], group.key["to_ns"], _bar("", "", group.mean)) for group in moments],
                start_ns,
            )
        missing += _gaps(side, whole.mean, headers)
    return Account(
        answers,
        stacks,
        missing,
        own.rows,
        int(own.weight[own.rows :].sum()),
        over_time,
        advice,
    )


def _advice(own: Pieces, here: Pieces, connections: pa.Table, whole: Group) -> list[Advice]:
    """The changes that save most of one side's mean, largest first."""
    made = setup(here, connections) if whole.side == "client" else None
    return [
        Advice(
            with_code(_MARK.sub("≈ ", f"{change.what[:1].upper()}{change.what[1:]}", count=1)),
            with_code(change.do),
            with_code(change.note.rstrip(".")),
            f"Saves {'at most ' if change.at_most else ''}{'≈ ' if change.estimated else ''}"
            f"{format_duration(change.whole_ns)} of the {whole.side} end's mean",
        )
        for change in changes(own, connections, gap(whole, made))
    ]


def _answer(side: str, whole: Group) -> Answer:
    mean = whole.mean
    sizes = [(ns, group) for group, ns in mean.groups.items() if ns and group != "unattributed"]
    largest = sorted(sizes, reverse=True)[:CAUSES]
    p99 = whole.budgets.get("p99")
    return Answer(
        side,
        whole.exchanges,
        mean.total_ns,
        None if p99 is None else p99.value_ns,
        [
            Cause(
                group,
                ns,
                share(ns, mean.total_ns),
                group in ESTIMATED and mean.estimated > 0,
                _words(group, mean),
            )
            for place, (ns, group) in enumerate(largest)
            if place == 0 or ns >= LEAST_SHARE * mean.total_ns
        ],
        mean.unattributed_ns,
        share(mean.unattributed_ns, mean.total_ns),
        mean.exact,
    )


def _words(group: str, mean: Budget) -> str:
    """What a group's time is; of several stages, how much each took."""
    stages = [stage for stage in GROUPS[group] if mean.stages.get(stage)]
    if len(stages) == 1:
        return stage_meaning(stages[0])
    return "; ".join(f"{stage_name(stage)} {format_duration(mean.stages[stage])}" for stage in stages)


def _percentiles(key: str, side: str, whole: Group) -> Stack:
    bars = []
    for at in AT:
        if at in whole.budgets:
            budget = whole.budgets[at]
            value = budget.value_ns
            bars.append(_bar(NAMES[at], "" if value is None else f"{at} is {format_duration(value)}", budget))
    return Stack(
        key,
        f"What an exchange consists of, {side} end.",
        "The mean of all, and of those around each percentile of the total.",
        f"Budgets of the {side} ends: means over all exchanges and around percentiles of the total",
        "Budget",
        bars,
    )


def _groups(key: str, side: str, heading: str, made: Sequence[Group]) -> Stack:
    more = len(made) > BARS
    bars = [
        _bar(groups.label(group.key), plural(group.connections, "connection"), group.mean)
        for group in made[:BARS]
    ]
    what = "Means; those with most time in all come first" + (
        f", the {BARS} largest of more." if more else "."
    )
    return Stack(
        key,
        f"By {heading.lower()}, {side} end.",
        what,
        f"Mean exchange of the {side} ends by {heading.lower()}",
        heading,
        bars,
        first="time",
        folded=True,
    )


def _bar(name: str, detail: str, budget: Budget) -> Bar:
    return Bar(
        name=name,
        detail=detail,
        exchanges=budget.n,
        total_ns=budget.total_ns,
        parts={group: ns for group, ns in budget.groups.items() if ns is not None},
        estimated=frozenset(ESTIMATED if budget.estimated else ()),
        estimated_of=budget.estimated,
    )


def _gaps(side: str, mean: Budget, headers: Sequence[Mapping[str, Any]]) -> list[Gap]:
    """Stages that are null in some exchanges, although that end has them."""
    found: dict[tuple[int, str], Gap] = {}
    for stage in STAGES:
        missing = mean.n if mean.stages[stage] is None else mean.missing.get(stage, 0)
        if missing and stage not in NOT_AT[side]:
            reasons = dict.fromkeys(why_unknown(stage, mean.stages, header) for header in headers)
            gap_ = Gap(side, [], missing, mean.n, "; ".join(reasons))
            found.setdefault((missing, gap_.reason), gap_).stages.append(stage_name(stage))
    return list(found.values())
