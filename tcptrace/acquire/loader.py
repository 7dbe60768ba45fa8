"""Loads the CO-RE programs through libbpf and attaches them, by what the kernel takes.

A program that the kernel refuses gives way to the next provider of its fact (`choice.py`), and a fact
without any is reported as missing with the reason; a helper or map type that the kernel lacks is replaced by
its fallback.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from tcptrace import resources
from tcptrace.acquire import kernel, libbpf, objects
from tcptrace.acquire.arrivals import Arrivals
from tcptrace.acquire.choice import Choice
from tcptrace.acquire.configuration import configuration
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.loaded import Loaded
from tcptrace.acquire.providers import ARRIVALS, BUDGET, LIFECYCLE
from tcptrace.errors import HostError, TcptraceError, UsageError

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

_KPROBES = ("kprobe_", "kretprobe_")
_REASON_PREFIX = "SKB_DROP_REASON_"
_RESET_PREFIX = "SK_RST_REASON_"

Result = TypeVar("Result")


class _Refused(Exception):
    """The kernel does not take a program."""

    def __init__(self, program: str, reason: str, log: list[str]) -> None:
        super().__init__(reason)
        self.program, self.reason, self.log = program, reason, log


class _Failed(Exception):
    """A variant cannot be loaded."""

    def __init__(self, reason: str, log: list[str]) -> None:
        super().__init__(reason)
        self.log = log


class _Job:
    """What is loaded whatever the kernel takes."""

    def __init__(self, filters: Filters, buffer_bytes: int, mode: str) -> None:
        self.keys = filters.keys()
        self.buffer_bytes = buffer_bytes
        self.budget = mode == "budget"
        self.facts = LIFECYCLE + (BUDGET if self.budget else ())
        self.drop_reasons: dict[int, str] = {}
        self.reset_reasons: dict[int, str] = {}

    def ask(self, types: kernel.KernelTypes) -> None:
        self.drop_reasons = _short(types.enum_names("skb_drop_reason"), _REASON_PREFIX)
        self.reset_reasons = _short(types.enum_names("sk_rst_reason"), _RESET_PREFIX)


def load(
    filters: Filters | None = None,
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    mode: str = "budget",
    providers: Mapping[str, str] | None = None,
) -> Loaded:
    """Loads and attaches the programs of a mode. Raises HostError when the main job cannot run here.

    `providers`: fact -> the only provider to use, or "none" (see `providers.forced`); HostError when one
    cannot be used here, UsageError when the mode has no such fact.
    """
    job = _Job(filters or Filters(), buffer_bytes, mode)
    _check(providers or {}, job, mode)
    types = kernel.KernelTypes()
    try:
        choice = Choice(job.facts, types, providers)
        job.ask(types)
    finally:
        types.close()
    arrivals = _switch_on(choice)
    try:
        loaded, choice, variant = _load_best(job, choice)
    except BaseException:
        if arrivals:
            arrivals.close()
        raise
    return Loaded(
        loaded,
        choice.hooks(),
        job.drop_reasons,
        job.reset_reasons,
        buffer_bytes,
        variant=variant,
        arrivals=arrivals,
    )


def _check(providers: Mapping[str, str], job: _Job, mode: str) -> None:
    unknown = set(providers) - {fact.name for fact in job.facts}
    if unknown:
        raise UsageError(f"--provider {min(unknown)!r}: --mode {mode} does not record this fact")


def _short(names: dict[int, str], prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) for number, name in names.items()}


def _switch_on(choice: Choice) -> Arrivals | None:
    """The setting that is no program."""
    for fact in choice.facts:
        provider = choice.provider(fact) if fact.name == ARRIVALS else None
        if provider:
            try:
                return Arrivals()
            except TcptraceError as error:
                choice.refuse_provider(fact, provider, str(error))
    return None


Best = tuple[list[libbpf.Object], Choice, dict[str, int]]


def _load_best(job: _Job, choice: Choice) -> Best:
    """Loads the variant that leaves out the fewest programs, the first of those."""
    best: Best | None = None
    failure = _Failed("", [])
    for name, variant in _variants():
        try:
            found = _load_variant(name, variant, job, choice.copy())
        except _Failed as error:
            failure = error  # in the end, that of the variant that asks least of the kernel
            continue
        if best is not None and len(found[1].lost) >= len(best[1].lost):
            _close(found[0])
            continue
        if best is not None:
            _close(best[0])
        best = found
        if not best[1].lost:
            break
    if best is None:
        raise HostError(f"{failure}{_where(failure.log)}")
    return best


def _variants() -> Iterator[tuple[str, dict[str, int]]]:
    """Objects and their variants, best first."""
    if kernel.can_compare_and_swap():
        yield from ((objects.MAIN, variant) for variant in _VARIANTS)
    yield objects.PLAIN, objects.WHOLE_VARIANT


def _load_variant(name: str, variant: dict[str, int], job: _Job, choice: Choice) -> Best:
    """Loads and attaches what the kernel takes of it; the choice loses the rest. Raises _Failed."""
    while True:
        try:
            return _attempt(name, variant, job, choice)
        except _Refused as refused:
            try:
                known = choice.refuse(refused.program, refused.reason)
            except HostError as error:
                raise _Failed(str(error), refused.log) from None
            if not known:
                raise _Failed(f"{refused.reason}, so nothing can be recorded", refused.log) from None


def _attempt(name: str, variant: dict[str, int], job: _Job, choice: Choice) -> Best:
    programs = choice.programs()
    kprobes = (
        [program for program in programs if program.startswith(_KPROBES)] if name == objects.MAIN else []
    )
    if kprobes:
        variant = {**variant, "use_hash": 1}  # they may not look into socket storage
    config = configuration(choice, variant, job.keys, job.drop_reasons, job.budget)
    opened: list[libbpf.Object] = []
    try:
        opened.append(_load_object(name, variant, config, job.buffer_bytes, set(programs) - set(kprobes)))
        if kprobes:
            opened.append(_refusing(lambda: objects.beside(opened[0], config, kprobes)))
        for table, keys in job.keys.items():
            for key in keys:
                opened[0].map(table).update(key, b"\1")
        found = {program.name: program for object_ in opened for program in object_.programs.values()}
        for program in programs:
            _attach(found[program])
    except BaseException:
        _close(opened)
        raise
    return opened, choice, variant


def _load_object(
    name: str, variant: dict[str, int], config: bytes, buffer_bytes: int, programs: set[str]
) -> libbpf.Object:
    object_ = libbpf.Object(resources.bpf_object(name))
    try:
        object_.set_initial_value(".rodata.config", config)
        for ring in ("connections", "events", "exchanges"):
            object_.set_max_entries(ring, buffer_bytes)
        if name == objects.MAIN:
            object_.set_autocreate("storage", not variant["use_hash"])
        if not variant["use_hash"]:
            object_.set_max_entries("sockets", 1)
        if not variant["use_table"]:
            for table in ("buckets", "slots", "recent"):
                object_.set_max_entries(table, 1)
        for program in object_.programs.values():
            program.set_autoload(program.name in programs)
        _refusing(object_.load)
    except BaseException:
        object_.close()
        raise
    return object_


def _refusing(load: Callable[[], Result]) -> Result:
    """A failed load as _Refused, or as _Failed where it is the fault of no program."""
    try:
        return load()
    except libbpf.BpfError as error:
        culprit, verdict = _culprit(error.log), _verdict(error)
        if culprit is None:
            raise _Failed(f"{error}, so nothing can be recorded: {verdict}", error.log) from None
        raise _Refused(culprit, f"the kernel refuses the program: {verdict}", error.log) from None


def _attach(program: libbpf.Program) -> None:
    try:
        if program.name == "walk":
            program.attach_iterator()
        else:
            program.attach()
    except libbpf.BpfError as error:
        raise _Refused(program.name, str(error), error.log) from None


def _close(opened: list[libbpf.Object]) -> None:
    for object_ in reversed(opened):
        object_.close()


def _culprit(log: list[str]) -> str | None:
    for line in reversed(log):
        found = re.search(r"prog '(\w+)': failed to load", line)
        if found:
            return found[1]
    return None


def _verdict(error: libbpf.BpfError) -> str:
    """The verifier's: the last line before its statistics; without one, the kernel's error."""
    words = _verifiers(error.log)
    return words[-1] if words else os.strerror(error.errno)


def _verifiers(log: list[str]) -> list[str]:
    """What the verifier said, without its statistics."""
    return [
        line.strip() for line in log if line.strip() and not line.startswith(("libbpf:", "processed", "--"))
    ]


def _where(log: list[str]) -> str:
    """Where the verifier's whole log is, if it had anything to say."""
    if not _verifiers(log):
        return ""
    with tempfile.NamedTemporaryFile("w", prefix="tcptrace-verifier-", suffix=".log", delete=False) as file:
        file.write("\n".join(log) + "\n")
    return f" (the whole log is in {file.name})"
