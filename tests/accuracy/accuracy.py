"""`make accuracy`: what is recorded against what is true, as tables and as docs/accuracy.md.

Handshakes against a packet capture, budgets of exchanges as the kernel tests compare them, load tools'
latencies, and the lab's scenarios. Needs tests/kernel in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import budgets
import scenarios
import tcptrace
import tools
from budgets import Compared
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
from latency import Comparison
from recording import Recording
from scenarios import Verified
from tcptrace.errors import TcptraceError

HEADINGS = (
    "experiment", "end", "n", "captured median", "median", "p90", "p99", "max", "signed median",
    "correlation", "not compared",
)  # fmt: skip

TEMPLATE = Path(__file__).with_name("accuracy.md.in")
CHAPTERS = ("budgets", "tools", "lab", "handshakes")


@dataclass
class Found:
    """What was measured, by chapter."""

    outcomes: list[Outcome] = field(default_factory=list)
    compared: Compared = field(default_factory=lambda: Compared([], []))
    latencies: list[Comparison] = field(default_factory=list)
    verified: Verified = field(default_factory=lambda: Verified([]))

    def broken(self) -> list[str]:
        """A clause for each bound that was not kept."""
        handshakes = [f"{one.experiment.name}, {text}" for one in self.outcomes for text in one.failures]
        latencies = [one.failure for one in self.latencies if one.failure]
        return handshakes + self.compared.failed + latencies + self.verified.broken()


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


def document(found: Found, count: int) -> str:
    """docs/accuracy.md."""
    outcomes, failed = found.outcomes, found.compared.failed
    broken = [f"{outcome.experiment.name}, {text}" for outcome in outcomes for text in outcome.failures]
    repeated = [outcome for outcome in outcomes if outcome.attempts > 1]
    filled = TEMPLATE.read_text().format(
        budgets=budgets.document(found.compared),
        tests=f"**Broken: {', '.join(failed)}.**" if failed else "All bounds are kept.",
        tools=budgets.tools(found.latencies),
        lab=scenarios.document(found.verified),
        lab_seconds=found.verified.seconds,
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


@contextlib.contextmanager
def recordings() -> Iterator[tools.Start]:
    """Starts recordings in a temporary directory; none goes on after the block."""
    started: list[Recording] = []
    with tempfile.TemporaryDirectory(prefix="tcptrace-accuracy-") as directory:

        def start(*arguments: object) -> Recording:
            path = Path(directory, f"{len(started)}.tct")
            started.append(Recording(path, [str(argument) for argument in arguments]))
            return started[-1]

        try:
            yield start
        finally:
            for one in started:
                one.abandon()


def say(text: str) -> None:
    print(f"accuracy: {text}", file=sys.stderr, flush=True)


def measured(chapters: list[str], count: int) -> Found:
    """Measure these chapters.

    Raises:
        TcptraceError, OSError, SubprocessError: something could not be measured.
    """
    found = Found()
    if "budgets" in chapters:
        say("the kernel tests of the budget, some minutes")
        found.compared = budgets.run_tests()
    if "tools" in chapters:
        with recordings() as start:
            for comparisons in (tools.web, tools.sql):
                for comparison in comparisons(start):
                    say(comparison.title)
                    found.latencies.append(comparison)
    if "lab" in chapters:
        say("the lab's scenarios, some minutes")
        found.verified = scenarios.run()
    if "handshakes" in chapters:
        for experiment in EXPERIMENTS:
            say(experiment.title)
            found.outcomes.append(measure(experiment, count, say))
    return found


def main() -> int:
    """0 when all bounds are kept, 1 when not."""
    parser = argparse.ArgumentParser(prog="accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the document here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every handshake's values here")
    parser.add_argument("--only", choices=CHAPTERS, help="one chapter, as tables; not with --write")
    parser.add_argument("-n", type=int, default=CONNECTIONS, help="connections per experiment [%(default)s]")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--write needs all chapters")
    if os.geteuid() != 0:
        say("needs root, to make namespaces, to record and to capture")
        return 3
    try:
        found = measured([options.only] if options.only else list(CHAPTERS), options.n)
    except (TcptraceError, OSError, subprocess.SubprocessError, AssertionError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    texts = (
        budgets.document(found.compared),
        budgets.tools(found.latencies) if found.latencies else "",
        scenarios.document(found.verified) if found.verified.outcomes else "",
        table(found.outcomes) if found.outcomes else "",
    )
    print("\n\n".join(filter(None, texts)))
    if options.json:
        options.json.write_text(as_json(found.outcomes))
    if options.write:
        options.write.write_text(document(found, options.n))
        say(f"written to {options.write}")
    for clause in found.broken():
        say(f"bound broken: {clause}")
    return 1 if found.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
