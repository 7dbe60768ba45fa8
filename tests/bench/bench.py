"""What recording costs: a storm of short connections, with and without a tracer, in interleaved pairs.

Each round runs the untraced storm and then the storm under each tracer, every second round the other way
round, so that a drift of the machine hits both alike; ratios are taken within a round, and their median is
shown with the extremes. Peers take part where they are installed. The cost of each program comes from one
run of its own, because the kernel's statistics cost something themselves. Needs root.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import host
import tables
from load import ROOT, Load, storm
from tracers import BenchError, Tcptrace, Traced, Tracer, installed_peers

Round = dict[str, Load | Traced]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="rounds with tcptrace (default 7)")
    parser.add_argument(
        "--peer-pairs", type=int, default=3, help="rounds in which the peers take part too (3)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each storm (2)")
    parser.add_argument(
        "--rps", action="store_true", help="steer received packets to both CPUs (rps_cpus of lo)"
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


def play(pairs: int, peer_pairs: int, seconds: float, tracer: Tracer, peers: list[Tracer]) -> Iterator[Round]:
    """The rounds, one by one."""

    def load() -> Load:
        return storm(seconds)

    storm(min(seconds, 1.0))  # warms up, and is not counted
    for number in range(max(pairs, peer_pairs)):
        tracers = [tracer] if number < pairs else []
        tracers += peers if number < peer_pairs else []
        order: list[Tracer | None] = [None, *tracers]
        if number % 2:
            order.reverse()
        done: Round = {}
        for turn in order:
            if turn is None:
                done["untraced"] = load()
                continue
            try:
                done[turn.name] = turn.run(load)
            except BenchError as error:
                if turn is tracer:
                    raise
                print(f"bench: {error}; left out", file=sys.stderr)
                peers.remove(turn)
        yield done


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
        rounds = []
        playing = play(options.pairs, options.peer_pairs, options.seconds, tracer, [*peers])
        for number, done in enumerate(playing, 1):
            rounds.append(done)
            print(f"bench: round {number}: {tables.one_line(done)}", file=sys.stderr)
        programs = []
        if not options.no_statistics:
            with host.switched(host.BPF_STATS, "1"):
                counted = tracer.run(lambda: storm(options.seconds), statistics=True)
            programs = [
                {**asdict(cost), "runs_per_connection": cost.runs / counted.load.connections}
                for cost in counted.programs
            ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "host": host.describe(),
        "seconds": options.seconds,
        "rps": options.rps,
        "record_options": options.record,
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
