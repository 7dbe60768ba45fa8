"""The command line in a fork of this process, which has its libraries loaded already.

An emulated guest takes seconds to start Python and load them, for each command that a test runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

import pyarrow  # noqa: F401  the dearest of what the commands import


def run(arguments: tuple[str, ...], seconds: float) -> subprocess.CompletedProcess[str]:
    """What subprocess.run() of `tcptrace` with these arguments would return, or raise."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if not child:
            _become(arguments, output.fileno(), errors.fileno())
        deadline = time.monotonic() + seconds
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise subprocess.TimeoutExpired(["tcptrace", *arguments], seconds)
            time.sleep(0.01)
        output.seek(0)
        errors.seek(0)
        code = os.waitstatus_to_exitcode(ended[1])
        return subprocess.CompletedProcess(["tcptrace", *arguments], code, output.read(), errors.read())


def _become(arguments: tuple[str, ...], output: int, errors: int) -> None:
    """In the child: run the command, and never return to the test."""
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.environ["NO_COLOR"] = "1"
        from tcptrace.cli import run as run_command

        code = run_command(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
