"""Floor, steps and changes in a terminal: from what physics asks for to what was measured, and what
would help.
"""

from rich.console import Console
from rich.text import Text

from tcptrace.analysis.advice import Change
from tcptrace.analysis.floor import Floor, reach_mm
from tcptrace.analysis.gap import FLOOR, ROUTE, SETUP, Gap, Step
from tcptrace.analysis.question import Answer
from tcptrace.analysis.stages import GROUPS, NOT_AT
from tcptrace.output.blocks import marked, print_line, print_title, print_wrapped
from tcptrace.output.colours import TERMINAL
from tcptrace.output.escape import visible
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import stage_name
from tcptrace.units import format_count, format_distance, format_duration, plural

CHANGES = 8
_BAR = 36
_NAME = 17  # as wide as the longest name of a stage or step

STAGE_COLOURS = {stage: TERMINAL[group] for group, stages in GROUPS.items() for stage in stages}
_COLOURS = STAGE_COLOURS | {
    FLOOR: TERMINAL["network"],
    ROUTE: TERMINAL["network"],
    SETUP: TERMINAL["transfer"],
}
_NAMES = {FLOOR: "floor", ROUTE: "route excess", SETUP: "connection set-up"}


def print_floor(out: Console, floor: Floor) -> None:
    time = format_duration(floor.round_trip_ns)
    if floor.distance_mm is None:
        reach = format_distance(reach_mm(floor.round_trip_ns))
        words = f"Floor: a round trip of {time}, as given; light in fibre comes {reach} far and back"
    else:
        words = (
            f"Floor: {format_distance(floor.distance_mm)} there and back takes light {time} in fibre "
            f"(4.9 µs/km each way), {format_duration(floor.vacuum_ns)} in vacuum"
        )
    print_wrapped(out, words, "")


def print_steps(out: Console, gap: Gap, name: str) -> None:
    """The steps from the floor to what was measured, as a staircase."""
    marks = _block(out)
    below, whole = 0, max(gap.measured_ns, 1)
    start_of = "the floor" if gap.floor else "nothing"
    out.print()
    print_title(out, f"  {name}: from {start_of} to what was measured, {plural(gap.exchanges, 'exchange')}")
    for step in gap.steps:
        start, end = (round(_BAR * ns / whole) for ns in (below, below + step.ns))
        below += step.ns
        text = Text(f"  {_step_name(step):<{_NAME}}  {marked(step.ns, step.estimated):>9}  ")
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
        print_wrapped(
            out,
            "the network took less than this floor: the distance or the round trip that was given is wrong, "
            "or something nearer answers",
            "  ",
            "yellow",
        )
    if gap.floor and not any(step.name == FLOOR for step in gap.steps):
        print_wrapped(
            out, "how much of it is the network is not known, so the floor is no step", "  ", "yellow"
        )
    if gap.unknown:
        names = [stage_name(stage) for stage in gap.unknown if stage not in NOT_AT[str(gap.key["side"])]]
        if names:
            print_wrapped(out, f"not observed, so unattributed: {', '.join(names)}", "  ", "dim")
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


def print_changes(out: Console, answer: Answer) -> None:
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
    print_wrapped(out, f"{visible(change.what)}: {visible(change.do)}", "  - ", _COLOURS[change.cause])
    print_wrapped(out, words, "    ")
    if change.note:
        print_wrapped(out, visible(change.note), "    ", "dim")


def _step_name(step: Step) -> str:
    return _NAMES.get(step.name) or stage_name(step.name)


def _block(out: Console) -> str:
    try:
        "█".encode(out.encoding)
    except (UnicodeError, LookupError):
        return "#"
    return "█"
