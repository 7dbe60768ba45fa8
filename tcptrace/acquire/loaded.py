"""Programs in the kernel: their rings, counters, controls and the walk."""

import errno
import mmap
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tcptrace.acquire import libbpf
from tcptrace.acquire.arrivals import Arrivals
from tcptrace.acquire.objects import PLAIN
from tcptrace.acquire.providers import Hook
from tcptrace.acquire.ring import Ring
from tcptrace.trace import wire
from tcptrace.trace.wire import Counter


@dataclass
class Loaded:
    """Attached programs. `close` detaches and unloads them.

    objects: the first one's maps are those of all.
    """

    objects: list[libbpf.Object]
    hooks: list[Hook]
    drop_reasons: dict[int, str]
    reset_reasons: dict[int, str]
    buffer_bytes: int
    loader: str = "core"
    variant: dict[str, int] = field(default_factory=dict)
    arrivals: Arrivals | None = None

    def __post_init__(self) -> None:
        self.object = self.objects[0]
        self.connections = Ring(self.object.map("connections").fd, self.buffer_bytes, wire.CONNECTION)
        self.events = Ring(self.object.map("events").fd, self.buffer_bytes, wire.EVENT)
        self.exchanges = Ring(self.object.map("exchanges").fd, self.buffer_bytes, wire.EXCHANGE)
        self._counters = self.object.map("counters")
        self._control = np.frombuffer(
            mmap.mmap(self.object.map("control").fd, mmap.PAGESIZE, mmap.MAP_SHARED), wire.CONTROL, 1
        )
        self._cpus = libbpf.possible_cpus()
        self._journal = self.object.map("journal")
        self._journal_bytes = self._journal.info()["max_entries"] * wire.JOURNAL.itemsize

    @property
    def plain(self) -> bool:
        """All programs are those that ask little of the kernel (see objects.py)."""
        return self.object.name == f"{PLAIN}.bpf.o"

    @property
    def can_walk(self) -> bool:
        return self.object.programs["walk"].attached

    def walk_here(self) -> None:
        """One walk over the sockets of the calling thread's network namespace."""
        self.object.programs["walk"].iterate()

    def set_holders(self, holders: dict[bytes, bytes]) -> None:
        """As many as the map has room for: the owner of a socket beyond stays null."""
        table = self.object.map("holders")
        try:
            for key, value in holders.items():
                table.update(key, value)
        except libbpf.BpfError as error:
            if error.errno != errno.E2BIG:
                raise

    def control(self, **values: int) -> None:
        """Writes fields of struct tt_control in place: the programs write others of them meanwhile."""
        for name, value in values.items():
            self._control[name] = value

    def counters(self) -> dict[Counter, int]:
        """Every counter, summed over the CPUs."""
        raw = self._counters.lookup(bytes(4), Counter.COUNTERS * 8 * self._cpus)
        sums = np.frombuffer(raw, np.uint64).reshape(self._cpus, Counter.COUNTERS).sum(axis=0)
        return {counter: int(sums[counter]) for counter in Counter if counter is not Counter.COUNTERS}

    def journal(self) -> npt.NDArray[np.void]:
        """The connections that were seen and have no record: shape (n,), dtype wire.JOURNAL."""
        with mmap.mmap(self._journal.fd, self._journal_bytes, mmap.MAP_SHARED, mmap.PROT_READ) as pages:
            slots = np.frombuffer(bytes(pages), wire.JOURNAL)
        live: npt.NDArray[np.void] = slots[slots["connection_id"] != 0]
        return live

    def detach(self) -> dict[str, dict[str, int | None]]:
        """No program runs any more; rings and counters stay readable.

        Returns what each program cost and how often the kernel skipped it (see Program.statistics).
        """
        attached = {
            name: program
            for object_ in self.objects
            for name, program in object_.programs.items()
            if program.attached
        }
        for program in attached.values():
            program.detach()
        return {name: program.statistics() for name, program in attached.items()}

    def close(self) -> None:
        if self.arrivals:
            self.arrivals.close()
        for object_ in reversed(self.objects):
            object_.close()
