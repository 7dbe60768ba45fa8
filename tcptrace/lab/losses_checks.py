"""What is true of the turns of :mod:`tcptrace.lab.losses`, by the link's log, and what rows must say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from tcptrace.lab import losses, packets
from tcptrace.lab.checks import OK, Check, alike, at_least, close, each, same
from tcptrace.lab.link import Log
from tcptrace.lab.losses import ANSWER, CONNECTIONS, NO_KIND, STRUCK, TURNS, Case, Cases
from tcptrace.lab.packets import BACK, OUT
from tcptrace.lab.rows import Row, Rows, chosen, column
from tcptrace.lab.scenario import Scenario, Truth
from tcptrace.lab.witness import Witness

SEEN = CONNECTIONS - 1
"""Of so many the retransmissions must be seen: kernels were met that run no program while certain tasks are
interrupted (docs/adr/0002-journal.md). What is hidden so is unknown, never wrong."""
NOTHING = (0, 0, None)
"""loss_recovery_ns, retransmits and retransmit_kind of a turn without loss."""
RELATIVE, ABSOLUTE_NS = 0.02, 300_000
"""How far off a stage may be."""


def scenario(
    cases: Cases,
    *,
    name: str,
    title: str,
    teaches: str,
    delay_ns: int = losses.DELAY_NS,
    sysctls: Mapping[str, Mapping[str, object]] | None = None,
    more: Callable[[Truth, Rows, Cases], Iterator[Check]] | None = None,
    fast: bool = False,
) -> Scenario:
    """The scenario of these cases, one port each; `more` are checks besides those that all have."""

    def both(truth: Truth, rows: Rows) -> Iterator[Check]:
        yield from checks(truth, rows, cases)
        if more:
            yield from more(truth, rows, cases)

    return Scenario(
        name=name,
        chapter="loss",
        title=title,
        teaches=teaches,
        topology=losses.topology(cases, delay_ns),
        ports=len(cases),
        sysctls=sysctls or {},
        server=partial(losses.server, cases=cases),
        client=partial(losses.client, cases=cases),
        truth=partial(truth, cases=cases),
        checks=both,
        fast=fast,
    )


def truth(witness: Witness, cases: Cases) -> Truth:
    """By port, one value per connection that counts: its client's port, how long its turns took, how many
    segments either side repeated, and of the struck turn, at the relay: from its last byte's first departure
    until all of it was on its way for good, and from there until the answer came."""
    assert witness.log is not None
    found: Truth = {}
    for port, case in cases.items():
        flows = {int(flow["source_port"][0]): flow for flow in packets.flows(witness.log, port)}
        clients = witness.client[f"client_port_{port}"]
        found[f"client_ports_{port}"] = clients
        found[f"turns_{port}_ns"] = witness.client[f"turns_{port}_ns"]
        found[f"repeated_{port}"] = [_repeated(flows[mine], OUT, case.segments) for mine in clients]
        found[f"answers_repeated_{port}"] = [_repeated(flows[mine], BACK, 1) for mine in clients]
        ways = [_struck_ns(flows[mine], case) for mine in clients]
        found[f"recovery_{port}_ns"], found[f"wire_{port}_ns"] = (
            list(way) for way in zip(*ways, strict=True)
        )
    return found


def _repeated(flow: Log, direction: int, segments: int) -> int:
    """Segments that one side sent more than once, of so many per turn."""
    return len(packets.of_kind(flow, "data", direction)) - TURNS * segments


def _struck_ns(flow: Log, case: Case) -> tuple[int, int]:
    """Of the struck request: from its last byte's first departure to the last departure of any of its bytes,
    0 when nothing was lost, whatever was repeated; from there to the answer's arrival."""
    sent, answers = packets.of_kind(flow, "data", OUT), packets.of_kind(flow, "data", BACK)
    offset = _offsets(sent)
    end = (STRUCK + 1) * case.request
    mine = sent[(offset >= STRUCK * case.request) & (offset < end)]
    first_ns = int(sent["arrived_ns"][offset + sent["payload"] == end].min())
    gone_ns = int(mine["arrived_ns"].max()) if case.lost else first_ns
    # By its place in the stream: the server may repeat the answer before, whose ACK was lost as well.
    came = (_offsets(answers) == STRUCK * ANSWER) & (answers["left_ns"] >= 0)
    came_ns = int(answers["left_ns"][came].min())
    return gone_ns - first_ns, came_ns - gone_ns


def _offsets(data: Log) -> npt.NDArray[np.int64]:
    """Where in the stream of its direction each segment's payload begins."""
    found: npt.NDArray[np.int64] = (data["sequence"].astype(np.int64) - int(data["sequence"][0])) % (1 << 32)
    return found


def checks(truth: Truth, rows: Rows, cases: Cases) -> Iterator[Check]:
    """What was lost is charged to loss_recovery with its kind; what was late, and other turns, are not."""
    for port, case in cases.items():
        repeated = truth[f"repeated_{port}"]
        ends = chosen(rows.ends("active", port), "local_port", truth[f"client_ports_{port}"])
        yield alike(
            f"{case.label}: connections with the retransmits of the link's log",
            repeated,
            column(ends, "retransmits"),
        )
        turns = [rows.turns_of(end) for end in ends]
        pairs = list(zip(turns, repeated, strict=False))
        seen = [n for n, (mine, count) in enumerate(pairs) if _complete(mine, count)]
        yield at_least(
            f"{case.label}: connections with no retransmission hidden from eBPF, of {CONNECTIONS}",
            SEEN,
            len(seen),
            "count",
        )
        hidden = [n for n, (mine, _) in enumerate(pairs) if n not in seen and len(mine) == TURNS]
        yield same(
            f"{case.label}: the others, charged a wrong loss_recovery instead of none",
            0,
            sum(_wrong(turns[n][STRUCK], truth[f"recovery_{port}_ns"][n]) for n in hidden),
        )
        struck = [turns[n][STRUCK] for n in seen]
        yield from _charged(case, truth, port, seen, struck)
        others = [row for n in seen for row in turns[n] if row is not turns[n][STRUCK]]
        yield same(
            f"{case.label}: other turns, charged nothing",
            len(others),
            sum(
                (row["loss_recovery_ns"], row["retransmits"], row["retransmit_kind"]) == NOTHING
                for row in others
            ),
        )


def answers_checks(truth: Truth, rows: Rows, cases: Cases) -> Iterator[Check]:
    """What the server repeated is charged to its end of the connection."""
    for port, case in cases.items():
        ends = chosen(rows.ends("passive", port), "remote_port", truth[f"client_ports_{port}"])
        yield alike(
            f"{case.label}: server's ends with the retransmits of the link's log",
            truth[f"answers_repeated_{port}"],
            column(ends, "retransmits"),
        )


def _complete(turns: list[Row], repeated: int) -> bool:
    """Whether all turns were seen with all their retransmissions."""
    counts = column(turns, "retransmits")
    return (
        len(turns) == TURNS
        and None not in counts
        and sum(counts) == repeated
        and turns[STRUCK]["loss_recovery_ns"] is not None
    )


def _wrong(turn: Row, recovery_ns: int) -> bool:
    """Whether a turn of which something was hidden is told a loss that it does not have."""
    told = turn["loss_recovery_ns"]
    return (
        told is not None
        and close("", recovery_ns, told, relative=RELATIVE, absolute_ns=ABSOLUTE_NS).verdict() != OK
    )


def _charged(case: Case, truth: Truth, port: int, seen: list[int], struck: list[Row]) -> Iterator[Check]:
    """The struck turns of connections of which everything was seen."""
    totals = [truth[f"turns_{port}_ns"][n][STRUCK] for n in seen]
    recoveries = column(struck, "loss_recovery_ns")
    yield each(
        f"{case.label}: total", totals, column(struck, "total_ns"), relative=RELATIVE, absolute_ns=ABSOLUTE_NS
    )
    if case.lost:
        yield each(
            f"{case.label}: loss_recovery",
            [truth[f"recovery_{port}_ns"][n] for n in seen],
            recoveries,
            relative=RELATIVE,
            absolute_ns=ABSOLUTE_NS,
        )
    else:
        yield alike(
            f"{case.label}: turns with a loss_recovery of 0",
            [truth[f"recovery_{port}_ns"][n] for n in seen],
            recoveries,
        )
    yield each(
        f"{case.label}: network and peer",
        [truth[f"wire_{port}_ns"][n] for n in seen],
        column(struck, "network_ns", "peer_ns"),
        relative=RELATIVE,
        absolute_ns=ABSOLUTE_NS,
    )
    yield alike(
        f"{case.label}: retransmit_kind {case.kind}",
        [case.kind] * len(seen),
        [row["retransmit_kind"] or NO_KIND for row in struck],
    )
    yield alike(
        f"{case.label}: retransmits of the turn",
        [truth[f"repeated_{port}"][n] for n in seen],
        column(struck, "retransmits"),
    )
