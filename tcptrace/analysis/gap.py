"""From the floor to what was measured, in steps that add up, and on to the target.

What was measured is the mean exchange with its share of its connection's set-up. The network's part of it is
the floor, that physics asks for, and the excess above that: the route.
"""

from dataclasses import dataclass
from typing import Any

from tcptrace.analysis.budget import Group
from tcptrace.analysis.floor import Floor
from tcptrace.analysis.groups import Key
from tcptrace.analysis.setup import Setup
from tcptrace.analysis.stages import UNATTRIBUTED

FLOOR = "floor_ns"
ROUTE = "route_excess_ns"
SETUP = "setup_ns"
"""Steps that are no stages; the others are called as these are."""


@dataclass(frozen=True)
class Step:
    """One step up from what is below it. estimated: at least a part of it."""

    name: str
    ns: int
    estimated: bool

    def json(self) -> dict[str, Any]:
        return {"step": self.name, "ns": self.ns, "estimated": self.estimated}


@dataclass(frozen=True)
class Gap:
    """steps: the floor first where there is one, then the largest first; their sum is measured_ns, the mean
    exchange of mean_ns and its share of set-up. unknown: stages that no exchange knows, whose time is
    unattributed. below_floor: the network took less than the floor, so that one of them is wrong."""

    key: Key
    exchanges: int
    mean_ns: int
    measured_ns: int
    steps: list[Step]
    unknown: list[str]
    floor: Floor | None
    below_floor: bool
    target_ns: int | None

    @property
    def over_ns(self) -> int | None:
        """How much is to be saved; negative when the target is met."""
        return None if self.target_ns is None else self.measured_ns - self.target_ns

    def json(self) -> dict[str, Any]:
        return {
            **self.key,
            "exchanges": self.exchanges,
            "mean_ns": self.mean_ns,
            "measured_ns": self.measured_ns,
            "floor": None if self.floor is None else self.floor.json(),
            "below_floor": self.below_floor,
            "target_ns": self.target_ns,
            "over_target_ns": self.over_ns,
            "steps": [step.json() for step in self.steps],
            "unknown": self.unknown,
        }


def gap(group: Group, setup: Setup | None, floor: Floor | None = None, target_ns: int | None = None) -> Gap:
    """The steps of a group's mean. setup: of clients; None where it is nobody's."""
    mean = group.mean
    known = {name: ns for name, ns in mean.stages.items() if ns is not None}
    unsure = estimated(group)
    steps = [Step(name, ns, name in unsure) for name, ns in known.items() if name != "network_ns"]
    steps.append(Step(UNATTRIBUTED, mean.unattributed_ns, False))
    if setup is not None:
        steps.append(Step(SETUP, setup.each_ns, not setup.exact))
    first, below = [], False
    if "network_ns" in known:
        network = known["network_ns"]
        guessed = "network_ns" in unsure
        if floor is None:
            steps.append(Step("network_ns", network, guessed))
        else:
            below = network < floor.round_trip_ns
            first = [Step(FLOOR, min(network, floor.round_trip_ns), below and guessed)]
            steps.append(Step(ROUTE, network - first[0].ns, guessed))
    steps = first + sorted((step for step in steps if step.ns), key=lambda step: -step.ns)
    return Gap(
        key=group.key,
        exchanges=group.exchanges,
        mean_ns=mean.total_ns,
        measured_ns=sum(step.ns for step in steps),
        steps=steps,
        unknown=[name for name, ns in mean.stages.items() if ns is None],
        floor=floor,
        below_floor=below,
        target_ns=target_ns,
    )


def estimated(group: Group) -> set[str]:
    """The stages of a group's mean of which at least a part is estimated."""
    found: set[str] = set()
    if group.mean.estimated:
        found |= {"network_ns", "peer_ns"}
    if group.mean.hold_ambiguous:
        found |= {"nagle_ns", "cork_ns"}
    return found
