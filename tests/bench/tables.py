"""From the runs to the tables that people read."""

import os
import re
from pathlib import Path
from statistics import median
from typing import Any

from load import Load
from tracers import Traced


def load_of(run: Load | Traced) -> Load:
    return run.load if isinstance(run, Traced) else run


def elsewhere(run: Load | Traced) -> float:
    """The share of all CPUs' time that neither the storm nor its tracer used: what disturbed them.

    Wrong by the 10 ms in which the kernel counts, some 0.01 for a run of two seconds.
    """
    load = load_of(run)
    tracer = run.cpu_load_s / (load.seconds * (os.cpu_count() or 1)) if isinstance(run, Traced) else 0.0
    return load.busy_share - load.own_share - tracer


def disturbance(done: dict[str, Load | Traced]) -> float:
    """Of a round: its most disturbed run."""
    return max(map(elsewhere, done.values()))


def one_line(done: dict[str, Load | Traced]) -> str:
    rates = ", ".join(f"{name} {load_of(run).connections_per_s:,.0f}/s" for name, run in done.items())
    return f"{rates} (others used up to {max(0.0, disturbance(done)):.0%} of the machine)"


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def results(rounds: list[dict[str, Load | Traced]]) -> dict[str, dict[str, Any]]:
    """Per tracer: how its rounds compare with the untraced run of the same round.

    `rate_ratio` and `cpu_ratio` are traced / untraced of connections/s and of CPU time per connection in the
    load; `tracer_cpu_us` is the tracer's CPU time per connection while the load ran; `rows_per_end` is 1 when
    each of the two ends of every connection has its row; `lost` is summed over the rounds by cause.
    """
    plain = [load_of(done["untraced"]) for done in rounds]
    found: dict[str, dict[str, Any]] = {
        "untraced": {
            "runs": len(plain),
            "connections_per_s": spread([load.connections_per_s for load in plain]),
            "cpu_us_per_connection": spread([load.cpu_us_per_connection for load in plain]),
        }
    }
    for name in dict.fromkeys(name for done in rounds for name in done if name != "untraced"):
        pairs = [(load_of(done["untraced"]), done[name]) for done in rounds if name in done]
        runs = [run for _, run in pairs if isinstance(run, Traced)]
        lost: dict[str, int] | None = None
        for run in runs:
            for cause, number in (run.lost or {}).items():
                lost = lost or {}
                lost[cause] = lost.get(cause, 0) + number
        found[name] = {
            "runs": len(runs),
            "connections_per_s": spread([run.load.connections_per_s for run in runs]),
            "rate_ratio": spread(
                [load_of(run).connections_per_s / load.connections_per_s for load, run in pairs]
            ),
            "cpu_ratio": spread(
                [load_of(run).cpu_us_per_connection / load.cpu_us_per_connection for load, run in pairs]
            ),
            "tracer_cpu_us": spread([run.cpu_load_s * 1e6 / run.load.connections for run in runs]),
            "tracer_cpu_s": spread([run.cpu_s for run in runs]),
            "start_s": spread([run.start_s for run in runs]),
            "rows_per_end": spread([run.rows / (2 * run.load.connections) for run in runs]),
            "trace_bytes_per_row": median(
                [run.trace_bytes / max(run.rows, 1) for run in runs if run.trace_bytes]
            )
            if any(run.trace_bytes for run in runs)
            else None,
            "lost": lost,
        }
    return found


def lost_text(lost: dict[str, int] | None) -> str:
    if lost is None:
        return "not counted"
    causes = [f"{cause} {number:,}" for cause, number in lost.items() if number and cause != "total"]
    return ", ".join(causes) or "0"


def document(figures: dict[str, Any]) -> str:
    """The tables in Markdown, with the sentence that says what they are of."""
    about = figures["host"]
    where = "" if figures["cpu"] is None else f" on CPU {figures['cpu']} alone"
    options = f" Options: `{' '.join(figures['record_options'])}`." if figures["record_options"] else ""
    lines = [
        f"{figures['date']}, Linux {about['kernel']}, {about['cpus']} CPUs ({about['cpu']}), storms of"
        f" {figures['seconds']:g} s over loopback{where}, RPS {'on' if figures['rps'] else 'off'}.{options}",
        f"A run was repeated when others used the machine ({figures['runs_discarded']} were); in those that"
        f" count, others used up to {figures['disturbance']:.0%} of it.",
        "",
        "| tracer | runs | connections/s | of untraced (range) | CPU/connection | tracer's CPU/connection"
        " | rows per end | lost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in figures["results"].items():
        rate = f"{result['connections_per_s']['median']:,.0f}"
        if name == "untraced":
            cpu = f"{result['cpu_us_per_connection']['median']:.1f} us"
            lines.append(f"| {name} | {result['runs']} | {rate} | 1 | {cpu} | | | |")
            continue
        ratio = "{median:.3f} ({min:.3f}-{max:.3f})".format(**result["rate_ratio"])
        # tcpstates prints one line per transition, so its lines say nothing about ends.
        rows = "" if "tcpstates" in name else f"{result['rows_per_end']['median']:.4f}"
        lines.append(
            f"| {name} | {result['runs']} | {rate} | {ratio} | x {result['cpu_ratio']['median']:.3f}"
            f" | {result['tracer_cpu_us']['median']:.1f} us | {rows} | {lost_text(result['lost'])} |"
        )
    if figures["programs"]:
        lines += [
            "",
            "| program | runs per connection | ns per run | us per connection |",
            "| --- | --- | --- | --- |",
        ]
        total = 0.0
        for program in figures["programs"]:
            if not program["runs"]:
                continue
            each = program["ns"] / program["runs"]
            cost = program["runs_per_connection"] * each / 1e3
            total += cost
            lines.append(
                f"| {program['name']} | {program['runs_per_connection']:.2f} | {each:.0f} | {cost:.2f} |"
            )
        lines.append(f"| all | | | {total:.2f} |")
    return "\n".join(lines)


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
