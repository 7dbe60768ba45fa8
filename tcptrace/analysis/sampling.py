"""How many of the exchanges that the kernel saw are in a trace, and how."""

from typing import Any

from tcptrace.analysis.columns import plain
from tcptrace.analysis.exchanges import without_rows
from tcptrace.trace.reader import Trace
from tcptrace.trace.wire import Kind


def exchange_counts(trace: Trace) -> dict[str, int | float | None]:
    """Ready for JSON: `rows` have a record each, `summed` are in sums alone, as they came too fast, and
    `missing` are in neither, because their sums were lost or the file is not whole; null when its end,
    where the kernel's counts are, is missing. `sampling`: rows of all of them, null of none."""
    rows = int((plain(trace.exchanges, "kind") == Kind.EXCHANGE).sum())
    summed = without_rows(trace)
    seen = _seen(trace.trailer or {})
    missing = None if seen is None else max(0, seen - rows - summed)
    total = rows + summed + (missing or 0)
    return {
        "rows": rows,
        "summed": summed,
        "missing": missing,
        "sampling": rows / total if total else None,
    }


def _seen(trailer: dict[str, Any]) -> int | None:
    counts = trailer.get("counts")
    parts = [counts.get(name) for name in ("single", "summed")] if isinstance(counts, dict) else [None]
    known = [part for part in parts if isinstance(part, int) and 0 <= part < 1 << 63]
    return sum(known) if len(known) == len(parts) else None
