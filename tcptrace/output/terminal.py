"""`info`, `summary` and `connections` as text for people: recording health first, then what was measured.

Colour and weight come from rich, which leaves them out for NO_COLOR and whatever is no terminal. Markup is
never interpreted, and every string passes visible().
"""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from tcptrace.analysis.question import Brief
from tcptrace.output.blocks import print_line, print_rows, print_title
from tcptrace.output.escape import visible
from tcptrace.output.listing import (
    endpoint_cells,
    handshake_cells,
    instant_text,
    plain_cells,
    repeated_syn_cells,
)
from tcptrace.output.terminal_budget import print_brief
from tcptrace.units import UNKNOWN, format_count, format_duration, format_size, plural

SLOWEST = 10

LOSSES = {
    "connection_ring": "a connection's record found its ring buffer full: its row is missing",
    "event_ring": "an event's record found its ring buffer full: a retransmission, reset or drop is missing",
    "return": "a write's return was missed: it is part of no exchange",
    "exchange_ring": "sums over exchanges found their ring buffer full: their time is missing",
    "state": "no memory for a connection's state: its row is missing",
    "unread": "records that the kernel says it sent and that never came",
    "end": "connections whose end the kernel did not show us: their rows know the start only",
    "unaccounted": "tracked, but neither a row nor a reason for losing it arrived",
}
RECURSION = "the kernel skipped this program while it interrupted itself: fields that needed it are null"

ROLE_NAMES = {"active": "active (connect)", "passive": "passive (accept)", "unknown": "unknown"}


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the process with 1; that the reader left is for the command to judge.
        raise BrokenPipeError


def console(file: TextIO) -> Console:
    """Lines keep their length: cutting or folding them at a guessed width would lose what they say."""
    return _Terminal(file=file, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_info(out: Console, info: Mapping[str, Any]) -> None:
    """info: what analysis.summary.describe() gives."""
    _health(out, info)
    header = _map(info["header"])
    options, kernel = _map(header.get("options")), _map(header.get("kernel"))
    seeded = _map(header.get("seeded"))
    filters = {name: value for name, value in _map(options.get("filters")).items() if value}
    limit, buffer = options.get("duration_s"), options.get("buffer_bytes")
    print_title(out, "Recording")
    _pairs(
        out,
        {
            "command line": _words(header.get("command_line")),
            "mode": _words(options.get("mode")),
            "filters": "; ".join(f"{name} {_words(value)}" for name, value in filters.items())
            or "none: every TCP connection of the host",
            "time limit": format_duration(limit * 1e9) if isinstance(limit, int | float) else "none",
            "ring buffers": f"{format_size(buffer)} each" if isinstance(buffer, int) else UNKNOWN,
            "open before": _seeding(seeded),
            "written by": f"tcptrace {_words(header.get('tcptrace_version'))}, "
            f"format {_words(header.get('format_version'))}, wire {_words(header.get('wire_version'))}",
            "trace id": _words(header.get("trace_id")),
        },
    )
    print_title(out, "Host")
    _pairs(
        out,
        {
            "name": _words(header.get("hostname")),
            "kernel": " ".join(_words(kernel.get(key)) for key in ("release", "machine")),
            "version": _words(kernel.get("version")),
            "CPUs": _words(header.get("cpus")),
            "loader": _words(header.get("loader")),
            "boot id": _words(header.get("boot_id")),
        },
    )
    print_rows(out, "Hooks", ("fact", "provider", "quality", "why"), map(_hook, _maps(header.get("hooks"))))
    programs = _maps(_map(info["trailer"]).get("programs"))
    # The kernel counts runs only while kernel.bpf_stats_enabled is set; all zeroes mean that it was not.
    counted = any(program.get("run_count") for program in programs)
    print_rows(
        out,
        "Programs",
        ("name", "runs", "time", "per run", "skipped"),
        (_program(program, counted) for program in programs),
        right=(1, 2, 3, 4),
    )
    if programs and not counted:
        print_line(out, f"  {UNKNOWN} not counted, because kernel.bpf_stats_enabled was 0")
    for title, key in (("Kernel settings", "sysctls"), ("Network namespaces", "namespaces")):
        if values := _map(header.get(key)):
            print_title(out, title)
            _pairs(out, {name: _words(value) for name, value in sorted(values.items())})
    if nics := _maps(header.get("nics")):
        print_title(out, "Interfaces")
        _pairs(out, {_words(nic.get("name")): _offloads(nic) for nic in nics})


def print_summary(out: Console, summary: Mapping[str, Any], connections: pa.Table, turns: Brief) -> None:
    """summary: what analysis.summary.summarise() gives for these connections; turns: of their exchanges."""
    _health(out, summary["trace"])
    facts = summary["connections"]
    print_title(out, f"Connections: {plural(facts['rows'], 'row')}, one per end")
    _bars(out, {ROLE_NAMES.get(role, role): count for role, count in facts["by_role"].items()}, facts["rows"])
    if censored := [
        f"{format_count(facts[key])} {words}"
        for key, words in (
            ("left_censored", "open before the recording, so begun unseen"),
            ("right_censored", "still open at its end"),
            ("only_sighted", "known by their start only, because the kernel skipped what saw their end"),
        )
        if facts[key]
    ]:
        print_line(out, f"  {'; '.join(censored)}")
    print_title(out, "How they ended")
    _bars(out, facts["by_close_reason"], facts["rows"])

    print_brief(out, turns)
    print_rows(
        out,
        "Handshakes",
        ("", "measured", "p50", "p90", "p99", "max", "not observed", "estimated"),
        (
            (
                ROLE_NAMES[role],
                format_count(one["n"]),
                *(format_duration(one[name]) for name in ("p50_ns", "p90_ns", "p99_ns", "max_ns")),
                format_count(one["not_observed"]),
                format_count(one["estimated"]),
            )
            for role, one in summary["handshake"].items()
        ),
        right=range(1, 8),
    )
    print_line(
        out,
        f"  {UNKNOWN} too few values: p90 needs 10, p99 100; not observed: open before, failed or missed",
    )
    _retransmissions(out, summary)
    _slowest(out, connections)


def _health(out: Console, info: Mapping[str, Any]) -> None:
    header, lost = _map(info["header"]), _map(info["lost"])
    total = lost.get("total")
    records = info["records"]
    duration = format_duration(info["duration_ns"])
    at_least = "" if info["clean_end"] else "at least "
    print_title(out, f"Trace {visible(info['path'])}")
    print_line(
        out,
        f"  {_words(header.get('hostname'))}, kernel {_words(_map(header.get('kernel')).get('release'))}, "
        f"{instant_text(info['started_ns'])} UTC, for {at_least}{duration}",
    )
    connections, events = records["connections"], records["events"]
    again = " (one that stays open has several)" if connections else ""
    print_line(out, f"  {plural(connections, 'connection record')}{again}, {plural(events, 'event')}")
    _exchanges(out, info["exchanges"])
    if info["complete"]:
        print_line(out, "  complete: ended cleanly, nothing lost", "green")
        return
    for problem in info["problems"]:
        print_line(out, f"  INCOMPLETE: {visible(problem)}", "bold red")
    if total is None:
        print_line(out, "  lost while recording: not known, because the file's end is missing", "red")
    for cause, count in lost.items():
        if cause != "total":
            meaning = RECURSION if cause.startswith("recursion") else LOSSES.get(cause, "")
            print_line(
                out, f"  lost {format_count(count)} {visible(cause)}{': ' if meaning else ''}{meaning}", "red"
            )


def _exchanges(out: Console, exchanges: Mapping[str, Any]) -> None:
    rows, summed, missing = exchanges["rows"], exchanges["summed"], exchanges["missing"]
    if exchanges["sampling"] is None:
        return
    parts = [f"{plural(rows, 'exchange')} with a record each"]
    if summed:
        parts.append(f"{format_count(summed)} more in sums alone, as they came too fast")
    if missing:
        parts.append(f"{format_count(missing)} more missing")
    share = f" ({100 * exchanges['sampling']:.3g} % have one)" if len(parts) > 1 else ""
    print_line(out, f"  {'; '.join(parts)}{share}")


def _retransmissions(out: Console, summary: Mapping[str, Any]) -> None:
    counts, events = summary["retransmits"], summary["events"]
    print_title(out, "Retransmissions and rare events")
    print_line(
        out,
        f"  {plural(counts['data'], 'data segment')}, {plural(counts['syn'], 'SYN')}, "
        f"{plural(counts['synack'], 'SYN-ACK')} sent again, on {plural(counts['connections'], 'connection')}",
    )
    if counts["connections_not_known"]:
        print_line(out, f"  not known for {plural(counts['connections_not_known'], 'connection')}")
    print_line(
        out,
        f"  {plural(events['reset_sent_without_connection'], 'reset')} sent to packets without a connection, "
        f"{plural(events['drop'], 'packet')} dropped by the kernel",
    )
    if events["reset_sent_without_connection"] is None or events["drop"] is None:
        print_line(out, "  – could not be observed on that host: `tcptrace info` says why")
    for key in ("drop_reasons", "reset_reasons"):
        for name, count in events[key].items():
            print_line(out, f"    {format_count(count):>8}  {key.split('_')[0]}: {visible(name)}")


def _slowest(out: Console, table: pa.Table) -> None:
    known = table.filter(pc.is_valid(table["handshake_ns"]))
    if not known.num_rows:
        return
    slow = known.take(pc.select_k_unstable(known, SLOWEST, [("handshake_ns", "descending")]))
    print_rows(
        out,
        "Slowest handshakes",
        ("time", "role", "local", "remote", "process", "SYN again", "ended", "id"),
        zip(
            handshake_cells(slow),
            plain_cells(slow["role"]),
            endpoint_cells(slow, "local"),
            endpoint_cells(slow, "remote"),
            plain_cells(slow["comm"]),
            repeated_syn_cells(slow),
            plain_cells(slow["close_reason"]),
            plain_cells(slow["connection_id"]),
            strict=True,
        ),
        right=(0, 5, 7),
    )
    if False in slow["handshake_exact"].to_pylist():
        print_line(out, "  ~ estimated")


def _seeding(seeded: Mapping[str, Any]) -> str:
    connections, namespaces, failed = (seeded.get(key) for key in ("connections", "namespaces", "failed"))
    if not isinstance(connections, int):
        return UNKNOWN
    where = f" in {plural(namespaces, 'network namespace')}" if isinstance(namespaces, int) else ""
    missed = f"; not listed: {_words(failed)}" if failed else ""
    return f"{plural(connections, 'connection')}{where}{missed}"


def _hook(hook: Mapping[str, Any]) -> tuple[str, ...]:
    provider = hook.get("provider")
    quality = "missing" if not provider else "exact" if hook.get("exact") is True else "estimated"
    return _words(hook.get("fact")), _words(provider), quality, _words(hook.get("reason") or "")


def _program(program: Mapping[str, Any], counted: bool) -> tuple[str, ...]:
    runs, time_ns = (program.get(key) if counted else None for key in ("run_count", "run_time_ns"))
    each = time_ns / runs if isinstance(runs, int) and isinstance(time_ns, int) and runs else None
    skipped = program.get("recursion_misses")
    return (
        _words(program.get("name")),
        format_count(runs) if isinstance(runs, int) else UNKNOWN,
        format_duration(time_ns) if isinstance(time_ns, int) else UNKNOWN,
        format_duration(each),
        format_count(skipped) if isinstance(skipped, int) else UNKNOWN,
    )


def _offloads(nic: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for key, value in nic.items():
        if key != "name":
            flat |= value if isinstance(value, Mapping) else {key: value}
    on = [key for key, value in flat.items() if value is True]
    rest = [f"{key} {_words(value)}" for key, value in flat.items() if not isinstance(value, bool)]
    return visible(", ".join(on + rest)) or "no offload on"


def _bars(out: Console, counts: Mapping[str, int], total: int) -> None:
    width = max(map(len, counts), default=0)
    for name, count in counts.items():
        share = f"{100 * count / total:5.1f} %" if total else ""
        print_line(out, f"  {visible(name):<{width}}  {format_count(count):>11}  {share}")


def _pairs(out: Console, pairs: Mapping[str, str]) -> None:
    names = [visible(name) for name in pairs]
    width = max(map(len, names), default=0)
    for name, value in zip(names, pairs.values(), strict=True):
        print_line(out, f"  {name:<{width}}  {visible(value) or UNKNOWN}")


def _words(value: object) -> str:
    """Any JSON value in words, printable; an en dash for null."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence):
        return " ".join(_words(entry) for entry in value)
    return UNKNOWN if value is None else "yes" if value is True else "no" if value is False else str(value)


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
