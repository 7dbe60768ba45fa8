"""A recording with several connections and their turns, and how near its rows are to the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budget_rows import exchange_rows, turns_of
from lacking import SLACK
from ledger import note, note_share
from recording import Recording, Row, only
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.lab.namespaces import Namespace
from turns import Times

MEDIAN_SHARE, P99_SHARE = 0.05, 0.10
"""How much of the turns' totals may be unattributed."""


@dataclass(frozen=True)
class Budget:
    """A finished recording's rows."""

    connections: list[Row]
    exchanges: list[Row]

    def turns(self, space: Namespace, client_port: int) -> list[Row]:
        """The turns of one end, in order: of the only connection of a namespace with this client port."""
        return turns_of(self.exchanges, self.end(space, client_port))

    def end(self, space: Namespace, client_port: int) -> Row:
        """The end in a namespace of the only connection with this client port."""
        return only(
            [row for row in self.ends(space) if client_port in (row["local_port"], row["remote_port"])]
        )

    def ends(self, space: Namespace) -> list[Row]:
        """The connections' ends in a namespace."""
        return [row for row in self.connections if row["netns"] == space.inode]


def of(*spaces: Namespace) -> list[str]:
    """The filter for these namespaces only: other tests may run beside, with the same ports."""
    return [argument for space in spaces for argument in ("--netns", str(space.inode))]


def read_budget(recording: Recording) -> Budget:
    """Stop a recording and read its rows, which must add up."""
    return Budget(recording.stop(), exchange_rows(recording))


def insist_on_shares(rows: Sequence[Row]) -> None:
    """Little is unattributed: 5 % at the median of the turns, 10 % at p99."""
    assert rows
    shares = np.array([row[UNATTRIBUTED] / row["total_ns"] for row in rows])
    median, p99 = np.percentile(shares, [50, 99])
    worst = rows[int(shares.argmax())]
    note_share("unattributed at the median", len(rows), median, f"{MEDIAN_SHARE:.0%}")
    note_share("unattributed at p99", len(rows), p99, f"{P99_SHARE:.0%}")
    assert median <= MEDIAN_SHARE and p99 <= P99_SHARE, (
        f"unattributed: {median:.1%} at the median, {p99:.1%} at p99 of {len(rows)} turns; worst: {worst}"
    )


def column(rows: Sequence[Row], *names: str) -> Times:
    """The sum of these columns, none of which may be null, one value per row."""
    for row in rows:
        assert all(row[name] is not None for name in names), f"null in {names}: {row}"
    return np.array([sum(row[name] for name in names) for row in rows], np.int64)


def others(rows: Sequence[Row], *names: str) -> Times:
    """The sum of all stages but these, nulls as 0, one value per row."""
    rest = [stage for stage in STAGES if stage not in names]
    return np.array([sum(row[stage] or 0 for stage in rest) for row in rows], np.int64)


def insist_close(name: str, measured: Times, truth: Times, share: float, slack_ns: float) -> None:
    """Turn by turn, the median of the difference is within a share of the truth's median and a slack."""
    assert len(measured) == len(truth), f"{name}: {len(measured)} turns instead of {len(truth)}"
    difference = float(np.median(np.abs(measured - truth)))
    slack_ns *= SLACK
    bound = share * float(np.median(truth)) + slack_ns
    allowed = f"{share:.0%} + {slack_ns / 1000:g} us, median turn by turn"
    note(name, len(truth), float(np.median(truth)), float(np.median(measured)), allowed, difference)
    assert difference <= bound, (
        f"{name} is off by {difference:,.0f} ns at the median, allowed {bound:,.0f}: "
        f"measured {np.median(measured):,.0f}, truth {np.median(truth):,.0f}; turn by turn:\n"
        f"{np.column_stack((measured, truth)).tolist()}"
    )
