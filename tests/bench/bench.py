"""What recording costs: loads with and without a tracer, in interleaved pairs.

Each round runs a load untraced and under the tracer, every second round the other way round, so that a
drift of the machine hits both alike; ratios are taken within a round, and their median is shown with the
extremes. Peers take part in the storm where they are installed. The cost of each program comes from one
run of its own, because the kernel's statistics cost something themselves. Needs root. Exit status: 1 when a
bound is broken or something was lost, except with --rps.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import host
import tables
from load import KINDS, ROOT, STORM, Kind, Load, run, wait_for_quiet
from tracers import BenchError, Peer, Tcptrace, Traced, Tracer, installed_peers

DISTURBED = 0.04  # of all CPUs' time used by others


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=list(KINDS), metavar="LOAD", help=f"one of {', '.join(KINDS)}"
    )
    parser.add_argument("--mode", choices=list(tables.BOUNDS), help="of recording (default: record's own)")
    parser.add_argument("--pairs", type=int, default=7, help="rounds with tcptrace (default 7)")
    parser.add_argument("--peer-pairs", type=int, default=3, help="rounds with each peer (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each run (default 2)")
    parser.add_argument("--cpu", type=int, metavar="N", help="keep client and server on this CPU: less noise")
    parser.add_argument(
        "--fifo", action="store_true", help="real-time priority for the load: for busy machines, with --cpu"
    )
    parser.add_argument(
        "--rps", action="store_true", help="steer received packets to both CPUs (rps_cpus of lo)"
    )
    parser.add_argument(
        "--patience", type=float, default=120, metavar="S", help="wait and repeat for S (120)"
    )
    parser.add_argument(
        "--no-statistics", action="store_true", help="leave out the run with per-program cost"
    )
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build" / "bench.json", help="where the figures go"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this document")
    parser.add_argument("record", nargs="*", help="options for `tcptrace record`, after --")
    return parser.parse_args()


class Field:
    """Plays rounds; a run that others disturbed is repeated, and the least disturbed one kept."""

    def __init__(self, seconds: float, cpu: int | None, fifo: bool, patience_s: float) -> None:
        self.seconds = seconds
        self.cpu = cpu
        self.fifo = fifo
        self.patience_s = patience_s
        self.discarded = 0

    def load(self, kind: Kind) -> Callable[[], Load]:
        return functools.partial(run, kind, self.seconds, self.cpu, fifo=self.fifo)

    def _quiet(self, once: Callable[[], Load | Traced]) -> Load | Traced:
        tries: list[Load | Traced] = []
        while not tries or (tables.elsewhere(tries[-1]) > DISTURBED and self.patience_s > 0):
            began = time.monotonic()
            wait_for_quiet(DISTURBED, min(self.patience_s, 20))
            waited = time.monotonic() - began
            tries.append(once())
            # Waiting costs patience, and so does a repeated run.
            self.patience_s -= waited if len(tries) == 1 else time.monotonic() - began
        self.discarded += len(tries) - 1
        return min(tries, key=tables.elsewhere)

    def rounds(self, kind: Kind, tracers: list[Tracer], wanted: int) -> list[tables.Round]:
        """That many rounds of an untraced run and one under each tracer, every second one the other way."""
        played: list[tables.Round] = []
        for number in range(wanted):
            order: list[Tracer | None] = [None, *tracers]
            if number % 2:
                order.reverse()
            done: tables.Round = {}
            for turn in order:
                if turn is None:
                    done["untraced"] = self._quiet(self.load(kind))
                else:
                    done[turn.name] = self._quiet(functools.partial(turn.run, self.load(kind)))
            say(f"{kind.name}, round {number + 1} of {wanted}: {tables.one_line(done)}")
            played.append(done)
        return played


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def measure_load(
    kind: Kind, field: Field, tracer: Tcptrace, peers: list[Peer], options: argparse.Namespace
) -> dict[str, Any]:
    run(kind, min(options.seconds, 1.0), options.cpu)  # warms up, and is not counted
    rounds = field.rounds(kind, [tracer], options.pairs)
    for peer in peers if kind is STORM else []:
        try:
            rounds += field.rounds(kind, [peer], options.peer_pairs)
        except BenchError as error:
            say(f"{error}; left out")
    programs = []
    if not options.no_statistics:
        with host.switched(host.BPF_STATS, "1"):
            counted = tracer.run(field.load(kind), statistics=True)
        programs = [
            {**asdict(cost), "runs_per_unit": cost.runs / counted.load.units} for cost in counted.programs
        ]
    return {
        "results": tables.results(rounds),
        "programs": programs,
        "disturbance": max(map(tables.disturbance, rounds)),
        "rounds": [{name: asdict(value) for name, value in done.items()} for done in rounds],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    kinds = [kind for name, kind in KINDS.items() if name in (options.only or KINDS)]
    record_options = [*(["--mode", options.mode] if options.mode else []), *options.record]
    tracer = Tcptrace(record_options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tcptrace-headers-")))
        wanted = STORM in kinds and options.peer_pairs
        peers, missing = installed_peers(scratch) if wanted else ([], [])
        for sentence in missing:
            say(sentence)
        stack.enter_context(host.switched(host.BPF_STATS, "0"))
        if options.rps:
            stack.enter_context(host.switched(host.RPS_CPUS, "3"))
        field = Field(options.seconds, options.cpu, options.fifo, options.patience)
        loads = {kind.name: measure_load(kind, field, tracer, peers, options) for kind in kinds}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "host": host.describe(),
        "mode": options.mode or "budget",
        "seconds": options.seconds,
        "cpu": options.cpu,
        "fifo": options.fifo,
        "rps": options.rps,
        "record_options": record_options,
        "runs_discarded": field.discarded,
        "disturbance": max(measured["disturbance"] for measured in loads.values()),
        "loads": loads,
    }


def main() -> int:
    options = arguments()
    if os.geteuid() != 0:
        say("needs root, to record and to read the kernel's statistics")
        return 3
    name = "rps" if options.rps else "lifecycle" if options.mode == "lifecycle" else "default"
    if options.write:
        tables.section(options.write, name)  # fails now rather than after the runs
    # SIGTERM cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures = measure(options)
    except BenchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    print(tables.document(figures))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    say(f"figures of every run in {options.json}")
    if options.write:
        tables.put_into(options.write, tables.document(figures), name)
        say(f"tables written to {options.write}")
    broken = [] if options.rps else tables.broken(figures["loads"], figures["mode"])
    for sentence in broken:
        say(f"bound broken: {sentence}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
