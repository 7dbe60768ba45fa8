"""Which packets a link drops, and how late it delivers the others: a script, decided per packet.

Nothing here reads a clock or a device, so every decision can be tested with made-up packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tcptrace.lab.packet import ACK, FIN, RST, SYN, Segment

Kind = Literal["syn", "synack", "data", "fin", "rst", "any"]
Direction = Literal["ab", "ba"]
End = tuple[bytes, int]


def kind_matches(kind: Kind, segment: Segment) -> bool:
    """Whether a segment is of a kind. A SYN with payload (TCP Fast Open) is `syn`, never `data`."""
    opening = segment.flags & SYN
    if kind == "syn":
        return bool(opening) and not segment.flags & ACK
    if kind == "synack":
        return bool(opening) and bool(segment.flags & ACK)
    if kind == "data":
        return segment.payload > 0 and not opening
    if kind == "fin":
        return bool(segment.flags & FIN)
    if kind == "rst":
        return bool(segment.flags & RST)
    return True


@dataclass(frozen=True)
class Drop:
    """Drop segments of a kind, counted from 1 in each flow and direction (or over all flows).

    A retransmission counts like any other segment: `Drop("syn", nth=(1,))` loses each flow's first SYN
    and lets the second pass.
    """

    kind: Kind = "any"
    nth: tuple[int, ...] = ()
    """Which ones; empty means every one."""
    direction: Direction | None = None
    """From side a to side b, from b to a, or both, each counted on its own."""
    port: int | None = None
    """Only flows with this port at either end."""
    over_all_flows: bool = False
    """Count over all flows together instead of in each."""
    idle_s: float | None = None
    """Only after the flow has been idle for so long once; from then on for good."""
    name: str = ""


@dataclass
class Flow:
    """What the link remembers about one connection: both directions, from one SYN to the next."""

    number: int
    """0 for the first flow of the link, then counting up."""
    last_ns: int
    initial_sequences: dict[End, int] = field(default_factory=dict)
    idle_rules: set[int] = field(default_factory=set)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)


class Script:
    """The rules of one link and what they remember of its flows.

    Args:
        drops: tried in order for each segment; every rule counts every segment of its kind, so what
            one rule drops is the nth for the next one too.
        delay_ns: one way.
        flow_delays_ns: one-way delays by flow number, used in a cycle, in place of `delay_ns`.
    """

    def __init__(
        self, drops: Sequence[Drop] = (), delay_ns: int = 0, flow_delays_ns: Sequence[int] = ()
    ) -> None:
        self.drops = tuple(drops)
        self.delay_ns = delay_ns
        self.flow_delays_ns = tuple(flow_delays_ns)
        self._flows: dict[tuple[End, End], Flow] = {}
        self._totals: Counter[tuple[int, str]] = Counter()
        self._numbers = 0

    def flow_of(self, segment: Segment, now_ns: int) -> Flow:
        """The flow of a segment; a SYN with another sequence number on the same tuple opens a new one."""
        here = (segment.source, segment.source_port)
        there = (segment.destination, segment.destination_port)
        key = (here, there) if here <= there else (there, here)
        flow = self._flows.get(key)
        opening = segment.flags & (SYN | ACK) == SYN
        # By sender: in a simultaneous open both ends send a SYN, each with a number of its own.
        if flow is None or (
            opening and flow.initial_sequences.get(here, segment.sequence) != segment.sequence
        ):
            flow = self._flows[key] = Flow(self._numbers, now_ns)
            self._numbers += 1
        if opening:
            flow.initial_sequences[here] = segment.sequence
        return flow

    def decide(self, segment: Segment, direction: Direction, now_ns: int) -> tuple[Flow, int]:
        """The flow of a segment and the index of the rule that drops it, -1 when it passes."""
        flow = self.flow_of(segment, now_ns)
        idle_ns = now_ns - flow.last_ns
        flow.last_ns = now_ns
        verdict = -1
        for index, drop in enumerate(self.drops):
            if self._applies(drop, index, flow, segment, direction, idle_ns) and verdict < 0:
                verdict = index
        return flow, verdict

    def delay_of(self, flow: Flow | None) -> int:
        """One-way delay in ns for a packet; packets without a flow (ICMP) get the link's own."""
        if flow is None or not self.flow_delays_ns:
            return self.delay_ns
        return self.flow_delays_ns[flow.number % len(self.flow_delays_ns)]

    def _applies(
        self, drop: Drop, index: int, flow: Flow, segment: Segment, direction: Direction, idle_ns: int
    ) -> bool:
        if drop.direction is not None and drop.direction != direction:
            return False
        if drop.port is not None and drop.port not in (segment.source_port, segment.destination_port):
            return False
        if drop.idle_s is not None:
            if idle_ns >= drop.idle_s * 1e9:
                flow.idle_rules.add(index)
            if index not in flow.idle_rules:
                return False
        if not kind_matches(drop.kind, segment):
            return False
        counts = self._totals if drop.over_all_flows else flow.counts
        counts[index, direction] += 1
        return not drop.nth or counts[index, direction] in drop.nth


def to_json(drops: Sequence[Drop]) -> list[dict[str, Any]]:
    """Rules as plain JSON values, for the child process."""
    return [{**vars(drop), "nth": list(drop.nth)} for drop in drops]


def from_json(rows: Sequence[dict[str, Any]]) -> tuple[Drop, ...]:
    """The inverse of :func:`to_json`."""
    return tuple(Drop(**{**row, "nth": tuple(row["nth"])}) for row in rows)
