"""Loads the CO-RE programs through libbpf and attaches them, by what the kernel takes.

A program that the kernel refuses is left out when its fact is not required, and the fact is reported as
missing with the reason; a helper or map type that the kernel lacks is replaced by its fallback.
"""

import errno
import mmap
import re
import tempfile
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tcptrace import resources
from tcptrace.acquire import libbpf
from tcptrace.acquire.arrivals import Arrivals
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.providers import ARRIVALS, BUDGET, LIFECYCLE, RUN_DELAY, Fact, Hook
from tcptrace.acquire.ring import Ring
from tcptrace.errors import HostError, TcptraceError
from tcptrace.trace import wire
from tcptrace.trace.wire import Counter

DEFAULT_BUFFER_BYTES = 16 << 20

# What may be missing in the programs' kind of kernel, best first: compare-and-swap for the socket table, the
# cookie helper in tracing programs (both 5.12), socket storage in them (5.11). The table needs the cookie.
_VARIANTS = (
    {"use_table": 1, "use_hash": 0, "has_cookie": 1},
    {"use_table": 0, "use_hash": 0, "has_cookie": 1},
    {"use_table": 0, "use_hash": 0, "has_cookie": 0},
    {"use_table": 0, "use_hash": 1, "has_cookie": 1},
    {"use_table": 0, "use_hash": 1, "has_cookie": 0},
)

# What the programs must know of each other.
_CONFIGURED = {
    "has_send_reset": "tcp_send_reset",
    "has_write": "tcp_sendmsg_locked",
    "has_write_end": "sock_send_length",
    "has_departure": "net_dev_start_xmit",
    "has_segment": "tcp_probe",
    "has_ready": "sk_data_ready",
    "has_read": "tcp_rcv_space_adjust",
    "has_read_end": "sock_recv_length",
    "has_retransmit": "tcp_retransmit_skb",
}

# Drops that are part of a normal end, or that the packet's own record tells better.
_ORDINARY_DROPS = {"TCP_RESET", "TCP_FASTOPEN", "TCP_CLOSE"}
_REASON_PREFIX = "SKB_DROP_REASON_"
_RESET_PREFIX = "SK_RST_REASON_"


@dataclass
class Loaded:
    """Attached programs. `close` detaches and unloads them."""

    object: libbpf.Object
    hooks: list[Hook]
    drop_reasons: dict[int, str]
    reset_reasons: dict[int, str]
    buffer_bytes: int
    loader: str = "core"
    variant: dict[str, int] = field(default_factory=dict)
    arrivals: Arrivals | None = None

    def __post_init__(self) -> None:
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
        attached = {name: program for name, program in self.object.programs.items() if program.attached}
        for program in attached.values():
            program.detach()
        return {name: program.statistics() for name, program in attached.items()}

    def close(self) -> None:
        if self.arrivals:
            self.arrivals.close()
        self.object.close()


def load(
    filters: Filters | None = None,
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    mode: str = "budget",
    without: frozenset[str] = frozenset(),
) -> Loaded:
    """Loads and attaches the programs of a mode. Raises HostError when the main job cannot run here.

    `without`: programs that are left out although the kernel takes them, and "arrivals" and "run_delay".
    """
    keys = (filters or Filters()).keys()
    facts = LIFECYCLE + (BUDGET if mode == "budget" else ())
    kernel = libbpf.KernelTypes()
    try:
        has_run_delay = kernel.has_member("sched_info", "run_delay")
        drop_reasons = _short(kernel.enum_names("skb_drop_reason"), _REASON_PREFIX)
        reset_reasons = _short(kernel.enum_names("sk_rst_reason"), _RESET_PREFIX)
        arguments = {fact.program: _arguments(kernel, fact) for fact in facts}
    finally:
        kernel.close()
    missing = {
        fact.program: _absence(fact, arguments[fact.program])
        for fact in facts
        if fact.tracepoint and (arguments[fact.program] or 0) < fact.arguments
    }
    missing |= {fact.program: "it was left out on purpose" for fact in facts if fact.program in without}
    unused = {fact.program: "" for fact in BUDGET if fact not in facts}
    arrivals, hooks = _budget_extras(mode, without, has_run_delay)
    config = np.zeros((), wire.CONFIG)
    config["cpus"] = libbpf.possible_cpus()
    config["has_retransmit_err"] = (arguments["tcp_retransmit_skb"] or 0) >= 3
    config["has_reset_reason"] = (arguments["tcp_send_reset"] or 0) >= 3
    config["has_drop_socket"] = (arguments["kfree_skb"] or 0) >= 4
    for name in keys:
        config["filter_" + {"netns": "netns"}.get(name[7:], name[7:-1])] = 1
    words = np.zeros(4, np.uint64)
    for number, name in drop_reasons.items():
        if number < 256 and name.startswith("TCP_") and name not in _ORDINARY_DROPS:
            words[number >> 6] |= np.uint64(1) << np.uint64(number & 63)
    config["drop_reasons"] = words
    config["budget"] = mode == "budget"
    config["has_arrival"] = arrivals is not None
    config["has_run_delay"] = has_run_delay and "run_delay" not in without

    missing |= unused
    object_, variant = _load_object(config, buffer_bytes, missing)
    try:
        for name, values in keys.items():
            table = object_.map(name)
            for key in values:
                table.update(key, b"\1")
        # Transitions last: a connection seen to close before resets are would be given a wrong reason.
        attached = [_attach(object_, fact, missing, arguments[fact.program] or 0) for fact in reversed(facts)]
        return Loaded(
            object_,
            attached[::-1] + hooks,
            drop_reasons,
            reset_reasons,
            buffer_bytes,
            variant=variant,
            arrivals=arrivals,
        )
    except BaseException:
        object_.close()
        if arrivals:
            arrivals.close()
        raise


def _budget_extras(
    mode: str, without: frozenset[str], has_run_delay: bool
) -> tuple[Arrivals | None, list[Hook]]:
    """What the budget needs that is no program."""
    if mode != "budget":
        return None, []
    arrivals, reason = None, "it was left out on purpose"
    if "arrivals" not in without:
        try:
            arrivals = Arrivals()
        except TcptraceError as error:
            reason = str(error)
    consequence = "network_ns, peer_ns and kernel_rx_ns are null"
    hooks = [
        Hook(ARRIVALS, "SO_TIMESTAMPNS", True, None)
        if arrivals
        else Hook(ARRIVALS, None, False, f"{reason}, so {consequence}")
    ]
    if has_run_delay and "run_delay" not in without:
        hooks.append(Hook(RUN_DELAY, "sched_info.run_delay", True, None))
    else:
        reason = "it was left out on purpose" if has_run_delay else "this kernel does not count it"
        hooks.append(Hook(RUN_DELAY, None, False, f"{reason}, so wakeup_ns and app_late_ns are null"))
    return arrivals, hooks


def _short(names: dict[int, str], prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) for number, name in names.items()}


def _arguments(kernel: libbpf.KernelTypes, fact: Fact) -> int | None:
    return kernel.tracepoint_arguments(fact.tracepoint) if fact.tracepoint else None


def _absence(fact: Fact, arguments: int | None) -> str:
    if arguments is None:
        return f"this kernel has no tracepoint {fact.tracepoint}"
    return f"this kernel's tracepoint {fact.tracepoint} does not give the reason"


def _load_object(
    config: np.ndarray, buffer_bytes: int, missing: dict[str, str]
) -> tuple[libbpf.Object, dict[str, int]]:
    """Loads the variant that leaves out the fewest programs, the first of those; they join `missing`."""
    best: tuple[libbpf.Object, dict[str, int], dict[str, str]] | None = None
    for variant in _VARIANTS:
        try:
            object_, refused = _load_variant(variant, config, buffer_bytes, missing)
        except libbpf.BpfError as error:
            least = error
            continue
        if best is not None and len(refused) >= len(best[2]):
            object_.close()
            continue
        if best is not None:
            best[0].close()
        best = object_, variant, refused
        if not refused:
            break
    if best is None:
        raise HostError(_explain(least))  # of the variant that asks least of the kernel
    missing.update(best[2])
    return best[:2]


def _load_variant(
    variant: dict[str, int], config: np.ndarray, buffer_bytes: int, missing: dict[str, str]
) -> tuple[libbpf.Object, dict[str, str]]:
    """Also returns the programs, with reasons, that had to be left out. Raises BpfError."""
    required = {fact.program for fact in LIFECYCLE if fact.required}
    for name, value in variant.items():
        config[name] = value
    refused: dict[str, str] = {}
    while True:
        for flag, hook in _CONFIGURED.items():
            config[flag] = hook not in missing and hook not in refused
        object_ = libbpf.Object(resources.bpf_object("lifecycle"))
        try:
            object_.set_initial_value(".rodata.config", config.tobytes())
            object_.set_max_entries("connections", buffer_bytes)
            object_.set_max_entries("events", buffer_bytes)
            object_.set_max_entries("exchanges", buffer_bytes)
            object_.set_autocreate("storage", not variant["use_hash"])
            if not variant["use_hash"]:
                object_.set_max_entries("sockets", 1)
            if not variant["use_table"]:
                object_.set_max_entries("buckets", 1)
                object_.set_max_entries("slots", 1)
                object_.set_max_entries("recent", 1)
            for name, program in object_.programs.items():
                program.set_autoload(name not in missing and name not in refused)
            object_.load()
            return object_, refused
        except libbpf.BpfError as error:
            object_.close()
            culprit = _culprit(error.log)
            if culprit is None or culprit in refused or culprit in required:
                raise
            refused[culprit] = f"the kernel refuses the program: {_last_words(error.log)}"


def _culprit(log: list[str]) -> str | None:
    for line in reversed(log):
        found = re.search(r"prog '(\w+)': failed to load", line)
        if found:
            return found[1]
    return None


def _last_words(log: list[str]) -> str:
    """The verifier's verdict: the last line before its statistics."""
    words = [
        line.strip() for line in log if line.strip() and not line.startswith(("libbpf:", "processed", "--"))
    ]
    return words[-1] if words else "no reason given"


def _explain(error: libbpf.BpfError) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="tcptrace-verifier-", suffix=".log", delete=False) as file:
        file.write("\n".join(error.log) + "\n")
    return f"{error}, so nothing can be recorded: {_last_words(error.log)} (the whole log is in {file.name})"


def _attach(object_: libbpf.Object, fact: Fact, missing: dict[str, str], arguments: int) -> Hook:
    reason = missing.get(fact.program)
    if reason is None:
        program = object_.programs[fact.program]
        try:
            if fact.tracepoint:
                program.attach()
            else:
                program.attach_iterator()
            limitation = fact.limitation if arguments < fact.all_arguments else None
            return Hook(fact.name, fact.provider, True, limitation)
        except libbpf.BpfError as error:
            reason = str(error)
    if fact.required:
        raise HostError(f"{fact.name}: {reason}, so {fact.consequence}")
    return Hook(fact.name, None, False, f"{reason}, so {fact.consequence}")
