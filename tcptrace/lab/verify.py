"""Plays scenarios and says whether their recordings keep the bounds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tcptrace.errors import EXIT_FAILURE, EXIT_HOST, EXIT_OK, HostError, TcptraceError
from tcptrace.lab.checks import BROKEN, OK, Check, words
from tcptrace.lab.play import Played, between_namespaces
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario

NO_CHECK, CANNOT, FAILED = "no check", "cannot", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one scenario.

    `verdict`: ok, broken (a bound), no check, cannot (this host), failed (to play); `reason` explains the
    last two. `means`: veth, netem or relay. `lost`: records lost in the recording.
    """

    name: str
    verdict: str
    seconds: float
    checks: list[Check] = field(default_factory=list)
    means: str = ""
    reason: str = ""
    lost: int = 0
    slack: float = 1.0
    first: Outcome | None = None
    """The run before this one, which broke a bound."""

    @property
    def broken(self) -> list[str]:
        """The checks that broke their bounds."""
        return [check.what for check in self.checks if check.verdict(self.slack) != OK]

    def as_json(self, slack: float = 1.0) -> dict[str, Any]:
        """Plain values."""
        return {
            "scenario": self.name,
            "verdict": self.verdict,
            "reason": self.reason or None,
            "link": self.means or None,
            "seconds": round(self.seconds, 1),
            "lost": self.lost,
            "first_run": self.first and {"lost": self.first.lost, "broken": self.first.broken},
            "checks": [check.as_json(slack) for check in self.checks],
        }


def verify(chosen: Iterable[Scenario], slack: float = 1.0) -> Iterator[Outcome]:
    """Play each and judge it; nothing is kept. One that cannot be played hinders no other.

    A scenario that breaks a bound is played once more when its recording lost records (what is judged is what
    rows say, and the first run says already that some are missing), and with slack: that is for emulated
    machines, which stand still for tens of milliseconds at times. The outcome tells of both runs.
    """
    for one in chosen:
        outcome = _played(one, slack)
        if outcome.verdict == BROKEN and (outcome.lost or slack > 1):
            again = _played(one, slack)
            outcome = replace(again, seconds=outcome.seconds + again.seconds, first=outcome)
        yield outcome


def _played(one: Scenario, slack: float) -> Outcome:
    begin = time.monotonic()

    def ended(verdict: str, reason: str) -> Outcome:
        return Outcome(one.name, verdict, time.monotonic() - begin, reason=reason)

    try:
        with tempfile.TemporaryDirectory(prefix="tcptrace-verify-") as directory:
            trace = Path(directory, "trace.tct")
            played = between_namespaces(one, trace, slack=slack, say=lambda line: None)
            return judge(one, played, time.monotonic() - begin, slack)
    except HostError as error:
        return ended(CANNOT, str(error))
    except TcptraceError as error:
        return ended(FAILED, str(error))
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        # A truth or a check met what it did not expect, such as fewer rows or packets than there must be.
        return ended(FAILED, f"it could not be judged: {type(error).__name__}: {error}")


def judge(one: Scenario, played: Played, seconds: float, slack: float = 1.0) -> Outcome:
    """Compare a scenario's recording with its truth."""
    rows = Rows(played.trace)
    checks = list(one.checks(played.truth, rows)) if one.checks else []
    broken = any(check.verdict(slack) != OK for check in checks)
    verdict = BROKEN if broken else OK if checks else NO_CHECK
    return Outcome(one.name, verdict, seconds, checks, played.means, lost=rows.lost, slack=slack)


def lines(outcome: Outcome, slack: float = 1.0) -> Iterator[tuple[str, ...]]:
    """The rows of one scenario in the table: scenario, check, truth, measured, error, allowed, verdict."""
    if not outcome.checks:
        yield (outcome.name, outcome.reason, "", "", "", "", outcome.verdict)
    for check in outcome.checks:
        yield (
            outcome.name,
            check.what + (f" (median of {check.of})" if check.of > 1 else ""),
            words(check.truth, check.unit),
            words(check.measured, check.unit),
            _signed(check),
            check.bound(slack),
            check.verdict(slack),
        )


def _signed(check: Check) -> str:
    error = check.error
    if error is None:
        return ""
    text = ("+" if error > 0 else "") + words(error, check.unit)
    if check.unit == "ns" and check.truth:
        text += f" ({error / float(check.truth):+.1%})"
    return text


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 when every check holds; 1 when a bound is broken, a scenario failed or nothing was checked; 3 when
    only this host is in the way of some."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if verdicts & {BROKEN, FAILED} or not verdicts & {OK, CANNOT}:
        return EXIT_FAILURE
    return EXIT_HOST if CANNOT in verdicts else EXIT_OK
