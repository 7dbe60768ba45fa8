"""`tcptrace record`, as a user would run it, around something that happens meanwhile."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tcptrace.errors import EXIT_HOST, EXIT_INCOMPLETE, EXIT_OK, HostError, TcptraceError
from tcptrace.lab import namespaces

TCPTRACE = [sys.executable, "-m", "tcptrace"]
LIFE_SECONDS = 1800
"""It ends by itself after so long, whatever became of us."""
LIMIT_SECONDS = 120.0
"""For everything to be written out, at the very worst."""


@contextlib.contextmanager
def recording(
    path: Path, arguments: Sequence[str], say: Callable[[str], object] = sys.stderr.write
) -> Iterator[None]:
    """Record from the line `recording` to the end of the block.

    path: the trace, overwritten. arguments: further ones of `tcptrace record`. say: gets its messages.

    Raises:
        HostError: this host cannot record; the message is tcptrace's.
        TcptraceError: it failed otherwise.
    """
    command = [*TCPTRACE, "record", "--force", "-o", str(path), "-d", f"{LIFE_SECONDS}s", *arguments]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stderr
    try:
        line = ""
        for line in child.stderr:
            say(line)
            if line.startswith("recording"):
                break
        else:
            status = child.wait(LIMIT_SECONDS)
            reason = line.strip().removeprefix("tcptrace: ") or "it gave no reason"
            raise (HostError if status == EXIT_HOST else TcptraceError)(f"nothing was recorded: {reason}")
        yield
        child.send_signal(signal.SIGINT)
        say(child.communicate(timeout=LIMIT_SECONDS)[1])
        if child.returncode not in (EXIT_OK, EXIT_INCOMPLETE):
            raise TcptraceError(f"tcptrace record failed with {child.returncode}")
    finally:
        namespaces.stop(child)
        child.stderr.close()
