"""Recording health: what was recorded, on what, by which hooks, what was lost and what it cost.

Everything here comes from the header and trailer, which are JSON of a file that anyone may have made: a
missing key or one of another type reads as unknown, never as an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tcptrace.analysis import hooks
from tcptrace.output.report_text import share
from tcptrace.output.terminal import LOSSES, RECURSION
from tcptrace.trace.reader import Trace
from tcptrace.units import format_count, format_duration, format_size, plural


@dataclass(frozen=True)
class Loss:
    cause: str
    count: int
    meaning: str


@dataclass(frozen=True)
class Hook:
    fact: str
    provider: str | None
    exact: bool
    reason: str | None


@dataclass(frozen=True)
class Program:
    name: str
    runs: int
    time_ns: int
    missed: int

    @property
    def ns_per_run(self) -> float | None:
        return self.time_ns / self.runs if self.runs else None


@dataclass(frozen=True)
class Health:
    """Facts of one recording. None and empty collections: the file does not say."""

    name: str
    host: str | None
    started: str | None
    start_ns: int
    start_monotonic_ns: int
    duration_ns: int | None
    duration_is_lower_bound: bool
    complete: bool
    clean_end: bool
    truncated: bool
    damaged: str | None
    losses: list[Loss]
    lost: int
    facts: list[tuple[str, str]]
    counts: list[tuple[str, int]]
    hooks: list[Hook]
    programs: list[Program]
    cpus: int | None
    seed_failures: list[str]
    sysctls: list[tuple[str, str]]
    nics: list[tuple[str, str]]
    drop_reasons: dict[int, str]
    no_drops: str | None  # why the host could not tell of drops
    no_stray_resets: str | None  # why it could not tell of resets without a connection
    reset_reasons: dict[int, str]

    @property
    def cost_known(self) -> bool:
        """The kernel counts runs only while its BPF statistics are on."""
        return any(program.runs for program in self.programs)

    @property
    def program_time_ns(self) -> int:
        return sum(program.time_ns for program in self.programs)

    @property
    def program_share(self) -> str:
        """CPU time of all programs relative to all CPUs of the host over the recording."""
        capacity = (self.duration_ns or 0) * (self.cpus or 0)
        return share(self.program_time_ns, capacity)

    @property
    def exact_hooks(self) -> int:
        return sum(hook.provider is not None and hook.exact for hook in self.hooks)

    @property
    def estimated_hooks(self) -> int:
        return sum(hook.provider is not None and not hook.exact for hook in self.hooks)

    @property
    def missing_hooks(self) -> int:
        return sum(hook.provider is None for hook in self.hooks)


def health(trace: Trace) -> Health:
    header, trailer = _mapping(trace.header), _mapping(trace.trailer)
    start_monotonic = _int(_at(header, "started", "monotonic_ns"))
    start = _int(_at(header, "started", "realtime_ns"))
    end = _int(_at(trailer, "ended", "monotonic_ns"))
    lower_bound = end is None
    if end is None and trace.clocks:
        end = max(monotonic for monotonic, _ in trace.clocks)
    duration = max(0, end - start_monotonic) if end is not None and start_monotonic is not None else None
    losses = sorted(
        (Loss(cause, number, _meaning(cause)) for cause, number in trace.losses.items() if number),
        key=lambda loss: -loss.count,
    )
    return Health(
        name=trace.path.name,
        host=_text(header.get("hostname")),
        started=None if start is None else _instant(start),
        start_ns=start or 0,
        start_monotonic_ns=start_monotonic or 0,
        duration_ns=duration,
        duration_is_lower_bound=lower_bound,
        complete=trace.complete,
        clean_end=trace.clean_end,
        truncated=trace.truncated,
        damaged=trace.damaged,
        losses=losses,
        lost=sum(loss.count for loss in losses),
        facts=_facts(header),
        counts=_counts(_mapping(trailer.get("counts"))),
        hooks=[_hook(entry) for entry in _mappings(header.get("hooks"))],
        programs=sorted(
            (_program(entry) for entry in _mappings(trailer.get("programs"))), key=lambda p: -p.time_ns
        ),
        cpus=_int(header.get("cpus")),
        seed_failures=[_words(entry) for entry in _sequence(_at(header, "seeded", "failed"))],
        sysctls=[
            (name, " ".join(_words(value).split()))
            for name, value in sorted(_mapping(header.get("sysctls")).items())
        ],
        nics=[_nic(entry) for entry in _mappings(header.get("nics"))],
        drop_reasons=_names(header.get("drop_reasons")),
        no_drops=hooks.limited(header, hooks.DROP),
        no_stray_resets=hooks.limited(header, hooks.RESET_SENT),
        reset_reasons=_names(header.get("reset_reasons")),
    )


def _facts(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what one wants to know first, in that order."""
    kernel = [_text(_at(header, "kernel", key)) for key in ("release", "machine", "version")]
    options = _mapping(header.get("options"))
    filters = {name: value for name, value in _mapping(options.get("filters")).items() if value}
    buffer = _int(options.get("buffer_bytes"))
    seeded, namespaces = _int(_at(header, "seeded", "connections")), _int(_at(header, "seeded", "namespaces"))
    if namespaces is None and isinstance(listed := _at(header, "seeded", "namespaces"), Sequence):
        namespaces = len(listed)
    rows = [
        ("Host", _text(header.get("hostname"))),
        ("Kernel", " ".join(part for part in kernel if part) or None),
        ("CPUs", format_count(cpus) if (cpus := _int(header.get("cpus"))) else None),
        ("Loader", _words(header["loader"]) if header.get("loader") else None),
        ("Mode", _text(options.get("mode"))),
        (
            "Filters",
            "; ".join(f"{k} {_words(v)}" for k, v in filters.items()) or "none: every TCP connection",
        ),
        ("Time limit", _limit(options.get("duration_s"))),
        ("Ring buffer", f"{format_size(buffer)} each" if buffer else None),
        (
            "Open before the start",
            None
            if seeded is None
            else plural(seeded, "connection")
            + ("" if namespaces is None else f" in {plural(namespaces, 'network namespace')}"),
        ),
        ("Recorded by", _version(header)),
        ("Command line", _words(header["command_line"]) if header.get("command_line") else None),
        ("Trace id", _text(header.get("trace_id"))),
    ]
    return [(name, value) for name, value in rows if value]


def _limit(seconds: object) -> str | None:
    usable = isinstance(seconds, int | float) and 0 < seconds < 1e9
    return format_duration(seconds * 1e9) if usable else None  # type: ignore[operator]


def _version(header: Mapping[str, Any]) -> str | None:
    version = _text(header.get("tcptrace_version"))
    return version and f"tcptrace {version}"


def _counts(counts: Mapping[str, Any]) -> list[tuple[str, int]]:
    names = {
        "tracked": "connections tracked",
        "finished": "connections settled",
        "connections": "connection records sent by the kernel",
        "events": "event records sent by the kernel",
        "single": "exchanges with a record each",
        "summed": "exchanges in sums alone",
    }
    return [(words, number) for key, words in names.items() if (number := _int(counts.get(key))) is not None]


def _meaning(cause: str) -> str:
    return RECURSION if cause.startswith("recursion") else LOSSES.get(cause, "")


def _hook(entry: Mapping[str, Any]) -> Hook:
    return Hook(
        _words(entry.get("fact", "")),
        _text(entry.get("provider")),
        entry.get("exact") is True,
        _text(entry.get("reason")),
    )


def _program(entry: Mapping[str, Any]) -> Program:
    def number(key: str) -> int:
        return max(0, _int(entry.get(key)) or 0)

    return Program(
        _words(entry.get("name", "")), number("run_count"), number("run_time_ns"), number("recursion_misses")
    )


def _nic(entry: Mapping[str, Any]) -> tuple[str, str]:
    offloads = {key: value for key, value in entry.items() if key != "name"}
    if len(offloads) == 1 and isinstance(only := next(iter(offloads.values())), Mapping):
        offloads = dict(only)
    on = [key for key, value in offloads.items() if value is True]
    rest = [f"{key} {_words(value)}" for key, value in offloads.items() if not isinstance(value, bool)]
    return _words(entry.get("name", "")), ", ".join(on + rest) or "no offload on"


def _names(value: object) -> dict[int, str]:
    return {
        int(number): _words(name)
        for number, name in _mapping(value).items()
        if number.lstrip("-").isdecimal()
    }


def _instant(realtime_ns: int) -> str:
    try:
        return datetime.fromtimestamp(realtime_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{realtime_ns} ns since 1970"


def _at(value: object, *path: str) -> Any:
    for key in path:
        value = _mapping(value).get(key)
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in _sequence(value) if isinstance(entry, Mapping)]


def _int(value: object) -> int | None:
    """A number that int64 holds, with room to add to it."""
    usable = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62
    return value if usable else None  # type: ignore[return-value]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _words(value: object) -> str:
    """Any JSON value as words, lists joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence):
        return " ".join(_words(entry) for entry in value)
    return "yes" if value is True else "no" if value is False else str(value)
