"""Run tcptrace's tests and scenarios under the kernels of kernels.toml, each in a guest of its own.

`make matrix` starts this; `python vagrant/matrix.py --help` says what can be chosen.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guest
import matrix_packages
import matrix_table
from matrix_kernels import Kernel, MatrixError, choose, load
from matrix_results import DOCTOR, SCENARIOS, TESTS, Reported, Result, hooks, summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build/matrix"
SLACK = 20
"""By how much the absolute parts of bounds are wider in an emulated guest."""

PANICS = 1
"""How often a kernel that panicked while its steps ran is tried again."""

FAST_TESTS = ("tests/kernel/test_lifecycle_close.py", "tests/kernel/test_budget_holds.py")
FAST_SCENARIOS = ("handshake", "nagle")

FUNCTIONS = """\
seconds() { cut -d' ' -f1 /proc/uptime; }
step() {
	name=$1 limit=$2
	shift 2
	begin=$(seconds)
	# An interrupted pytest still says what failed.
	timeout -s INT -k 60 "$limit" sh -c "exec $*"
	echo "$name $? $(echo "$(seconds) $begin" | awk '{print $1 - $2}')"
}
"""


@dataclass(frozen=True)
class Task:
    """One step of a guest: a command for its shell, with the seconds that it may take."""

    name: str
    limit: int
    command: str


def marked_tests() -> list[str]:
    """The files with a test that has the marker: a guest need not import the others."""
    files = sorted((ROOT / "tests/kernel").glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.matrix" in file.read_text()]


def tasks(directory: Path, fast: bool) -> list[Task]:
    """What runs in each guest; everything that is to be kept goes to the directory."""
    python = shlex.quote(sys.executable)
    at = shlex.quote(str(directory))
    files = " ".join(FAST_TESTS if fast else marked_tests())
    chosen = " ".join(FAST_SCENARIOS) if fast else "--fast"
    return [
        Task(DOCTOR, 300, f"{python} -m tcptrace doctor --json >{at}/doctor.json 2>{at}/doctor.log"),
        Task(
            TESTS,
            600 if fast else 1500,
            f"{python} -m pytest -p no:cacheprovider -m matrix --tb=short --junitxml={at}/tests.xml {files} "
            f">{at}/tests.log 2>&1",
        ),
        Task(
            SCENARIOS,
            600 if fast else 2400,
            f"{python} -m tcptrace lab verify {chosen} --slack {SLACK} --json "
            f">{at}/scenarios.json 2>{at}/scenarios.log",
        ),
    ]


def script(steps: Sequence[Task]) -> str:
    """The shell script of a guest: says its release, and how each step ended as soon as it has."""
    lines = [f"step {one.name} {one.limit} {shlex.quote(one.command)}" for one in steps]
    return FUNCTIONS + 'echo "release $(uname -r)"\n' + "\n".join(lines) + "\n"


class Matrix:
    """Runs kernels, some at once, and keeps their results under build/matrix/NAME."""

    def __init__(self, fast: bool) -> None:
        self._fast = fast
        self._running: set[subprocess.Popen[str]] = set()
        self._printing = threading.Lock()
        self._stopped = False

    def say(self, kernel: Kernel, text: str) -> None:
        with self._printing:
            for line in text.splitlines():
                print(f"{kernel.name:8} {line}", flush=True)

    def run(self, kernel: Kernel) -> Result:
        """Fetch, boot and run one kernel; never raises for what is wrong with it."""
        begin = time.monotonic()
        panics = 0
        facts: tuple[dict[str, Any], ...] = ()
        try:
            image = matrix_packages.fetch(kernel, lambda text: self.say(kernel, text))
            with self._alone(kernel):
                for panics in range(PANICS + 1):
                    reported, problem, code = self._guest(kernel, image)
                    if code != guest.PANICKED or panics == PANICS:
                        break
                    self.say(kernel, f"{problem}\nonce more: emulated kernels panic now and then")
                facts = hooks(RESULTS / kernel.name)
        except (MatrixError, OSError) as error:
            reported, problem = Reported(), str(error)
        if problem:
            self.say(kernel, problem)
        return Result(
            kernel.name,
            reported.release,
            time.monotonic() - begin,
            tuple(reported.steps),
            facts,
            problem,
            panics,
        )

    @contextlib.contextmanager
    def _alone(self, kernel: Kernel) -> Iterator[None]:
        """No other run uses this kernel's directory of results meanwhile."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / f"{kernel.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.say(kernel, "waiting for another run of this kernel to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _guest(self, kernel: Kernel, image: Path) -> tuple[Reported, str, int]:
        directory = RESULTS / kernel.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        steps = tasks(directory, self._fast)
        limit = sum(step.limit for step in steps) + 60
        command = [sys.executable, guest.__file__, str(image), "--with-parent"]
        command += ["--limit", str(limit), "--share", str(directory)]
        for name, value in {
            "TCPTRACE_MAY_LACK": ",".join(kernel.may_lack),
            "TCPTRACE_SLACK": str(SLACK),
            "NO_COLOR": "1",
        }.items():
            command += ["--set", f"{name}={value}"]
        process = subprocess.Popen(
            [*command, "--", "sh", "-c", script(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
        )
        self._running.add(process)
        if self._stopped:
            process.terminate()
        reported, said = Reported(kernel.may_lack), []
        assert process.stdout
        with process:
            for line in process.stdout:
                if step := reported.take(line, directory):
                    verdict = "FAILED" if step.problems else "ok"
                    self.say(kernel, f"{step.name:10} {verdict:7} {step.words} ({step.seconds:.0f} s)")
                    self.say(kernel, "\n".join(f"  {problem}" for problem in step.problems))
                elif not line.startswith("release "):
                    said.append(line)
        self._running.discard(process)
        return reported, "".join(said).strip() if process.returncode else "", process.returncode

    def stop(self) -> None:
        """End every guest."""
        self._stopped = True
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


def run_all(kernels: Sequence[Kernel], fast: bool, at_once: int) -> list[Result]:
    """The results of kernels in their order, so many running at once; nothing is left running."""
    matrix = Matrix(fast)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        try:
            return list(pool.map(matrix.run, kernels))
        except BaseException:
            matrix.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description="Run tests and scenarios under other kernels, in guests without KVM. Exits with 1 when "
        "anything failed. A run of all kernels without --fast that is green writes README.md's table."
    )
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="names of kernels.toml (all)")
    parser.add_argument("--fast", action="store_true", help="a few tests and scenarios only, for CI")
    parser.add_argument("--at-once", type=int, default=min(cpus, 2), metavar="N", help="guests at a time")
    given = parser.parse_args(arguments)

    def terminate(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    begin = time.monotonic()
    try:
        every = load()
        chosen = choose(every, given.kernels)
        if os.geteuid():
            raise MatrixError("guests are started as root, who alone can share all files: use sudo")
        results = run_all(chosen, given.fast, max(1, given.at_once))
        print("\n" + "\n".join(summary(results)))
        green = all(result.green for result in results)
        print(f"\n{'green' if green else 'NOT GREEN'}, {(time.monotonic() - begin) / 60:.1f} min")
        if not green:
            print(f"logs: {RESULTS}")
        elif chosen == every and not given.fast:
            changed = matrix_table.write(ROOT / "README.md", results)
            print(f"the support table in README.md {'is new' if changed else 'is as it was'}")
    except MatrixError as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
