"""What recording costs: a storm of short connections, with and without a tracer, in interleaved pairs.

Each round runs the storm untraced and under the tracer, every second round the other way round, so that a
drift of the machine hits both alike; ratios are taken within a round, and their median is shown with the
extremes. Peers take part where they are installed. The cost of each program comes from one
run of its own, because the kernel's statistics cost something themselves. Needs root.
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

import host
import tables
from load import ROOT, Load, storm, wait_for_quiet
from tracers import BenchError, Tcptrace, Traced, Tracer, installed_peers

DISTURBED = 0.04  # of all CPUs' time used by others

Round = dict[str, Load | Traced]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="rounds with tcptrace (default 7)")
    parser.add_argument("--peer-pairs", type=int, default=3, help="rounds with each peer (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each storm (default 2)")
    parser.add_argument("--cpu", type=int, metavar="N", help="keep client and server on this CPU: less noise")
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

    def __init__(self, seconds: float, cpu: int | None, patience_s: float) -> None:
        self.seconds = seconds
        self.cpu = cpu
        self.patience_s = patience_s
        self.discarded = 0

    def load(self) -> Load:
        return storm(self.seconds, self.cpu)

    def _quiet(self, run: Callable[[], Load | Traced]) -> Load | Traced:
        tries: list[Load | Traced] = []
        while not tries or (tables.elsewhere(tries[-1]) > DISTURBED and self.patience_s > 0):
            began = time.monotonic()
            wait_for_quiet(DISTURBED, min(self.patience_s, 20))
            waited = time.monotonic() - began
            tries.append(run())
            # Waiting costs patience, and so does a repeated run.
            self.patience_s -= waited if len(tries) == 1 else time.monotonic() - began
        self.discarded += len(tries) - 1
        return min(tries, key=tables.elsewhere)

    def rounds(self, tracers: list[Tracer], wanted: int) -> list[Round]:
        """That many rounds of an untraced run and one under each tracer, every second one the other way."""
        played: list[Round] = []
        for number in range(wanted):
            order: list[Tracer | None] = [None, *tracers]
            if number % 2:
                order.reverse()
            done: Round = {}
            for turn in order:
                if turn is None:
                    done["untraced"] = self._quiet(self.load)
                else:
                    done[turn.name] = self._quiet(functools.partial(turn.run, self.load))
            print(f"bench: round {number + 1} of {wanted}: {tables.one_line(done)}", file=sys.stderr)
            played.append(done)
        return played


def measure(options: argparse.Namespace) -> dict[str, object]:
    tracer = Tcptrace(options.record)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tcptrace-headers-")))
        peers, missing = installed_peers(scratch) if options.peer_pairs else ([], [])
        for sentence in missing:
            print(f"bench: {sentence}", file=sys.stderr)
        stack.enter_context(host.switched(host.BPF_STATS, "0"))
        if options.rps:
            stack.enter_context(host.switched(host.RPS_CPUS, "3"))
        field = Field(options.seconds, options.cpu, options.patience)
        storm(min(options.seconds, 1.0))  # warms up, and is not counted
        rounds = field.rounds([tracer], options.pairs)
        for peer in peers:
            try:
                rounds += field.rounds([peer], options.peer_pairs)
            except BenchError as error:
                print(f"bench: {error}; left out", file=sys.stderr)
        programs = []
        if not options.no_statistics:
            with host.switched(host.BPF_STATS, "1"):
                counted = tracer.run(field.load, statistics=True)
            programs = [
                {**asdict(cost), "runs_per_connection": cost.runs / counted.load.connections}
                for cost in counted.programs
            ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "host": host.describe(),
        "seconds": options.seconds,
        "cpu": options.cpu,
        "rps": options.rps,
        "record_options": options.record,
        "runs_discarded": field.discarded,
        "disturbance": max(map(tables.disturbance, rounds)),
        "results": tables.results(rounds),
        "programs": programs,
        "rounds": [{name: asdict(value) for name, value in done.items()} for done in rounds],
    }


def main() -> int:
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, to record and to read the kernel's statistics", file=sys.stderr)
        return 3
    name = "rps" if options.rps else "default"
    if options.write:
        tables.section(options.write, name)  # fails now rather than after the runs
    # SIGTERM cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures = measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(tables.document(figures))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"bench: figures of every run in {options.json}", file=sys.stderr)
    if options.write:
        tables.put_into(options.write, tables.document(figures), name)
        print(f"bench: tables written to {options.write}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
