"""Budgets in a terminal: an overview of the groups, and the stages of some. Values marked ~ are estimated, at
least in part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from tcptrace.analysis.budget import AT, Budget, Group, around
from tcptrace.analysis.floor import Floor
from tcptrace.analysis.gap import estimated
from tcptrace.analysis.groups import Key, label
from tcptrace.analysis.question import SIDES, Answer, Brief
from tcptrace.analysis.stages import GROUPS, NOT_AT, UNATTRIBUTED
from tcptrace.analysis.streams import HELD, Stream
from tcptrace.output.blocks import marked, print_line, print_rows, print_title, print_wrapped
from tcptrace.output.escape import visible
from tcptrace.output.listing import instant_text
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import stage_name
from tcptrace.output.terminal_gap import STAGE_COLOURS, print_changes, print_floor, print_steps
from tcptrace.units import UNKNOWN, format_count, format_duration, format_size, plural

DETAILED = 3  # groups whose stages are shown
BRIEF = 5  # groups of each side in a summary
_NAME = 17  # as wide as the longest name of a stage
_CELL = 8

_TITLES = {"mean": "mean", "p50": "near p50", "p90": "near p90", "p99": "near p99", "max": "slowest"}


def print_budget(
    out: Console,
    totals: Mapping[str, Any],
    answers: Sequence[Answer],
    streams: Sequence[Stream],
    *,
    by: Sequence[str],
    floor: Floor | None,
    target_ns: int | None,
) -> None:
    """totals: what analysis.question.totals() gives."""
    if floor is not None:
        print_floor(out, floor)
    for answer in answers:
        _answer(out, answer, totals, by, asked=floor is not None or target_ns is not None)
    if not answers:
        print_line(out, "No complete exchange was seen: no turn of a request and its answer.")
    _streams(out, streams)


def print_brief(out: Console, turns: Brief) -> None:
    """Exchanges in a summary: how long they took, and where the time of the groups with most of it went."""
    if turns.untimed is not None:
        print_title(out, "Exchanges")
        print_line(out, f"  not timed: the trace {visible(turns.untimed)}")
        return
    sides = [side for side in SIDES if turns.totals["by_side"][side]]
    print_rows(
        out,
        "Exchanges: a request and its answer",
        ("", "seen", "with a row", "p50", "p90", "p99", "max"),
        (
            (
                f"{side} side",
                format_count(turns.totals["by_side"][side]),
                format_count(turns.totals[side]["n"]),
                *(format_duration(turns.totals[side][at]) for at in ("p50_ns", "p90_ns", "p99_ns", "max_ns")),
            )
            for side in sides
        ),
        right=range(1, 7),
    )
    for side in sides:
        shown = [group for group in turns.groups if group.side == side][:BRIEF]
        if shown:
            print_overview(out, f"Where their time went on average, {side} side", shown, "remote")
    if not sides:
        print_title(out, "Exchanges")
        print_line(out, "  none was seen complete: no turn of a request and its answer")
    else:
        print_line(out, "  `tcptrace budget` takes them apart and says what would help", "dim")


def group_text(key: Key) -> str:
    """A group's name, visible()."""
    words = [label(key)] if label(key) else []
    if "from_ns" in key:
        # The date is that of the recording; hours and fractions are enough within it.
        words.insert(0, instant_text(key["from_ns"])[11:-3] or UNKNOWN)
    return visible(", ".join(words)) or "all"


def print_overview(out: Console, title: str, groups: Sequence[Group], name: str) -> None:
    """A line for each group: the means of what people ask for first, the rest in one column."""
    rows = []
    for group in groups:
        parts, marks = group.mean.groups, estimated(group)
        rest = group.mean.total_ns - sum(parts[part] or 0 for part in ("kernel", "nagle", "network"))
        p99 = group.budgets.get("p99")
        rows.append(
            (
                group_text(group.key),
                format_count(group.exchanges),
                format_duration(group.mean.total_ns),
                format_duration(parts["kernel"]),
                marked(parts["nagle"], "nagle_ns" in marks),
                marked(parts["network"], "network_ns" in marks),
                format_duration(rest),
                format_duration(p99.value_ns if p99 else None),
            )
        )
    titles = (name.upper(), "N", "MEAN", "KERNEL", "NAGLE", "NETWORK", "REST", "P99")
    print_rows(out, title, titles, rows, right=range(1, len(titles)))


def _answer(out: Console, answer: Answer, totals: Mapping[str, Any], by: Sequence[str], asked: bool) -> None:
    whole = answer.whole
    on = plural(whole.connections, "connection")
    title = f"{answer.side.capitalize()} side: {plural(whole.exchanges, 'exchange')} on {on}"
    print_title(out, title)
    if whole.sampling < 1:
        print_line(
            out,
            f"  {format_count(whole.rows)} of them ({share(whole.rows, whole.exchanges)}) have a row each: "
            "percentiles are of these, means of all",
        )
    if answer.of > 1:
        print_overview(out, "", answer.groups, " × ".join(by))
        if answer.of > len(answer.groups):
            more = plural(answer.of - len(answer.groups), "more group")
            print_line(out, f"  and {more}: --limit {answer.of} shows all", "dim")
    whole_only = answer.of == 1 or "time" in by
    if asked:
        for gap in [answer.gap] if whole_only else answer.gaps[:DETAILED]:
            print_steps(out, gap, group_text(answer.groups[0].key if answer.of == 1 else gap.key))
    else:
        shown = [whole] if whole_only else answer.groups[:DETAILED]
        for group in shown:
            _stages(out, group_text(answer.groups[0].key if answer.of == 1 else group.key), group)
        _legend(out, shown)
    print_changes(out, answer)
    out.print()


def _stages(out: Console, name: str, group: Group) -> None:
    """The stages of one group as rows, its budgets as columns."""
    at = [one for one in AT if one in group.budgets]
    budgets = [group.budgets[one] for one in at]
    mean = group.mean
    out.print()
    print_title(out, f"  {name}")
    widths = [max(_CELL, len(_TITLES[one])) for one in at]

    def line(title: str, cells: Sequence[str], part: str, style: str = "") -> None:
        text = Text(f"  {title:<{_NAME}}", style)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text.append(f"  {cell:>{width}}")
            if place == 0:
                text.append(f"  {part:>7}")
        out.print(text)

    line("", [_TITLES[one] for one in at], "share", "dim")
    line("exchanges", [format_count(budget.n) for budget in budgets], "", "dim")
    line("total", [format_duration(budget.total_ns) for budget in budgets], "100 %", "bold")
    for stages in GROUPS.values():
        for stage in stages:
            values = [_value(budget, stage) for budget in budgets]
            if not any(values) and stage != UNATTRIBUTED:
                continue
            cells = [
                marked(ns, stage in _guessed(budget)) for ns, budget in zip(values, budgets, strict=True)
            ]
            part = UNKNOWN if values[0] is None else share(values[0], mean.total_ns)
            line(stage_name(stage), cells, part, STAGE_COLOURS[stage])


def _legend(out: Console, groups: Sequence[Group]) -> None:
    notes = []
    unknown = {
        stage: None
        for group in groups
        for stage, ns in group.mean.stages.items()
        if ns is None and stage not in NOT_AT[str(group.side)]
    }
    if unknown:
        notes.append(f"not observed, so unattributed: {', '.join(map(stage_name, unknown))}")
    partly: dict[str, int] = {}
    for group in groups:
        for stage, count in group.mean.missing.items():
            if stage not in NOT_AT[str(group.side)]:
                partly[stage] = partly.get(stage, 0) + count
    if partly:
        counts = ", ".join(f"{stage_name(stage)} in {format_count(n)}" for stage, n in partly.items())
        notes.append(f"not observed in some exchanges, so unattributed there: {counts}")
    guessed = sum(group.mean.estimated for group in groups)
    if guessed:
        known = guessed + sum(group.mean.exact for group in groups)
        notes.append(
            f"~ estimated: network and other end told apart by the least round trip, in "
            f"{share(guessed, known)} of the exchanges"
        )
    if any(group.mean.hold_ambiguous for group in groups):
        notes.append("~ estimated: in some, Nagle and cork could not be told apart")
    shown = [at for at in ("p50", "p90", "p99") if any(at in group.budgets for group in groups)]
    if shown:
        notes.append(
            f"near {shown[-1]}: the mean of {around(shown[-1])}; percentiles of stages do not add up"
        )
    for note in notes:
        print_wrapped(out, note, "  ", "dim")


def _streams(out: Console, streams: Sequence[Stream]) -> None:
    if not streams:
        return
    shown = streams[:10]
    number = sum(stream.connections for stream in streams)
    columns = [name for name in HELD if any(stream.held[name] for stream in shown)]
    titles = (
        "REMOTE",
        "ENDS",
        "OPEN",
        "SENT",
        "RECEIVED",
        *(stage_name(HELD[name]).upper() for name in columns),
        "UNREAD",
    )
    ends = plural(number, "connection end")
    print_rows(
        out,
        f"Streams: {ends} whose data did not go in turns, and how long it was held",
        titles,
        (
            (
                label(stream.key),
                format_count(stream.connections),
                format_duration(stream.open_ns),
                format_size(stream.bytes_sent),
                format_size(stream.bytes_received),
                *(format_duration(stream.held[name]) for name in columns),
                format_duration(stream.unread_ns),
            )
            for stream in shown
        ),
        right=range(1, len(titles)),
    )
    print_line(out, "  times add up over the connections of a line; causes not listed held nothing", "dim")


def _value(budget: Budget, stage: str) -> int | None:
    return budget.unattributed_ns if stage == UNATTRIBUTED else budget.stages[stage]


def _guessed(budget: Budget) -> set[str]:
    found = {"network_ns", "peer_ns"} if budget.estimated else set()
    return found | ({"nagle_ns", "cork_ns"} if budget.hold_ambiguous else set())
