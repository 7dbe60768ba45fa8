"""Comparisons of a recording with the truth, each with its bound.

A check never passes for want of a value: what was not measured is `unknown` and breaks the bound.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tcptrace.units import UNKNOWN, format_count, format_duration

Unit = Literal["ns", "count", "share", "text"]
Value = int | float | str | bool | None

OK, BROKEN = "ok", "broken"


@dataclass(frozen=True)
class Check:
    """One comparison. `relative` and `absolute` are how far off it may be: their sum is allowed."""

    what: str
    truth: Value
    measured: Value
    unit: Unit = "ns"
    relative: float = 0.0
    absolute: float = 0.0
    """In the unit of the values; emulated machines are allowed a multiple of it."""
    side: Literal["both", "at least", "at most"] = "both"
    of: int = 1
    """How many values it stands for: see :func:`each`."""

    @property
    def error(self) -> float | None:
        """measured - truth; None where that is no number."""
        if not _number(self.truth) or not _number(self.measured):
            return None
        return float(self.measured) - float(self.truth)  # type: ignore[arg-type]

    def allowed(self, slack: float = 1.0) -> float:
        """The largest error that keeps the bound, in the unit of the values."""
        scale = abs(float(self.truth)) if _number(self.truth) else 0.0  # type: ignore[arg-type]
        return self.relative * scale + self.absolute * slack

    def verdict(self, slack: float = 1.0) -> str:
        """OK, or BROKEN."""
        error = self.error
        if error is None:
            kept = self.measured is not None and self.truth is not None and self.measured == self.truth
        elif self.side == "at least":
            kept = error >= -self.allowed(slack)
        elif self.side == "at most":
            kept = error <= self.allowed(slack)
        else:
            kept = abs(error) <= self.allowed(slack)
        return OK if kept else BROKEN

    def bound(self, slack: float = 1.0) -> str:
        """For people: `5 % + 100 µs`, `exactly`, `at least`."""
        parts = []
        if self.relative:
            parts.append(f"{100 * self.relative:g} %")
        if self.absolute:
            parts.append(words(self.absolute * slack, self.unit))
        start = "" if self.side == "both" else f"{self.side} "
        return f"{start}{' + '.join(parts)}".strip() or "exactly"

    def as_json(self, slack: float = 1.0) -> dict[str, Any]:
        """Plain values; `verdict` is "ok" or "broken"."""
        return {
            "what": self.what,
            "unit": self.unit,
            "of": self.of,
            "truth": self.truth,
            "measured": self.measured,
            "error": self.error,
            "allowed": self.allowed(slack),
            "bound": self.bound(slack),
            "verdict": self.verdict(slack),
        }


def close(
    what: str, truth: Value, measured: Value, *, relative: float = 0.0, absolute_ns: float = 0.0, of: int = 1
) -> Check:
    """A duration is right to `relative` of the truth plus `absolute_ns`."""
    return Check(what, truth, measured, "ns", relative, absolute_ns, of=of)


def each(
    what: str,
    truths: Sequence[float | None],
    measured: Sequence[float | None],
    *,
    relative: float = 0.0,
    absolute_ns: float = 0.0,
) -> Check:
    """The same of several durations, turn by turn: the one with the median error speaks for all.

    Broken when there is none, when a value is unknown, or when there are more of one than of the other.
    """
    pairs = list(zip(truths, measured, strict=False))
    if len(truths) != len(measured) or not pairs:
        return same(f"{what}: how many", len(truths) or None, len(measured))
    known = [(true, found) for true, found in pairs if true is not None and found is not None]
    if len(known) != len(pairs):
        return same(f"{what}: how many are known", len(pairs), len(known))
    errors = sorted(known, key=lambda pair: pair[1] - pair[0])
    true, found = errors[(len(errors) - 1) // 2]
    return close(what, true, found, relative=relative, absolute_ns=absolute_ns, of=len(known))


def bounded(
    least: Sequence[float | None], most: Sequence[float | None], measured: Sequence[float | None]
) -> list[float | None]:
    """Truths of which only bounds are known, for :func:`each`: what was measured where it keeps them, else
    the bound that it breaks. As many as there are bounds; unknown where one of the three is."""
    found: list[float | None] = []
    for number, (low, high) in enumerate(zip(least, most, strict=True)):
        value = measured[number] if number < len(measured) else low
        known = low is not None and high is not None and value is not None
        found.append(max(low, min(high, value)) if known else low)  # type: ignore[type-var]
    return found


def same(what: str, truth: Value, measured: Value) -> Check:
    """A count or a word is exactly this."""
    return Check(what, truth, measured, "count" if _number(truth) else "text")


def alike(what: str, truths: Sequence[Value], measured: Sequence[Value]) -> Check:
    """Counts or words, one by one: how many are what they should be, of how many. Unknown never is."""
    right = sum(true == found for true, found in zip(truths, measured, strict=False) if true is not None)
    return same(what, max(len(truths), len(measured)) or None, right)


def count(what: str, truth: Value, measured: Value, *, relative: float = 0.0, absolute: float = 0.0) -> Check:
    """A count is right to so much."""
    return Check(what, truth, measured, "count", relative, absolute)


def at_least(what: str, least: float, measured: Value, unit: Unit = "ns") -> Check:
    """A value reaches a bound."""
    return Check(what, least, measured, unit, side="at least")


def at_most(what: str, most: float, measured: Value, unit: Unit = "ns") -> Check:
    """A value stays below a bound."""
    return Check(what, most, measured, unit, side="at most")


def median(values: Sequence[float | None]) -> float | None:
    """Of what is known; None when one is not, or there is none."""
    return fold(statistics.median, values)


def fold(function: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    """`sum`, `min` or `max` of what is known; None when one is not, or there is none."""
    known = [value for value in values if value is not None]
    return function(known) if known and len(known) == len(values) else None


def words(value: Value, unit: Unit) -> str:
    """A value for people."""
    if value is None:
        return UNKNOWN
    if not _number(value):
        return str(value)
    number = float(value)
    if unit == "ns":
        return format_duration(number)
    return f"{number:.1%}" if unit == "share" else format_count(number)


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
