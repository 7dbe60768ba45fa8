"""The lab's scenarios against their truth: what `tcptrace lab verify` says, as a table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from budgets import table
from tcptrace.errors import TcptraceError
from tcptrace.lab.checks import Unit, words

RUN_SECONDS = 600.0


@dataclass(frozen=True)
class Verified:
    """The outcomes of all scenarios, as `lab verify --json` prints them, and how long it took."""

    outcomes: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return float(sum(one["seconds"] for one in self.outcomes))

    def broken(self) -> list[str]:
        """A clause for each scenario that is neither right nor without a check."""
        return [
            f"scenario {one['scenario']}: {one['reason'] or one['verdict']}"
            for one in self.outcomes
            if one["verdict"] not in ("ok", "no check")
        ]


def run() -> Verified:
    """Play and check all scenarios. Raises TcptraceError when the command says nothing."""
    command = [sys.executable, "-m", "tcptrace", "lab", "verify", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=RUN_SECONDS)
    if not done.stdout:
        raise TcptraceError(f"tcptrace lab verify ended with {done.returncode}")
    return Verified(json.loads(done.stdout))


def document(verified: Verified) -> str:
    """One row per check; a scenario without a check has a row that says so."""
    rows: list[Sequence[str]] = []
    for one in verified.outcomes:
        if not one["checks"]:
            rows.append([one["scenario"], one["reason"] or "", "", "", "", "", one["verdict"]])
        rows += [[one["scenario"], *_cells(check)] for check in one["checks"]]
    headings = ("scenario", "check", "truth", "recorded", "difference", "allowed", "verdict")
    return table(headings, "llrrrll", rows)


def _cells(check: dict[str, Any]) -> list[str]:
    unit: Unit = check["unit"]
    truth, measured, error = (check[name] for name in ("truth", "measured", "error"))
    difference = "" if error is None else ("+" if error > 0 else "") + words(error, unit)
    if error is not None and unit == "ns" and truth:
        difference += f" ({error / truth:+.1%})"
    what = check["what"] + (f" (median of {check['of']})" if check["of"] > 1 else "")
    return [what, words(truth, unit), words(measured, unit), difference, check["bound"], check["verdict"]]
