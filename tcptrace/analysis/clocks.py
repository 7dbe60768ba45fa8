"""How the wall clocks of several recordings relate, from what both ends of a connection saw of one another.

Something that left one host at one time and came back at another was at the other host in between: the middle
of the two is compared with the other host's time, and the error is at most half of the time under way. Of
many such comparisons those with the least error count, and of them the median. Clocks drift, so that is done
window by window, and between them the difference is interpolated.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tcptrace.analysis.columns import Ints

_MOST_WINDOWS = 64
_SHORTEST_NS = 10 * 10**9

# Comparisons whose error is at most this many times the least one count.
_SPREAD = 2


@dataclass(frozen=True)
class Comparisons:
    """Moments on the clocks of two recordings that were the same, up to the error; all of one length.

    here, there: the numbers of the recordings; the others ns.
    """

    here: Ints
    there: Ints
    here_ns: Ints
    there_ns: Ints
    error_ns: Ints


@dataclass(frozen=True)
class Clock:
    """What a recording's wall clock showed more than that of the recording `reference`.

    ahead_ns: the difference in the middle of the recording; uncertainty_ns: by how much it can be wrong, at
    most; comparisons: how many it rests on, those of the recordings between not counted.
    """

    reference: int
    ahead_ns: int = 0
    uncertainty_ns: int = 0
    comparisons: int = 0
    _at: Ints = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)
    _ahead: Ints = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)

    def ahead(self, wall_ns: Ints) -> Ints:
        """The difference at moments on the recording's own clock."""
        # Small differences only: a float64 holds 10^18 no better than to 128 ns.
        since = (wall_ns - self._at[0]).astype(np.float64)
        drift = np.interp(since, self._at - self._at[0], self._ahead - self._ahead[0])
        ahead: Ints = self._ahead[0] + np.rint(drift).astype(np.int64)
        return ahead

    def shifted(self, wall_ns: Ints) -> Ints:
        """Moments on the recording's own clock as moments on that of the reference."""
        return wall_ns - self.ahead(wall_ns)


def clocks(recordings: int, found: Comparisons) -> list[Clock]:
    """The clock of each recording, on the time line of the first one that it can be compared with, also by
    way of others; a recording that compares with none is its own reference."""
    edges = {
        (here, there): edge
        for here, there, chosen in _pairs(found)
        for edge in [_estimate(found, here, there, chosen)]
    }
    made: dict[int, Clock] = {}
    for first in range(recordings):
        if first in made:
            continue
        made[first] = Clock(first)
        while reachable := [
            (edge.uncertainty_ns + made[known].uncertainty_ns, known, new, edge)
            for (known, new), edge in edges.items()
            if known in made and new not in made and made[known].reference == first
        ]:
            _, known, new, edge = min(reachable, key=lambda entry: entry[:3])
            made[new] = _behind(edge, made[known])
    return [made[number] for number in range(recordings)]


def _pairs(found: Comparisons) -> Iterator[tuple[int, int, Ints]]:
    """(recording, other recording, rows that compare them), each pair in both directions."""
    low, high = np.minimum(found.here, found.there), np.maximum(found.here, found.there)
    for one, two in np.unique(np.column_stack([low, high]), axis=0).tolist():
        if one != two:
            rows = np.flatnonzero((low == one) & (high == two))
            yield one, two, rows
            yield two, one, rows


def _estimate(found: Comparisons, known: int, new: int, rows: Ints) -> Clock:
    """The clock of `new` against `known`, from the comparisons of these rows."""
    forward = found.here[rows] == known
    ours = np.where(forward, found.here_ns[rows], found.there_ns[rows])
    theirs = np.where(forward, found.there_ns[rows], found.here_ns[rows])
    ahead, error = theirs - ours, found.error_ns[rows]

    start = theirs.min()
    span = theirs.max() - start
    width = max(_SHORTEST_NS, -(-int(span) // _MOST_WINDOWS))
    window = (theirs - start) // width
    least = np.full(int(window.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, window, error)
    chosen = error <= _SPREAD * least[window]
    at, differences, errors = [], [], []
    for number in np.unique(window).tolist():
        inside = np.flatnonzero(chosen & (window == number))
        base = ahead[inside[0]]
        at.append(start + int(np.median(theirs[inside] - start)))
        differences.append(base + int(np.median(ahead[inside] - base)))
        errors.append(int(least[number]))
    return Clock(
        reference=known,
        ahead_ns=differences[len(differences) // 2],
        uncertainty_ns=max(errors),
        comparisons=len(rows),
        _at=np.array(at, np.int64),
        _ahead=np.array(differences, np.int64),
    )


def _behind(edge: Clock, known: Clock) -> Clock:
    """The clock of a recording that was compared with one whose clock is known."""
    ahead = edge._ahead + known.ahead(edge._at - edge._ahead)
    return Clock(
        reference=known.reference,
        ahead_ns=int(ahead[len(ahead) // 2]),
        uncertainty_ns=edge.uncertainty_ns + known.uncertainty_ns,
        comparisons=edge.comparisons,
        _at=edge._at,
        _ahead=ahead,
    )
