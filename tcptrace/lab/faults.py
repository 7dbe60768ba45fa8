"""Which packets a link drops or keeps back, and how late it delivers them all: a script, per packet.

Nothing here reads a clock or a device, so every decision can be tested with made-up packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

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
class Rule:
    """Segments of a kind, counted from 1 in each flow and direction (or over all flows).

    A retransmission counts like any other segment.
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


@dataclass(frozen=True)
class Drop(Rule):
    """Lose them: `Drop("syn", nth=(1,))` loses each flow's first SYN and lets the second pass."""


@dataclass(frozen=True)
class Late(Rule):
    """Keep them back for longer than the others, which overtake them: no packet is lost, some are out of
    order. `Late("data", nth=(2,), by_ns=5_000_000)` lets what the flow sends in 5 ms pass the second one."""

    by_ns: int = 0
    """In addition to the link's delay."""


AnyRule = TypeVar("AnyRule", bound=Rule)


@dataclass
class Flow:
    """What the link remembers about one connection: both directions, from one SYN to the next."""

    number: int
    """0 for the first flow of the link, then counting up."""
    last_ns: int
    initial_sequences: dict[End, int] = field(default_factory=dict)
    idle_rules: set[int] = field(default_factory=set)
    """Indices of rules for which it has been idle long enough."""
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)


class Decision(NamedTuple):
    """What becomes of a segment."""

    flow: Flow
    rule: int
    """Index of the rule that drops it, -1 when it passes."""
    late_ns: int
    """For how much longer than others it is kept, when it passes."""


class Script:
    """The rules of one link and what they remember of its flows.

    Args:
        drops: tried in order for each segment; every rule counts every segment of its kind, so what
            one rule drops is the nth for the next one too.
        delay_ns: one way.
        flow_delays_ns: one-way delays by flow number, used in a cycle, in place of `delay_ns`.
        lates: they count what `drops` lose as well; of several that match one segment the times add up.
    """

    def __init__(
        self,
        drops: Sequence[Drop] = (),
        delay_ns: int = 0,
        flow_delays_ns: Sequence[int] = (),
        lates: Sequence[Late] = (),
    ) -> None:
        self.drops = tuple(drops)
        self.lates = tuple(lates)
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

    def decide(self, segment: Segment, direction: Direction, now_ns: int) -> Decision:
        """What becomes of a segment that comes now. Every rule counts it, so order matters."""
        flow = self.flow_of(segment, now_ns)
        idle_ns = now_ns - flow.last_ns
        flow.last_ns = now_ns
        applying = [
            index
            for index, rule in enumerate((*self.drops, *self.lates))
            if self._applies(rule, index, flow, segment, direction, idle_ns)
        ]
        dropping = [index for index in applying if index < len(self.drops)]
        late_ns = sum(self.lates[index - len(self.drops)].by_ns for index in applying[len(dropping) :])
        return Decision(flow, dropping[0] if dropping else -1, late_ns)

    def delay_of(self, flow: Flow | None) -> int:
        """One-way delay in ns for a packet; packets without a flow (ICMP) get the link's own."""
        if flow is None or not self.flow_delays_ns:
            return self.delay_ns
        return self.flow_delays_ns[flow.number % len(self.flow_delays_ns)]

    def _applies(
        self, rule: Rule, index: int, flow: Flow, segment: Segment, direction: Direction, idle_ns: int
    ) -> bool:
        if rule.direction is not None and rule.direction != direction:
            return False
        if rule.port is not None and rule.port not in (segment.source_port, segment.destination_port):
            return False
        if rule.idle_s is not None:
            if idle_ns >= rule.idle_s * 1e9:
                flow.idle_rules.add(index)
            if index not in flow.idle_rules:
                return False
        if not kind_matches(rule.kind, segment):
            return False
        counts = self._totals if rule.over_all_flows else flow.counts
        counts[index, direction] += 1
        return not rule.nth or counts[index, direction] in rule.nth


def to_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Rules of one class as plain JSON values, for the child process."""
    return [{**vars(rule), "nth": list(rule.nth)} for rule in rules]


def from_json(sort: type[AnyRule], rows: Sequence[dict[str, Any]]) -> tuple[AnyRule, ...]:
    """The inverse of :func:`to_json`."""
    return tuple(sort(**{**row, "nth": tuple(row["nth"])}) for row in rows)
