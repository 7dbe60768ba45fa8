"""Quantiles by nearest rank: values that were measured, null when there are too few to say."""

from collections.abc import Mapping

import numpy as np

from tcptrace.analysis.columns import Ints

# Fewer values than this say nothing about the quantile: it is null.
QUANTILES: Mapping[str, tuple[int, int]] = {"p50_ns": (50, 1), "p90_ns": (90, 10), "p99_ns": (99, 100)}


def quantile(ordered: Ints, percent: int, needed: int = 1) -> int | None:
    """The nearest-rank quantile of ascending values, one that was measured; None with too few of them."""
    n = len(ordered)
    return int(ordered[max(0, -(-n * percent // 100) - 1)]) if n >= needed else None


def quantiles(values: Ints) -> dict[str, int | None]:
    """n, the quantiles and the maximum of values in any order, with the names of the summary."""
    ordered = np.sort(values)
    made: dict[str, int | None] = {"n": len(ordered)}
    for name, (percent, needed) in QUANTILES.items():
        made[name] = quantile(ordered, percent, needed)
    return made | {"max_ns": quantile(ordered, 100)}
