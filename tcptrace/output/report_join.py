"""What the report says of joined recordings: which ends met, how their clocks differ, who is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tcptrace.analysis.columns import Mask, int_array, nullable, plain, positions, text_equals, truths
from tcptrace.analysis.join import Joined
from tcptrace.output.report_text import endpoint

SHOWN = 20  # ends without a partner


@dataclass(frozen=True)
class JoinedRow:
    """One recording. Counts of connection ends: across have their other end in another recording, within in
    the same, without_isn could not be looked for. exact of clients: exchanges with an exact network share.

    ahead_ns, uncertainty_ns: of its clock against that of the recording `reference` (from 1), None where
    nothing compares it with an earlier one.
    """

    name: str
    reference: int
    ahead_ns: int | None
    uncertainty_ns: int | None
    comparisons: int
    ends: int
    across: int
    within: int
    without_isn: int
    alone: int
    clients: int
    exact: int


@dataclass(frozen=True)
class Alone:
    """A connection end whose other end is in no recording."""

    recording: int
    connection_id: int
    role: str
    process: str | None
    local: str
    remote: str
    why: str


@dataclass(frozen=True)
class JoinView:
    rows: list[JoinedRow]
    pairs: int
    turns: int
    exact: int
    clients: int
    alone: list[Alone]
    of_alone: int


def join_view(joined: Joined, names: Sequence[str]) -> JoinView:
    """names: of the recordings, in their order."""
    ends, turns = joined.connections, joined.exchanges
    trace = plain(ends, "trace")
    peer = nullable(ends, "peer_connection_id")
    known = nullable(ends, "snd_isn").known & nullable(ends, "rcv_isn").known
    partner = trace[positions(plain(ends, "connection_id"), np.where(peer.known, peer.values, -1))]
    across, within = peer.known & (partner != trace), peer.known & (partner == trace)
    client, exact = text_equals(turns["side"], "client"), truths(turns, "network_exact")
    of_turn = plain(turns, "trace")
    rows = []
    for number, (name, clock) in enumerate(zip(names, joined.clocks, strict=True)):
        own, asked = trace == number, client & (of_turn == number)
        compared = clock.reference != number
        rows.append(
            JoinedRow(
                name=name,
                reference=clock.reference + 1,
                ahead_ns=clock.ahead_ns if compared else None,
                uncertainty_ns=clock.uncertainty_ns if compared else None,
                comparisons=clock.comparisons,
                ends=_count(own),
                across=_count(own & across),
                within=_count(own & within),
                without_isn=_count(own & ~peer.known & ~known),
                alone=_count(own & ~peer.known & known),
                clients=_count(asked),
                exact=_count(asked & exact),
            )
        )
    lonely = np.flatnonzero(~peer.known)
    return JoinView(
        rows,
        joined.pairs,
        joined.turns,
        _count(client & exact),
        _count(client),
        _alone(ends.take(int_array(lonely[:SHOWN])), known[lonely[:SHOWN]]),
        len(lonely),
    )


def _alone(rows: pa.Table, known: Mask) -> list[Alone]:
    return [
        Alone(
            row["trace"] + 1,
            row["trace_connection_id"],
            row["role"] or "unknown",
            row["comm"],
            endpoint(row["local_addr"], row["local_port"]),
            endpoint(row["remote_addr"], row["remote_port"]),
            "no other end was recorded" if sure else "its sequence numbers are not known",
        )
        for row, sure in zip(rows.to_pylist(), known.tolist(), strict=True)
    ]


def _count(mask: Mask) -> int:
    return int(mask.sum())
