"""Budgets against applications' clocks, the relay's log and the kernel: what the kernel tests compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ledger
from latency import BOUND, Comparison
from ledger import Entry
from tcptrace.errors import TcptraceError

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 900.0
LEAST_NS = 100_000
"""Shares of less say nothing."""
CHAPTERS = {
    "Nagle": ("test_budget_holds.py",),
    "Cork, congestion window, pacing, receive window, send buffer": ("test_budget_limits.py",),
    "Network, peer and the server's own time": ("test_budget_network.py",),
    "Late readers": ("test_budget_receiver.py",),
    "Loss": ("test_budget_loss.py",),
    "Two hosts' traces": ("test_budget_two_traces.py",),
}
"""The tests of which each table shows the comparisons."""


@dataclass(frozen=True)
class Compared:
    """What the tests entered into their ledger, and which of them failed."""

    entries: list[Entry]
    failed: list[str]


def run_tests() -> Compared:
    """Run the tests of all chapters. They need root."""
    files = [ROOT / "tests" / "kernel" / name for names in CHAPTERS.values() for name in names]
    with tempfile.TemporaryDirectory(prefix="tcptrace-ledger-") as directory:
        path = Path(directory, "ledger")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf", "--tb=no", *map(str, files)],
            cwd=ROOT,
            env={**os.environ, ledger.VARIABLE: str(path), "TCPTRACE_REQUIRE_KERNEL": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        if done.returncode not in (0, 1):
            raise TcptraceError(f"pytest ended with {done.returncode}: {done.stdout.strip()[-500:]}")
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if done.returncode and not failed:
            raise TcptraceError(f"pytest failed: {done.stdout.strip()[-500:]}")
        return Compared(ledger.read(path) if path.exists() else [], failed)


def document(compared: Compared) -> str:
    """A table per chapter, then one of what is unattributed in them."""
    parts = []
    for title, names in CHAPTERS.items():
        entries = [one for one in compared.entries if _file(one) in names and one.truth is not None]
        if entries:
            parts += [f"### {title}", comparisons(entries)]
    shares = [one for one in compared.entries if one.truth is None]
    if shares:
        parts += ["### Unattributed", unattributed(shares)]
    return "\n\n".join(parts)


def comparisons(entries: Iterable[Entry]) -> str:
    """One row per comparison; times in us."""
    rows = []
    for one in entries:
        assert one.truth is not None
        share = f" ({one.difference / one.truth:+.1%})" if one.truth >= LEAST_NS else ""
        rows.append(
            [_case(one), one.what, str(one.turns), _us(one.truth), _us(one.recorded),
             f"{one.difference / 1e3:+,.1f}{share}", one.bound]
        )  # fmt: skip
    return table(("case", "what", "turns", "truth", "recorded", "difference", "allowed"), "llrrrrl", rows)


def unattributed(entries: Iterable[Entry]) -> str:
    """One row per chapter and bound: the largest share."""
    rows = []
    worst: dict[tuple[str, str, str], list[Entry]] = {}
    for one in entries:
        titles = [title for title, names in CHAPTERS.items() if _file(one) in names]
        worst.setdefault((titles[0] if titles else _file(one), one.what, one.bound), []).append(one)
    for (title, what, bound), group in worst.items():
        dearest = max(group, key=lambda one: one.recorded)
        rows.append([title, what, str(len(group)), str(sum(one.turns for one in group)),
                     f"{dearest.recorded:.2%}", bound])  # fmt: skip
    return table(("chapter", "share", "recordings", "turns", "largest", "allowed"), "llrrrl", rows)


def tools(found: Sequence[Comparison]) -> str:
    """One row per run of a load tool."""
    rows = [
        [one.title, f"{one.told.count:,}", _us(one.told.mean_ns), _us(float(one.recorded.mean())),
         f"{one.difference:+.1%}", f"{BOUND:.0%}", f"{one.unattributed:.2%}"]
        for one in found
    ]  # fmt: skip
    headings = ("run", "n", "tool's mean", "recorded mean", "difference", "allowed", "unattributed")
    return table(headings, "lrrrrrr", rows)


def table(headings: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]) -> str:
    """Markdown; `alignment` has an l or an r per column."""
    marks = ["---:" if letter == "r" else "---" for letter in alignment]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def _file(entry: Entry) -> str:
    return entry.test.partition("::")[0].rpartition("/")[2]


def _case(entry: Entry) -> str:
    """What a test's id says, for readers."""
    name, _, case = entry.test.rpartition("::")[2].removeprefix("test_").partition("[")
    words = name.replace("_", " ")
    return f"{words} ({case.removesuffix(']')})" if case else words


def _us(ns: float) -> str:
    return f"{ns / 1e3:,.1f}"
