"""The single changes that would help, each with the time that it was measured to cost.

A change promises what its stage held, never more: what was measured is all that it can save, and where only a
part of it can be (a server's work, the way through the kernel) it says `at most`. Every change stands alone;
two that act on the same turns may save less than both together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tcptrace.analysis.advice_words import AT_MOST, Facts, words
from tcptrace.analysis.budget import Pieces, of_groups, share
from tcptrace.analysis.columns import Ints, dictionary_codes, exact_sum, nullable, plain, text_equals
from tcptrace.analysis.floor import Floor
from tcptrace.analysis.gap import ROUTE, SETUP, Gap, estimated
from tcptrace.analysis.groups import Key, connection_rows, group
from tcptrace.analysis.setup import setup
from tcptrace.analysis.stages import NOT_AT, STAGES

LEAST_PERCENT = 1
"""Of the group's mean: what would save less is not worth a line."""
_GROUPS = 50  # those with most time

# Whom a change is for: a client's connections by where they go, a server's by where they arrive.
BY = {"client": ("remote", "program"), "server": ("port", "program")}

# Stages of a server that are over when its first read returns.
_FIRST_READ = ("kernel_rx_ns", "wakeup_ns", "app_late_ns")
_LOSS, _PEER, _NETWORK = "loss_recovery_ns", "peer_ns", "network_ns"


@dataclass(frozen=True)
class Change:
    """cause: a stage, gap.ROUTE or gap.SETUP. key: the group it is for, its `side` first; exchanges: how many
    that is. saving_ns: per exchange of that group, of measured_ns with set-up, which reaches_target is about
    (None without a target); whole_ns: of the mean over all exchanges of the side. what: what was measured;
    do: what to do about it; note: what else is known of it, or empty. The texts name processes of the
    recorded host and are not escaped."""

    cause: str
    key: Key
    exchanges: int
    saving_ns: int
    measured_ns: int
    whole_ns: int
    at_most: bool
    estimated: bool
    reaches_target: bool | None
    what: str
    do: str
    note: str

    def json(self) -> dict[str, Any]:
        return {
            "cause": self.cause,
            **self.key,
            "exchanges": self.exchanges,
            "saving_ns": self.saving_ns,
            "measured_ns": self.measured_ns,
            "whole_ns": self.whole_ns,
            "at_most": self.at_most,
            "estimated": self.estimated,
            "reaches_target": self.reaches_target,
            "what": self.what,
            "do": self.do,
            "note": self.note,
        }


@dataclass(frozen=True)
class _Found:
    """A stage's time in one group of n exchanges: cost_ns per exchange, of which saving_ns goes away, of
    measured_ns."""

    cause: str
    cost_ns: int
    saving_ns: int
    measured_ns: int
    n: int
    estimated: bool
    facts: Facts
    kind: str | None = None


def changes(everything: Pieces, connections: pa.Table, whole: Gap) -> list[Change]:
    """The changes for the exchanges of one side, largest saving of the whole mean first.

    everything: the exchanges of both sides. whole: the steps of all exchanges of the side that is asked
    about. Of a client's exchange that is joined with the server's row, the other end's time is that row's
    stages, so that changes there are among the client's.
    """
    side = whole.key["side"]
    found = list(_own(everything.of_side(side), connections, whole.floor, side))
    if side == "client":
        found += _other_end(everything, connections, whole)
    made = []
    for one in found:
        if not one.saving_ns or one.saving_ns * 100 < one.measured_ns * LEAST_PERCENT:
            continue
        what, do, note = words(one.cause, one.cost_ns, one.estimated, one.facts, one.kind)
        left = one.measured_ns - one.saving_ns
        made.append(
            Change(
                cause=one.cause,
                key=one.facts.key,
                exchanges=one.n,
                saving_ns=one.saving_ns,
                measured_ns=one.measured_ns,
                whole_ns=share(one.saving_ns * one.n, whole.exchanges),
                at_most=one.cause in AT_MOST,
                estimated=one.estimated,
                reaches_target=None if whole.target_ns is None else left <= whole.target_ns,
                what=what,
                do=do,
                note=note,
            )
        )
    return sorted(made, key=lambda change: -change.whole_ns)


def _own(own: Pieces, connections: pa.Table, floor: Floor | None, side: str) -> Iterator[_Found]:
    grouping = group(own.table, connections, BY[side])
    for one in of_groups(own, connections, grouping, _GROUPS):
        within = own.of(grouping.codes == one.number)
        facts, unsure, mean, n = _facts(within, connections, one.key), estimated(one), one.mean, one.exchanges
        paid = facts.setup
        measured = mean.total_ns + (paid.each_ns if side == "client" else 0)

        def cost(cause: str, ns: int, guessed: bool, kind: str | None = None) -> _Found:
            return _Found(cause, ns, ns, measured, n, guessed, facts, kind)  # noqa: B023 - used at once

        for stage, ns in mean.stages.items():
            if ns and stage not in (_LOSS, _PEER, _NETWORK):
                yield cost(stage, ns, stage in unsure)
        for kind, ns in _losses(within).items():
            yield cost(_LOSS, share(ns, n), False, kind)
        if side == "client":
            # What only the end that asks can see: the way, and the other end where nothing else tells of it.
            network = mean.stages[_NETWORK]
            if floor is not None and network is not None:
                yield cost(ROUTE, max(0, network - floor.round_trip_ns), _NETWORK in unsure)
            alone = ~nullable(within.table, "peer_connection_id").known
            yield cost(_PEER, share(exact_sum(plain(within.table, _PEER)[alone]), n), _PEER in unsure)
            yield _Found(SETUP, paid.each_ns, paid.saving_ns, measured, n, not paid.exact, facts)


def _other_end(everything: Pieces, connections: pa.Table, whole: Gap) -> Iterator[_Found]:
    """The server's stages of those of a client's exchanges that are joined with its row.

    In each exchange no more than the client saw of the other end: its answer's first byte (peer) and the
    rest of it (transfer). What comes before the request's last byte is no time at the other end, although it
    is in the server's total: reading the rest of the request, and its first read when there are more. Which
    of the client's groups they are of is not told apart: a server's change is measured against all of them.
    """
    clients, place = _joined(everything.table.slice(0, everything.rows))
    if not len(clients):
        return
    seen = plain(everything.table, _PEER)[clients] + plain(everything.table, "transfer_ns")[clients]
    chosen = np.zeros(len(everything.weight), np.bool_)
    chosen[place] = True
    # A row can be the answer to one turn alone, so that rows and turns correspond.
    servers = everything.of(chosen)
    limit = np.zeros(len(chosen), np.int64)
    limit[place] = seen
    limit = limit[chosen]
    grouping = group(servers.table, connections, BY["server"])
    for one in of_groups(servers, connections, grouping, _GROUPS):
        here = grouping.codes == one.number
        within = servers.of(here)
        facts, unsure = _facts(within, connections, one.key), estimated(one)
        single = plain(within.table, "reads") <= 1
        for stage in STAGES:
            if stage not in NOT_AT["server"] and stage != "transfer_ns":
                ns = np.minimum(plain(within.table, stage), limit[here])
                if stage in _FIRST_READ:
                    ns = np.where(single, ns, 0)
                each = share(exact_sum(ns), one.exchanges)
                yield _Found(stage, each, each, whole.measured_ns, one.exchanges, stage in unsure, facts)


def _joined(table: pa.Table) -> tuple[Ints, Ints]:
    """The rows of clients whose server's row is in the table, too, and where that is."""
    ids, seq = nullable(table, "peer_connection_id"), plain(table, "peer_seq")
    wanted = np.flatnonzero(ids.known)
    own_ids, own_seq = plain(table, "connection_id"), plain(table, "seq")
    distinct = np.unique(own_ids)
    width = int(max(own_seq.max(initial=0), seq.max(initial=0))) + 1
    keys = np.searchsorted(distinct, own_ids) * width + own_seq
    servers = np.flatnonzero(text_equals(table["side"], "server"))
    order = servers[np.argsort(keys[servers], kind="stable")]
    if not len(order) or not len(wanted):
        return wanted[:0], order[:0]
    place = np.minimum(np.searchsorted(distinct, ids.values[wanted]), len(distinct) - 1)
    sought = place * width + seq[wanted]
    at = order[np.minimum(np.searchsorted(keys[order], sought), len(order) - 1)]
    found = (keys[at] == sought) & (distinct[place] == ids.values[wanted])
    return wanted[found], at[found]


def _facts(within: Pieces, connections: pa.Table, key: Key) -> Facts:
    """What the words say of a group beside its time."""
    n = int(within.weight.sum())
    held = plain(within.table, "nagle_ns")[: within.rows] > 0
    delayed = nullable(_as_numbers(within.table, "delayed_ack"), "delayed_ack")
    judged = held & delayed.known[: within.rows]
    late = judged & (delayed.values[: within.rows] == 1)
    position = np.unique(connection_rows(within.table, connections))
    codes, names = dictionary_codes(connections["congestion_control"])
    controls = {names[code] for code in np.unique(codes[position[position >= 0]]).tolist() if code >= 0}
    return Facts(
        key=key,
        exchanges=n,
        calls={name: int(plain(within.table, name).sum()) / n for name in ("writes", "reads")},
        delayed_share=int(late.sum()) / int(judged.sum()) if judged.any() else None,
        congestion_controls=sorted(name for name in controls if name),
        joined=2 * int(nullable(within.table, "peer_connection_id").known.sum()) > len(within.weight),
        setup=setup(within, connections),
    )


def _as_numbers(table: pa.Table, name: str) -> pa.Table:
    return pa.table({name: table[name].cast(pa.int64())})


def _losses(within: Pieces) -> dict[str, int]:
    """Kind of retransmission -> ns of loss recovery in its exchanges; `unknown` where none is known."""
    lost = plain(within.table, _LOSS)
    codes, names = dictionary_codes(within.table["retransmit_kind"])
    kinds = np.unique(codes[lost > 0]).tolist()
    return {
        (names[code] or "unknown") if code >= 0 else "unknown": exact_sum(lost[codes == code])
        for code in kinds
    }
