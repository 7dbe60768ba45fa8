"""What the steps of one guest left behind, and whether it is what it must be."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCTOR, TESTS, SCENARIOS = "doctor", "tests", "scenarios"
STEPS = (DOCTOR, TESTS, SCENARIOS)
"""In their order; each leaves NAME.log, and doctor.json, tests.xml and scenarios.json."""

LAST_LINES = 15


@dataclass(frozen=True)
class Step:
    """How one step ended. `words` is for the summary, `problems` what is wrong; it is green without any."""

    name: str
    seconds: float
    words: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What became of one kernel. `hooks` is doctor's list; `problem` is of the guest itself."""

    kernel: str
    release: str = ""
    seconds: float = 0.0
    steps: tuple[Step, ...] = ()
    hooks: tuple[dict[str, Any], ...] = ()
    problem: str = ""
    panics: int = 0

    @property
    def problems(self) -> list[str]:
        found = [self.problem] if self.problem else []
        for step in self.steps:
            found += [f"{step.name}: {problem}" for problem in step.problems]
        return found

    @property
    def green(self) -> bool:
        """Every step ran and none had a problem."""
        return not self.problems and {step.name for step in self.steps} == set(STEPS)


@dataclass
class Reported:
    """The lines that a guest prints: its kernel's release, and `NAME CODE SECONDS` as each step ends."""

    may_lack: tuple[str, ...] = ()
    release: str = ""
    steps: list[Step] = field(default_factory=list)

    def take(self, line: str, directory: Path) -> Step | None:
        """Note a line; the step that it tells of."""
        words = line.split()
        if len(words) == 2 and words[0] == "release":
            self.release = words[1]
        if len(words) != 3 or words[0] not in STEPS:
            return None
        self.steps.append(judge(words[0], int(words[1]), float(words[2]), directory, self.may_lack))
        return self.steps[-1]


def judge(name: str, code: int, seconds: float, directory: Path, may_lack: Container[str] = ()) -> Step:
    """Whether a step that ended with this exit code is green, by what it left in the directory.

    Args:
        may_lack: the capabilities that this kernel may be without.
    """
    if code in (124, 137):
        return Step(
            name, seconds, "out of time", (f"still running after {seconds:.0f} s", *_last(directory, name))
        )
    try:
        if name == DOCTOR:
            words, problems = _doctor(directory, may_lack)
        else:
            words, problems = {TESTS: _tests, SCENARIOS: _scenarios}[name](directory)
    except (OSError, ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
        return Step(
            name, seconds, "no result", (f"no result ({error}), exit code {code}", *_last(directory, name))
        )
    if code and not problems:
        problems = [f"exit code {code}", *_last(directory, name)]
    return Step(name, seconds, words, tuple(problems))


def hooks(directory: Path) -> tuple[dict[str, Any], ...]:
    """doctor's list of facts, each with `fact`, `provider`, `exact` and `reason`; empty without one."""
    try:
        found = json.loads((directory / "doctor.json").read_text())["hooks"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(found)


def _doctor(directory: Path, may_lack: Container[str]) -> tuple[str, list[str]]:
    document = json.loads((directory / "doctor.json").read_text())
    facts = document["hooks"]
    found = sum(hook["provider"] is not None for hook in facts)
    wrong = [check for check in document["checks"] if check["required"] and check["ok"] is False]
    problems = [f"{check['name']}: {check['found']}" for check in wrong]
    if not document["ready"] and not problems:
        problems = ["not ready"]
    for hook in facts:
        for one in hook.get("providers", ()):
            if one["reason"] and one["capability"] and one["capability"] not in may_lack:
                problems.append(
                    f"{hook['fact']}: no {one['provider']}: {one['reason']} "
                    f"({one['capability']} is not in may_lack)"
                )
    return f"{found} of {len(facts)} facts", problems


def _tests(directory: Path) -> tuple[str, list[str]]:
    root = ElementTree.parse(directory / "tests.xml").getroot()
    cases = list(root.iter("testcase"))
    problems = []
    skipped = 0
    for case in cases:
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        for kind in ("failure", "error"):
            for one in case.findall(kind):
                problems.append(f"{name}: {_first(one.get('message', ''))}")
        skipped += case.find("skipped") is not None
    if not cases:
        problems.append("no test ran")
    words = f"{len(cases) - skipped - len(problems)} ok" + (f", {skipped} skipped" if skipped else "")
    return words + (f", {len(problems)} failed" if problems else ""), problems


def _scenarios(directory: Path) -> tuple[str, list[str]]:
    outcomes = json.loads((directory / "scenarios.json").read_text())
    problems = []
    for one in outcomes:
        if one["verdict"] == "ok":
            continue
        broken = [_check(check) for check in one["checks"] if check["verdict"] != "ok"]
        what = "; ".join(broken) or one["reason"] or ""
        problems.append(f"{one['scenario']}: {one['verdict']}{': ' + _first(what) if what else ''}")
    if not outcomes:
        problems.append("no scenario was played")
    again = sum(one["first_run"] is not None and one["verdict"] == "ok" for one in outcomes)
    words = f"{len(outcomes) - len(problems)} ok" + (f" ({again} played twice)" if again else "")
    return words + (f", {len(problems)} not" if problems else ""), problems


def _check(check: dict[str, Any]) -> str:
    measured, truth = check["measured"], check["truth"]
    return f"{check['what']}: {measured} of {truth} {check['unit']}, allowed {check['bound']}"


def _first(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 200 else line[:199] + "…"


def _last(directory: Path, name: str) -> list[str]:
    try:
        lines = (directory / f"{name}.log").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [f"  {line}" for line in lines[-LAST_LINES:]]


def summary(results: list[Result]) -> list[str]:
    """The table at the end: a line for each kernel, and a verdict."""
    rows: list[tuple[str, ...]] = [("kernel", "release", *STEPS, "time", "")]
    for result in results:
        by_name = {step.name: step for step in result.steps}
        words = [by_name[name].words if name in by_name else "-" for name in STEPS]
        verdict = "ok" if result.green else "FAILED"
        if result.panics:
            verdict += f" (after {result.panics} panic{'s' * (result.panics > 1)})"
        rows.append((result.kernel, result.release or "-", *words, f"{result.seconds / 60:.1f} min", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
