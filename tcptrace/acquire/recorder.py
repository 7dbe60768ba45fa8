"""One recording: programs attached, sockets walked, rings drained into the trace until told to stop."""

import selectors
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tcptrace
from tcptrace.acquire import arrivals, hostfacts, loader, seed
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.priority import Priority
from tcptrace.trace import wire
from tcptrace.trace.wire import Counter
from tcptrace.trace.writer import TraceWriter, clock_pair

FORMAT_VERSION = 1

# The default ring holds more than half a second of the fastest storm two cores can make.
_POLL_S = 0.1
# An open connection is recorded when a walk first meets it, then once in this long.
_INTERIM_NS = 60 * 10**9
# The walks between may cost this share of the time at most, but run each second when they are cheap:
# what a killed recording knows of its open connections is as old as the last walk.
_WALK_SHARE = 0.02
_WALK_EVERY_S = 1.0
# The last walk repeats while it makes progress: the ring may be smaller than what is open, and a socket
# between its first state and its place in the kernel's table is not met.
_IDLE_FINAL_WALKS = 3
# Exchange records are sampled when their ring is fuller than this at a poll, less so when it is emptier.
_SAMPLE_ABOVE, _SAMPLE_BELOW, _MAX_SAMPLING = 0.5, 0.1, 16
_EMITTED = (
    Counter.COUNT_CONNECTIONS,
    Counter.COUNT_EVENTS,
    Counter.COUNT_SINGLE,
    Counter.COUNT_SUMS,
)
# After detaching, a program may still run on another CPU for this long at most.
_SETTLE_S = 1.0


def sightings(journal: npt.NDArray[np.void], now_ns: int) -> npt.NDArray[np.void]:
    """Journal entries as event records of the kind that the kernel makes of displaced ones."""
    events = np.zeros(len(journal), wire.EVENT)
    for name in events.dtype.names or ():
        if name in (journal.dtype.names or ()) and not name.startswith("pad"):
            events[name] = journal[name]
        elif events.dtype[name].kind == "i":
            events[name] = -1
    events["kind"] = wire.Kind.SIGHTING
    events["time_ns"] = now_ns
    events["first_sent_ns"] = journal["started_ns"]
    return events


@dataclass(frozen=True)
class Options:
    """What the user asked for. `owner`: uid and gid of the trace file, where sudo hides the invoking user.
    `providers`: fact -> the only provider to use, or "none".
    """

    path: Path
    filters: Filters = field(default_factory=Filters)
    mode: str = "budget"
    buffer_bytes: int = loader.DEFAULT_BUFFER_BYTES
    duration_s: float | None = None
    force: bool = False
    owner: tuple[int, int] | None = None
    providers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Live counts since the start."""

    elapsed_s: float
    connections: int
    events: int
    exchanges: int
    lost: int


class Recorder:
    """Records from `start` to `stop`; `poll` in between, at least ten times a second."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._programs = loader.load(options.filters, options.buffer_bytes, options.mode, options.providers)
        self._rings = (self._programs.connections, self._programs.events, self._programs.exchanges)
        self._sampling = 0
        self._writer: TraceWriter | None = None
        self._started = clock_pair()
        self._priority = Priority()
        self._next_walk = 0.0
        self._drained = 0

    def start(self) -> None:
        """Finds what is open already and opens the file. Everything is attached when this returns."""
        programs = self._programs
        programs.control(interval_ns=_INTERIM_NS, realtime_offset_ns=arrivals.realtime_offset_ns())
        seeded: dict[str, Any] = {"monotonic_ns": None, "connections": 0, "namespaces": 0, "failed": []}
        if programs.can_walk:
            programs.set_holders(seed.holders())
            walk = self._walk()
            seeded.update(namespaces=len(walk.inodes), inodes=walk.inodes, failed=walk.failed)
            seeded["connections"] = programs.counters()[Counter.COUNT_SEEDED]
        programs.control(seeded=1)
        seeded["monotonic_ns"] = time.monotonic_ns()
        header = self._header(seeded)
        self._writer = TraceWriter(
            self.options.path, header, force=self.options.force, owner=self.options.owner
        )
        self.poll()

    def _header(self, seeded: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        return {
            "format": "tcptrace",
            "format_version": FORMAT_VERSION,
            "wire_version": wire.WIRE_VERSION,
            "trace_id": uuid.uuid4().hex,
            "tcptrace_version": tcptrace.__version__,
            **hostfacts.host_facts(),
            "command_line": ["tcptrace", *sys.argv[1:]],
            "options": {
                "mode": options.mode,
                "filters": options.filters.as_json(),
                "buffer_bytes": options.buffer_bytes,
                "duration_s": options.duration_s,
                "providers": dict(options.providers),
            },
            "started": {"monotonic_ns": self._started[0], "realtime_ns": self._started[1]},
            "seeded": seeded,
            "loader": self._programs.loader,
            "object": self._programs.object.name,
            "variant": self._programs.variant,
            "hooks": [hook.as_json() for hook in self._programs.hooks],
            "namespaces": {str(inode): name for inode, name in seed.namespace_names().items()},
            "drop_reasons": {str(number): name for number, name in self._programs.drop_reasons.items()},
            "reset_reasons": {str(number): name for number, name in self._programs.reset_reasons.items()},
        }

    def _walk(self) -> seed.Walk:
        before = time.monotonic()
        walk = seed.walk(self._programs.walk_here)
        cost = time.monotonic() - before
        self._next_walk = time.monotonic() + max(_WALK_EVERY_S, cost / _WALK_SHARE)
        return walk

    def _drain(self) -> None:
        assert self._writer is not None
        for ring in self._rings:
            records = ring.drain()
            if len(records):
                self._writer.add(records)
                self._drained += len(records)

    def poll(self) -> None:
        """Moves what the rings hold into the trace; walks the sockets when it is time."""
        assert self._writer is not None
        self._programs.control(realtime_offset_ns=arrivals.realtime_offset_ns())  # the clock may be set
        self._sample()
        self._drain()
        if self._programs.can_walk and time.monotonic() >= self._next_walk:
            self._walk()
            self._drain()
        self._writer.tick(time.monotonic())

    def _sample(self) -> None:
        """Fewer exchanges get a record of their own while their ring fills faster than it is read."""
        fill = self._programs.exchanges.fill()
        if fill > _SAMPLE_ABOVE:
            self._sampling = min(self._sampling + 1, _MAX_SAMPLING)
        elif fill < _SAMPLE_BELOW and self._sampling:
            self._sampling -= 1
        else:
            return
        self._programs.control(sampling=self._sampling)

    def run(self, until: Callable[[], bool], wake_fd: int, progress: Callable[[Progress], None]) -> None:
        """Polls until `until()` or the duration is over; `wake_fd` ends a pause when it becomes readable."""
        begun = time.monotonic()
        deadline = None if self.options.duration_s is None else begun + self.options.duration_s
        with selectors.DefaultSelector() as selector:
            selector.register(wake_fd, selectors.EVENT_READ)
            while not until():
                pause = _POLL_S
                if deadline is not None:
                    pause = min(pause, deadline - time.monotonic())
                    if pause <= 0:
                        return
                selector.select(pause)
                self._priority.adapt(max(ring.fill() for ring in self._rings))
                self.poll()
                progress(self.progress(time.monotonic() - begun))

    def progress(self, elapsed_s: float) -> Progress:
        counters = self._programs.counters()
        lost = sum(n for counter, n in counters.items() if counter.name.startswith("LOST_"))
        return Progress(
            elapsed_s,
            counters[Counter.COUNT_CONNECTIONS],
            counters[Counter.COUNT_EVENTS],
            counters[Counter.COUNT_SINGLE],
            lost,
        )

    def stop(self) -> dict[str, int]:
        """Records what is still open, detaches, ends the file. Returns the losses by cause."""
        assert self._writer is not None
        self._priority.restore()
        programs = self._programs
        ended = clock_pair()
        if programs.can_walk:
            self._walk()  # still meets what the kernel has hidden from us since the last walk
            self._drain()
        programs.control(stopping=1)
        if programs.can_walk:
            programs.set_holders(seed.holders())
            self._walk_to_the_end()
        statistics = programs.detach()
        unread = self._drain_to_the_end()
        skipped = self._record_sightings(ended[0])
        losses = self._losses(statistics, unread, skipped)
        counters = programs.counters()
        self._writer.close(
            {
                "clean": True,
                "ended": {"monotonic_ns": ended[0], "realtime_ns": ended[1]},
                "losses": losses,
                "counts": {
                    counter.name.removeprefix("COUNT_").lower(): n
                    for counter, n in counters.items()
                    if counter.name.startswith("COUNT_")
                },
                "programs": [{"name": name, **values} for name, values in statistics.items()],
            }
        )
        return losses

    def _walk_to_the_end(self) -> None:
        idle, before = 0, self._programs.counters()
        while idle < _IDLE_FINAL_WALKS:
            self._walk()
            self._drain()
            counters = self._programs.counters()
            full = counters[Counter.COUNT_WALK_FULL] != before[Counter.COUNT_WALK_FULL]
            if not full and counters[Counter.COUNT_FINISHED] == counters[Counter.COUNT_TRACKED]:
                return
            progress = counters[Counter.COUNT_FINISHED] != before[Counter.COUNT_FINISHED]
            idle, before = 0 if progress else idle + 1, counters

    def _drain_to_the_end(self) -> int:
        """Reads what programs still submit that ran while they were detached; returns what stays missing."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            counters = self._programs.counters()
            self._drain()
            missing = sum(counters[counter] for counter in _EMITTED) - self._drained
            if missing <= 0 or time.monotonic() > deadline:
                return max(0, missing)
            time.sleep(0.001)

    def _record_sightings(self, now_ns: int) -> int:
        """Rows for connections whose end was skipped, or that are open where no walk came. How many."""
        assert self._writer is not None
        left = self._programs.journal()
        if len(left):
            self._writer.add(sightings(left, now_ns))
        return len(left)

    def _losses(
        self, statistics: dict[str, dict[str, int | None]], unread: int, skipped: int
    ) -> dict[str, int]:
        counters = self._programs.counters()
        losses = {
            counter.name.removeprefix("LOST_").lower(): n
            for counter, n in counters.items()
            if counter.name.startswith("LOST_")
        }
        for name, values in statistics.items():
            losses[f"recursion.{name}"] = values["recursion_misses"] or 0
        losses["unread"] = unread
        losses["end"] = skipped + counters[Counter.COUNT_DISPLACED] - counters[Counter.COUNT_REGAINED]
        # tracked, but neither ended, nor met by the last walk, nor noted: lost before they were established
        unsettled = counters[Counter.COUNT_TRACKED] - counters[Counter.COUNT_FINISHED] - losses["end"]
        losses["unaccounted"] = max(0, unsettled)
        return {name: n for name, n in losses.items() if n}

    def summary_line(self, losses: dict[str, int]) -> str:
        """One sentence for the end of a recording."""
        counters = self._programs.counters()
        text = f"{self.options.path}: {counters[Counter.COUNT_CONNECTIONS]:,} connection records"
        if self.options.mode == "budget":
            text += f", {counters[Counter.COUNT_SINGLE]:,} exchanges"
        if counters[Counter.COUNT_SUMMED]:
            text += f" and {counters[Counter.COUNT_SUMMED]:,} more as sums"
        text += f", {counters[Counter.COUNT_EVENTS]:,} events, "
        if not losses:
            return text + "nothing lost"
        text += "LOST " + ", ".join(f"{n:,} {name}" for name, n in losses.items())
        if any(name.endswith("_ring") for name in losses):
            text += f" (a larger --buffer than {self.options.buffer_bytes} bytes would help)"
        return text

    def close(self) -> None:
        """Unloads the programs. The file is whole only after `stop`."""
        self._programs.close()
