"""Processes for tests of what happens between data ready and read returned.

    python late_reader.py reader FD server|client waits|computes|sleeps TURNS CPU
    python late_reader.py hog CPU

`reader` takes turns on an inherited, connected socket, at CPU only; it writes a byte to standard output
when each turn has come to its read, or to what keeps it from reading, and in the end one line of JSON: per
turn [read entered, read returned] and the growth of its run delay, all ns. `hog` keeps a CPU from
everything else for HOG_SECONDS after each byte from its standard input, which it answers with one; real-time
priority.
Both end when their other end does, and after LIFE_SECONDS in any case.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from turns import run_delay

LIFE_SECONDS = 30
HOG_SECONDS = 0.02
LATE_SECONDS = 0.02
REQUEST, ANSWER = bytes(100), bytes(200)


def spin(seconds: float) -> None:
    """Use the CPU for so long by the clock."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def read(one: socket.socket, role: str, way: str, turns: int) -> list[list[int]]:
    """The reader's turns."""
    rows = []
    for _ in range(turns):
        if role == "client":
            one.sendall(REQUEST)
        waited = run_delay()
        os.write(1, b".")
        if way == "computes":
            spin(LATE_SECONDS)
        elif way == "sleeps":
            time.sleep(LATE_SECONDS)
        entered = time.monotonic_ns()
        one.recv(1000)
        returned = time.monotonic_ns()
        rows.append([entered, returned, run_delay() - waited])
        if role == "server":
            one.sendall(ANSWER)
    return rows


def main(what: str, *arguments: str) -> None:
    signal.alarm(LIFE_SECONDS)
    os.sched_setaffinity(0, {int(arguments[-1])})
    if what == "hog":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.write(1, b".")
        while os.read(0, 1):
            os.write(1, b".")
            spin(HOG_SECONDS)
        return
    fd, role, way, turns, _ = arguments
    if way != "waits":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with socket.socket(fileno=int(fd)) as one:
        one.setblocking(True)
        rows = read(one, role, way, int(turns))
        print("\n" + json.dumps(rows), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
