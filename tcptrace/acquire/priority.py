"""A recorder that stays out of the way of what it records, as long as its rings are not filling up.

Compressing a second's records is a burst that can wait; taken at once, it stops a busy host's threads for
tens of milliseconds. So the recorder runs as a batch task of low weight, and as a normal one while a ring is
more than a quarter full. Without CAP_SYS_NICE there would be no way back, and nothing is changed.
"""

import os

from tcptrace.acquire.preflight import has_capability

_CAP_SYS_NICE = 23
_LOW = 10
_URGENT_FILL = 0.25


class Priority:
    """The scheduling of the calling thread; children started before `adapt` keep their own."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._may_change = os.sched_getscheduler(0) == os.SCHED_OTHER and has_capability(_CAP_SYS_NICE)
        self._low = False

    def adapt(self, fill: float) -> None:
        """`fill` is the share of the fullest ring that waits to be read, 0 to 1."""
        low = fill < _URGENT_FILL
        if low != self._low and self._may_change:
            self._set(low)

    def restore(self) -> None:
        if self._low:
            self._set(False)

    def _set(self, low: bool) -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH if low else os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, max(self._usual, _LOW) if low else self._usual)
        self._low = low
