"""`make accuracy`: handshake times against a packet capture, as a table and as docs/accuracy.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import tcptrace
from experiment import (
    ATTEMPTS,
    CONNECTIONS,
    CORRELATION,
    EXPERIMENTS,
    IDLE,
    MEDIAN_NS,
    P99_NS,
    Outcome,
    measure,
)
from tcptrace.errors import TcptraceError

HEADINGS = (
    "experiment", "end", "n", "captured median", "median", "p90", "p99", "max", "signed median",
    "correlation", "not compared",
)  # fmt: skip

TEMPLATE = Path(__file__).with_name("accuracy.md.in")


def table(outcomes: list[Outcome]) -> str:
    """The figures in Markdown."""
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        f"| --- | --- |{' ---: |' * (len(HEADINGS) - 2)}",
    ]
    for outcome in outcomes:
        for role, side in outcome.sides.items():
            sizes = [f"{side.quantile_us(share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
            captured = f"{np.median(side.captured) / 1e3:,.1f}"
            signed = f"{np.median(side.differences) / 1e3:+.1f}"
            cells = [outcome.experiment.title, role, str(len(side.differences)), captured, *sizes, signed,
                     f"{side.correlation:.4f}", str(side.missing)]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def document(outcomes: list[Outcome], count: int) -> str:
    """docs/accuracy.md."""
    broken = [f"{outcome.experiment.name}, {text}" for outcome in outcomes for text in outcome.failures]
    repeated = [outcome for outcome in outcomes if outcome.attempts > 1]
    filled = TEMPLATE.read_text().format(
        version=tcptrace.__version__,
        load=os.getloadavg()[0],
        date=datetime.now(UTC).date().isoformat(),
        release=platform.release(),
        machine=platform.machine(),
        cpus=os.cpu_count(),
        congestion=Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        connections=count,
        table=table(outcomes),
        median=MEDIAN_NS / 1e3,
        p99=P99_NS / 1e3,
        correlation=CORRELATION,
        bounded=" and ".join(f'"{one.experiment.title}"' for one in outcomes if one.experiment.bounded),
        correlated=" and ".join(f'"{one.experiment.title}"' for one in outcomes if one.experiment.correlated),
        verdict=f"**Broken: {'; '.join(broken)}.**" if broken else "All are kept.",
        idle=IDLE.title,
        cold=_off_when_cold(outcomes),
        attempts=f"A run that breaks a bound is repeated as a whole, at most {ATTEMPTS - 1} times; here: "
        + (", ".join(f"{one.experiment.name} ran {one.attempts} times" for one in repeated) or "none was")
        + ".",
    )
    return "\n\n".join(map(_wrapped, filled.split("\n\n")))


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "|", "-")):
        return paragraph
    end = "\n" if paragraph.endswith("\n") else ""
    return textwrap.fill(paragraph, 110, break_long_words=False, break_on_hyphens=False) + end


def _off_when_cold(outcomes: list[Outcome]) -> str:
    sides = next(outcome.sides for outcome in outcomes if outcome.experiment is IDLE)
    active, passive = (float(np.median(sides[role].differences)) / 1e3 for role in ("active", "passive"))
    return f"recorded times are off by {active:+.0f} us at active ends and {passive:+.0f} us at passive ends"


def as_json(outcomes: list[Outcome]) -> str:
    """Every pair of values, for a closer look."""
    return json.dumps(
        {
            outcome.experiment.name: {
                role: {"recorded_ns": side.recorded.tolist(), "captured_ns": side.captured.tolist()}
                for role, side in outcome.sides.items()
            }
            for outcome in outcomes
        }
    )


def main() -> int:
    """0 when all bounds are kept, 1 when not."""
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the document here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every pair of values here")
    parser.add_argument("-n", type=int, default=CONNECTIONS, help="connections per experiment [%(default)s]")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("accuracy: needs root, to make namespaces, to record and to capture", file=sys.stderr)
        return 3

    def say(text: str) -> None:
        print(f"accuracy: {text}", file=sys.stderr, flush=True)

    outcomes = []
    try:
        for experiment in EXPERIMENTS:
            say(experiment.title)
            outcomes.append(measure(experiment, options.n, say))
    except (TcptraceError, OSError, subprocess.SubprocessError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(outcomes))
    if options.json:
        options.json.write_text(as_json(outcomes))
    if options.write:
        options.write.write_text(document(outcomes, options.n))
        say(f"written to {options.write}")
    return 1 if any(outcome.failures for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
