"""From the runs to the tables that people read."""

import os
import re
from pathlib import Path
from statistics import median
from typing import Any

from load import BULK, KINDS, PINGPONG, STORM, Kind, Load
from tracers import Traced

Round = dict[str, Load | Traced]

TCPTRACE = "tcptrace"
BOUNDS = {
    "budget": {STORM.name: (0.88, 0.92), PINGPONG.name: (0.90, 0.93), BULK.name: (0.98, 0.98)},
    "lifecycle": {STORM.name: (0.93, 0.93)},
}
"""(bound, goal) of the median ratio, by mode of recording and load."""


def load_of(run: Load | Traced) -> Load:
    return run.load if isinstance(run, Traced) else run


def elsewhere(run: Load | Traced) -> float:
    """The share of all CPUs' time that neither the load nor its tracer used: what disturbed them.

    Wrong by the 10 ms in which the kernel counts, some 0.01 for a run of two seconds.
    """
    load = load_of(run)
    tracer = run.cpu_load_s / (load.seconds * (os.cpu_count() or 1)) if isinstance(run, Traced) else 0.0
    return load.busy_share - load.own_share - tracer


def disturbance(done: Round) -> float:
    """Of a round: its most disturbed run."""
    return max(map(elsewhere, done.values()))


def one_line(done: Round) -> str:
    rates = ", ".join(f"{name} {load_of(run).rate:,.0f}/s" for name, run in done.items())
    return f"{rates} (others used up to {max(0.0, disturbance(done)):.0%} of the machine)"


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def results(rounds: list[Round]) -> dict[str, dict[str, Any]]:
    """Per tracer: how its rounds compare with the untraced run of the same round.

    `rate_ratio` and `cpu_ratio` are traced / untraced of units/s and of CPU time per unit in the load;
    `tracer_cpu_us` is the tracer's CPU time per unit while the load ran; `rows_per_end` is 1 when each of the
    two ends of every connection has its row, `turns_per_end` when each of them has every turn, and
    `single_share` is the share of these turns that have a record each; `lost` is summed over the rounds by
    cause. None where it is unknown, or there is nothing to compare with.
    """
    plain = [load_of(done["untraced"]) for done in rounds]
    found: dict[str, dict[str, Any]] = {
        "untraced": {
            "runs": len(plain),
            "rate": spread([load.rate for load in plain]),
            "cpu_us": spread([load.cpu_us for load in plain]),
        }
    }
    for name in dict.fromkeys(name for done in rounds for name in done if name != "untraced"):
        pairs = [(load_of(done["untraced"]), done[name]) for done in rounds if name in done]
        runs = [run for _, run in pairs if isinstance(run, Traced)]
        found[name] = {
            "runs": len(runs),
            "rate": spread([run.load.rate for run in runs]),
            "rate_ratio": spread([load_of(run).rate / load.rate for load, run in pairs]),
            "cpu_ratio": spread([load_of(run).cpu_us / load.cpu_us for load, run in pairs]),
            "tracer_cpu_us": spread([run.cpu_load_s * 1e6 / run.load.units for run in runs]),
            "tracer_cpu_s": spread([run.cpu_s for run in runs]),
            "start_s": spread([run.start_s for run in runs]),
            "rows_per_end": spread([run.seen.rows / (2 * run.load.connections) for run in runs]),
            "turns_per_end": _turns_per_end(runs),
            "single_share": _single_share(runs),
            "trace_mb_per_s": _trace_mb_per_s(runs),
            "lost": _lost(runs),
        }
    return found


def _turns_per_end(runs: list[Traced]) -> dict[str, float] | None:
    shares = [
        run.seen.turns / (2 * run.load.turns) for run in runs if run.seen.turns is not None and run.load.turns
    ]
    return spread(shares) if shares else None


def _single_share(runs: list[Traced]) -> dict[str, float] | None:
    shares = [
        run.seen.single / run.seen.turns for run in runs if run.seen.single is not None and run.seen.turns
    ]
    return spread(shares) if shares else None


def _trace_mb_per_s(runs: list[Traced]) -> dict[str, float] | None:
    rates = [run.seen.trace_bytes / 1e6 / run.load.seconds for run in runs if run.seen.trace_bytes]
    return spread(rates) if rates else None


def _lost(runs: list[Traced]) -> dict[str, int] | None:
    lost: dict[str, int] | None = None
    for run in runs:
        for cause, number in (run.seen.lost or {}).items():
            lost = lost or {}
            lost[cause] = lost.get(cause, 0) + number
    return lost


def broken(loads: dict[str, dict[str, Any]], mode: str) -> list[str]:
    """A sentence for each load whose bound is not kept, and for each in which something was lost."""
    sentences = []
    for name, measured in loads.items():
        result = measured["results"][TCPTRACE]
        bound = BOUNDS[mode].get(name)
        ratio = result["rate_ratio"]["median"]
        if bound and ratio < bound[0]:
            sentences.append(f"{name}: {ratio:.3f} of untraced, bound {bound[0]:.2f}")
        if sum((result["lost"] or {}).values()):
            sentences.append(f"{name}: lost {lost_text(result['lost'])}")
        if mode == "budget" and result["turns_per_end"] and result["turns_per_end"]["min"] < 1:
            sentences.append(f"{name}: only {result['turns_per_end']['min']:.4f} of the turns were counted")
    return sentences


def lost_text(lost: dict[str, int] | None) -> str:
    if lost is None:
        return "not counted"
    causes = [f"{cause} {number:,}" for cause, number in lost.items() if number and cause != "total"]
    return ", ".join(causes) or "0"


HEADINGS = (
    "load", "tracer", "runs", "per second", "of untraced (range)", "bound (goal)", "CPU/unit",
    "tracer's CPU/unit", "rows per end", "turns per end", "single", "trace", "lost",
)  # fmt: skip


def document(figures: dict[str, Any]) -> str:
    """The tables in Markdown, with the sentence that says what they are of."""
    about = figures["host"]
    where = "" if figures["cpu"] is None else f" on CPU {figures['cpu']} alone"
    where += " with real-time priority" if figures["fifo"] else ""
    options = f" Options: `{' '.join(figures['record_options'])}`." if figures["record_options"] else ""
    lines = [
        f"{figures['date']}, Linux {about['kernel']}, {about['cpus']} CPUs ({about['cpu']}), runs of"
        f" {figures['seconds']:g} s over loopback{where}, RPS {'on' if figures['rps'] else 'off'}.{options}",
        f"A run was repeated when others used the machine ({figures['runs_discarded']} were); in those that"
        f" count, others used up to {figures['disturbance']:.0%} of it.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
    ]
    for load, measured in figures["loads"].items():
        for tracer, result in measured["results"].items():
            bound = BOUNDS[figures["mode"]].get(load) if not figures["rps"] else None
            lines.append(f"| {' | '.join(_cells(KINDS[load], tracer, result, bound))} |")
    for load, measured in figures["loads"].items():
        if measured["programs"]:
            lines += ["", *_programs(KINDS[load], measured["programs"])]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _cells(kind: Kind, tracer: str, result: dict[str, Any], bound: tuple[float, float] | None) -> list[str]:
    rate = f"{_number(result['rate']['median'])} {'MB' if kind is BULK else kind.unit + 's'}"
    cells = [kind.name, tracer, str(result["runs"]), rate]
    if tracer == "untraced":
        return [*cells, "1", "", f"{_number(result['cpu_us']['median'])} us", *[""] * 6]
    turns, single, trace = (result[name] for name in ("turns_per_end", "single_share", "trace_mb_per_s"))
    return [
        *cells,
        "{median:.3f} ({min:.3f}-{max:.3f})".format(**result["rate_ratio"]),
        f"{bound[0]:.2f} ({bound[1]:.2f})" if bound and tracer == TCPTRACE else "",
        "x {median:.3f} ({min:.3f}-{max:.3f})".format(**result["cpu_ratio"]),
        f"{_number(result['tracer_cpu_us']['median'])} us",
        # tcpstates prints one line per transition, so its lines say nothing about ends.
        "" if "tcpstates" in tracer else f"{result['rows_per_end']['median']:.4f}",
        f"{turns['median']:.4f}" if turns and turns["max"] else "",
        f"{single['median']:.1%}" if single else "",
        f"{trace['median']:.1f} MB/s" if trace else "",
        lost_text(result["lost"]),
    ]


def _programs(kind: Kind, programs: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| program, {kind.name} | runs per {kind.unit} | ns per run | us per {kind.unit} |",
        "| --- | --- | --- | --- |",
    ]
    total = 0.0
    for program in programs:
        if program["runs_per_unit"] < 0.01:  # the walk, and what happens once per connection
            continue
        each = program["ns"] / program["runs"]
        cost = program["runs_per_unit"] * each / 1e3
        total += cost
        lines.append(f"| {program['name']} | {program['runs_per_unit']:.2f} | {each:.0f} | {cost:.2f} |")
    return [*lines, f"| all | | | {total:.2f} |"]


def section(path: Path, name: str) -> re.Match[str]:
    """What stands between the marks of a section in a document. Raises ValueError when they are missing."""
    begin, end = f"<!-- {name}: begin, written by make bench -->\n", f"<!-- {name}: end -->"
    found = re.search(re.escape(begin) + "(.*?)" + re.escape(end), path.read_text(), re.DOTALL)
    if not found:
        raise ValueError(f"{path} has no section {name!r}")
    return found


def put_into(path: Path, text: str, name: str) -> None:
    """Replace what stands between the marks of a section."""
    found, document = section(path, name), path.read_text()
    path.write_text(document[: found.start(1)] + text + "\n" + document[found.end(1) :])
