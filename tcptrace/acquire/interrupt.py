"""Signals as a flag and a readable descriptor: a recording ends between two polls, never inside one."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP: the terminal was closed; what was recorded is still worth a whole file
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """`stopped` is the first stopping signal that came. `wake_fd` is readable after any signal."""

    def __init__(self, wake_fd: int) -> None:
        self.wake_fd = wake_fd
        self.stopped: signal.Signals | None = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number in STOPPING and self.stopped is None:
            self.stopped = signal.Signals(number)

    def drain(self) -> None:
        """Makes `wake_fd` unreadable again."""
        try:
            while os.read(self.wake_fd, 512):
                pass
        except BlockingIOError:
            pass


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Catches the stopping signals and SIGCHLD, and restores their handlers. Main thread only."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    interrupt = Interrupt(read_fd)
    caught = (*STOPPING, signal.SIGCHLD)
    before = {number: signal.signal(number, interrupt._handle) for number in caught}
    wakeup = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        yield interrupt
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_fd)
        os.close(write_fd)
