"""Budgets in a terminal: an overview of the groups, the stages of some, the steps from floor to measured, and
what would help.

Values marked ~ are estimated, at least in part.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from tcptrace.analysis.advice import Change
from tcptrace.analysis.budget import AT, Budget, Group, around
from tcptrace.analysis.floor import Floor, reach_mm
from tcptrace.analysis.gap import FLOOR, ROUTE, SETUP, Gap, Step, estimated
from tcptrace.analysis.groups import Key, label
from tcptrace.analysis.question import Answer
from tcptrace.analysis.stages import GROUPS, NOT_AT, UNATTRIBUTED
from tcptrace.analysis.streams import HELD, Stream
from tcptrace.output.blocks import print_line, print_rows, print_title
from tcptrace.output.colours import TERMINAL
from tcptrace.output.escape import visible
from tcptrace.output.listing import instant_text
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import stage_name
from tcptrace.units import UNKNOWN, format_count, format_distance, format_duration, format_size, plural

DETAILED = 3  # groups whose stages are shown
CHANGES = 8
_BAR = 36
_NAME = 17  # as wide as the longest name of a stage or step
_CELL = 8

_NAMES = {FLOOR: "floor", ROUTE: "route excess", SETUP: "connection set-up"}
_COLOURS = {stage: TERMINAL[group] for group, stages in GROUPS.items() for stage in stages} | {
    FLOOR: TERMINAL["network"],
    ROUTE: TERMINAL["network"],
    SETUP: TERMINAL["transfer"],
}
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
        _floor(out, floor)
    for answer in answers:
        _answer(out, answer, totals, by, asked=floor is not None or target_ns is not None)
    if not answers:
        print_line(out, "No complete exchange was seen: no turn of a request and its answer.")
    _streams(out, streams)


def group_text(key: Key) -> str:
    """A group's name, visible()."""
    words = [label(key)] if label(key) else []
    if "from_ns" in key:
        # The date is that of the recording; hours and fractions are enough within it.
        words.insert(0, instant_text(key["from_ns"])[11:-3] or UNKNOWN)
    return visible(", ".join(words)) or "all"


def print_overview(out: Console, title: str, groups: Sequence[Group], of: int, name: str = "") -> None:
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
                _marked(parts["nagle"], "nagle_ns" in marks),
                _marked(parts["network"], "network_ns" in marks),
                format_duration(rest),
                format_duration(p99.value_ns if p99 else None),
            )
        )
    titles = (name.upper(), "N", "MEAN", "KERNEL", "NAGLE", "NETWORK", "REST", "P99")
    print_rows(out, title, titles, rows, right=range(1, len(titles)))
    if of > len(groups):
        print_line(out, f"  and {plural(of - len(groups), 'more group')}: --limit {of} shows all", "dim")


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
        print_overview(out, "", answer.groups, answer.of, " × ".join(by))
    whole_only = answer.of == 1 or "time" in by
    if asked:
        for gap in [answer.gap] if whole_only else answer.gaps[:DETAILED]:
            _steps(out, gap, group_text(answer.groups[0].key if answer.of == 1 else gap.key))
    else:
        shown = [whole] if whole_only else answer.groups[:DETAILED]
        for group in shown:
            _stages(out, group_text(answer.groups[0].key if answer.of == 1 else group.key), group)
        _legend(out, shown)
    _changes(out, answer)
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
                _marked(ns, stage in _guessed(budget)) for ns, budget in zip(values, budgets, strict=True)
            ]
            part = UNKNOWN if values[0] is None else share(values[0], mean.total_ns)
            line(stage_name(stage), cells, part, _COLOURS[stage])


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
        _wrapped(out, note, "  ", "dim")


def _steps(out: Console, gap: Gap, name: str) -> None:
    """The steps from the floor to what was measured, as a staircase."""
    marks = _block(out)
    below, whole = 0, max(gap.measured_ns, 1)
    start_of = "the floor" if gap.floor else "nothing"
    out.print()
    print_title(out, f"  {name}: from {start_of} to what was measured, {plural(gap.exchanges, 'exchange')}")
    for step in gap.steps:
        start, end = (round(_BAR * ns / whole) for ns in (below, below + step.ns))
        below += step.ns
        text = Text(f"  {_step_name(step):<{_NAME}}  {_marked(step.ns, step.estimated):>9}  ")
        text.append(f"{share(step.ns, whole):>7}  ", "dim")
        text.append(" " * min(start, _BAR - 1) + marks * max(1, end - start), _COLOURS[step.name])
        out.print(text)
    measured = f"  {'measured':<{_NAME}}  {format_duration(gap.measured_ns):>9}  {'100 %':>7}  {marks * _BAR}"
    print_line(out, measured, "bold")
    if gap.measured_ns != gap.mean_ns:
        print_line(
            out,
            f"  {'':<{_NAME}}  {format_duration(gap.mean_ns):>9}  without connection set-up",
            "dim",
        )
    if gap.target_ns is not None:
        _target(out, gap)
    if gap.below_floor:
        _wrapped(
            out,
            "the network took less than this floor: the distance or the round trip that was given is wrong, "
            "or something nearer answers",
            "  ",
            "yellow",
        )
    if gap.floor and not any(step.name == FLOOR for step in gap.steps):
        _wrapped(out, "how much of it is the network is not known, so the floor is no step", "  ", "yellow")
    if gap.unknown:
        names = [stage_name(stage) for stage in gap.unknown if stage not in NOT_AT[str(gap.key["side"])]]
        if names:
            _wrapped(out, f"not observed, so unattributed: {', '.join(names)}", "  ", "dim")
    if any(step.estimated for step in gap.steps):
        print_line(out, "  ~ estimated, at least in part", "dim")


def _target(out: Console, gap: Gap) -> None:
    over = gap.over_ns or 0
    verdict = (
        f"{format_duration(over)} to save" if over > 0 else f"met, with {format_duration(-over)} to spare"
    )
    print_line(
        out,
        f"  {'target':<{_NAME}}  {format_duration(gap.target_ns):>9}  {'':>7}  {verdict}",
        "bold red" if over > 0 else "bold green",
    )
    if gap.floor and gap.target_ns is not None and gap.target_ns < gap.floor.round_trip_ns:
        print_line(out, "  the target is below the floor: nothing reaches it over this distance", "red")


def _changes(out: Console, answer: Answer) -> None:
    """What would help, the largest saving first."""
    shown = answer.changes[:CHANGES]
    out.print()
    print_title(out, "  What a single change would save, per exchange")
    if not shown:
        print_line(out, "  no stage has a hundredth of it that a change could save")
    for change in shown:
        _change(out, change, answer)
    if len(answer.changes) > len(shown):
        print_line(
            out, f"  and {format_count(len(answer.changes) - len(shown))} smaller ones: --json has all", "dim"
        )


def _change(out: Console, change: Change, answer: Answer) -> None:
    guessed, most = "~" if change.estimated else "", "at most " if change.at_most else ""
    words = (
        f"saves {most}{guessed}{format_duration(change.saving_ns)} of {format_duration(change.measured_ns)}"
    )
    met = answer.gap.target_ns is not None and change.measured_ns <= answer.gap.target_ns
    if change.reaches_target is not None and not met:
        reach = "reaches" if change.reaches_target else "does not reach"
        words += f", and alone {'at best ' if change.reaches_target and most else ''}{reach} the target"
    if change.exchanges < answer.whole.exchanges:
        words += f"; {guessed}{format_duration(change.whole_ns)} of the mean of all exchanges"
    _wrapped(out, f"{visible(change.what)}: {visible(change.do)}", "  - ", _COLOURS[change.cause])
    _wrapped(out, words, "    ")
    if change.note:
        _wrapped(out, visible(change.note), "    ", "dim")


def _floor(out: Console, floor: Floor) -> None:
    time = format_duration(floor.round_trip_ns)
    if floor.distance_mm is None:
        reach = format_distance(reach_mm(floor.round_trip_ns))
        words = f"Floor: a round trip of {time}, as given; light in fibre comes {reach} far and back"
    else:
        words = (
            f"Floor: {format_distance(floor.distance_mm)} there and back takes light {time} in fibre "
            f"(4.9 µs/km each way), {format_duration(floor.vacuum_ns)} in vacuum"
        )
    _wrapped(out, words, "")


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
                format_duration(stream.established_ns),
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


def _marked(ns: int | None, guessed: bool) -> str:
    return f"{'~' if guessed and ns else ''}{format_duration(ns)}"


def _step_name(step: Step) -> str:
    return _NAMES.get(step.name) or stage_name(step.name)


def _wrapped(out: Console, text: str, first: str, style: str = "") -> None:
    """Prose: folded at words in a terminal; one line in a file, where it is searched for."""
    lines = [text]
    if out.is_terminal:
        lines = textwrap.wrap(text, max(40, out.width - len(first)), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        print_line(out, (first if number == 0 else " " * len(first)) + line, style)


def _block(out: Console) -> str:
    try:
        "█".encode(out.encoding)
    except (UnicodeError, LookupError):
        return "#"
    return "█"
