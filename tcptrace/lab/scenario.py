"""What a scenario of the lab is: a lesson in a few lines, with a truth of its own.

Each module of :mod:`tcptrace.lab.scenarios` defines one SCENARIO. Its `server` and its `client` run in
processes of their own, in two namespaces or on two machines; its `truth` looks at what they noted and at
what the link did, never at a recording; its `checks` compare the recording with that truth.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from tcptrace.errors import UsageError
from tcptrace.lab.faults import Drop, Late, Rule
from tcptrace.units import format_duration

if TYPE_CHECKING:
    from tcptrace.lab.checks import Check
    from tcptrace.lab.part import Part
    from tcptrace.lab.rows import Rows
    from tcptrace.lab.witness import Witness

FIRST_PORT = 7001
CONTROL_PORT = 7000

Truth = dict[str, Any]
"""By name; durations are ns (`..._ns`), everything can be written as JSON."""

Chapter = Literal["handshake", "queues", "latency", "loss", "teardown", "resets", "reuse", "idle"]


@dataclass(frozen=True)
class Topology:
    """What lies between client (side a) and server (side b)."""

    delay_ns: int = 0
    """One way, both ways alike."""
    drops: tuple[Drop, ...] = ()
    flow_delays_ns: tuple[int, ...] = ()
    """One-way delays by flow, in the order of their first packets, used in a cycle."""
    lates: tuple[Late, ...] = ()
    relay: bool = False
    """The truth needs the relay's log of packets, also where a plain delay would do."""
    logged: bool = False
    """The truth is better with the relay's log: between namespaces the relay carries the packets, although
    the scenario can do without, between machines."""

    @property
    def scripted(self) -> bool:
        """Only the relay can do it: nothing between two machines loses the packets that we choose."""
        return bool(self.drops or self.lates or self.flow_delays_ns or self.relay)

    def words(self) -> str:
        """For people: what lies in between."""
        delays = sorted(set(self.flow_delays_ns or (self.delay_ns,)))
        way = (
            " or ".join(format_duration(delay) for delay in delays) + " each way"
            if any(delays)
            else "no delay"
        )
        for what, rules in (("lost", self.drops), ("overtaken", self.lates)):
            if rules:
                way += f"; {what}: {'; '.join(_rule_in_words(rule) for rule in rules)}"
        return way


def _rule_in_words(rule: Rule) -> str:
    return rule.name or f"{rule.kind} {', '.join(map(str, rule.nth)) or 'all'}"


@dataclass(frozen=True)
class Scenario:
    """One lesson. `name` is that of its module, with dashes."""

    name: str
    chapter: Chapter
    title: str
    teaches: str
    """What happens and what to do about it, in a few sentences."""
    server: Callable[[Part], None]
    client: Callable[[Part], None]
    truth: Callable[[Witness], Truth]
    checks: Callable[[Truth, Rows], Iterable[Check]] | None = None
    """None: nothing in today's rows can be compared; never counts as right."""
    topology: Topology = field(default_factory=Topology)
    ports: int = 1
    """How many it uses, from FIRST_PORT on: one for each variant, by which its rows are told apart."""
    sysctls: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By role ("server", "client"): name and value, set before the part runs and put back after it."""
    fast: bool = False
    """A few seconds even where everything is twenty times slower: runs in emulated guests."""
    private: bool = False
    """Only between namespaces of its own, never across a real network: a flood, say."""
    settle_s: float = 3.0
    """How long to wait at most, at the end, until the connections have closed."""


def names() -> list[str]:
    """Every scenario's name, by chapter, then by the alphabet."""
    return [scenario.name for scenario in scenarios()]


def scenarios() -> list[Scenario]:
    """All of them, by chapter, then by name."""
    from tcptrace.lab import scenarios as package

    found = [_load(module.name) for module in pkgutil.iter_modules(package.__path__)]
    chapters = get_args(Chapter)
    return sorted(found, key=lambda one: (chapters.index(one.chapter), one.name))


def scenario(name: str) -> Scenario:
    """One by name. Raises UsageError when there is none."""
    from tcptrace.lab import scenarios as package

    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    module = name.replace("-", "_")
    if module not in modules or "_" in name:
        raise UsageError(f"there is no scenario {name!r}: `tcptrace lab list` names them")
    return _load(module)


def _load(module: str) -> Scenario:
    found = importlib.import_module(f"tcptrace.lab.scenarios.{module}").SCENARIO
    assert isinstance(found, Scenario)
    assert found.name == module.replace("_", "-"), f"{module} calls itself {found.name}"
    return found
