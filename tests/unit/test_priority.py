"""The recorder steps back, and comes forward when a ring fills up."""

import os

import pytest

from tcptrace.acquire import priority
from tcptrace.acquire.priority import Priority


class Scheduler:
    """What the recorder asked for: (policy, nice), without changing this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, capable: bool, policy: int = os.SCHED_OTHER
    ) -> None:
        self.policy, self.nice = policy, 0
        self.calls = 0
        monkeypatch.setattr(priority, "has_capability", lambda number: capable)
        monkeypatch.setattr(os, "getpriority", lambda which, who: self.nice)
        monkeypatch.setattr(os, "sched_getscheduler", lambda who: self.policy)
        monkeypatch.setattr(os, "setpriority", self._set_nice)
        monkeypatch.setattr(os, "sched_setscheduler", self._set_policy)

    def _set_nice(self, which: int, who: int, nice: int) -> None:
        self.nice = nice

    def _set_policy(self, who: int, policy: int, parameters: object) -> None:
        self.policy = policy
        self.calls += 1


def test_it_steps_back_once_while_rings_are_nearly_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(monkeypatch, capable=True)
    mine = Priority()
    for fill in (0.0, 0.1, 0.2):
        mine.adapt(fill)
    assert (scheduler.policy, scheduler.nice, scheduler.calls) == (os.SCHED_BATCH, 10, 1)


def test_it_comes_forward_when_a_ring_fills_up_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(monkeypatch, capable=True)
    mine = Priority()
    mine.adapt(0.0)
    mine.adapt(0.5)
    assert (scheduler.policy, scheduler.nice) == (os.SCHED_OTHER, 0)
    mine.adapt(0.0)
    mine.restore()
    assert (scheduler.policy, scheduler.nice) == (os.SCHED_OTHER, 0)


@pytest.mark.parametrize(("capable", "policy"), [(False, os.SCHED_OTHER), (True, os.SCHED_FIFO)])
def test_it_changes_nothing_that_it_could_not_undo(
    monkeypatch: pytest.MonkeyPatch, capable: bool, policy: int
) -> None:
    scheduler = Scheduler(monkeypatch, capable=capable, policy=policy)
    mine = Priority()
    mine.adapt(0.0)
    mine.restore()
    assert (scheduler.policy, scheduler.nice, scheduler.calls) == (policy, 0, 0)
