"""What tests of `tcptrace record` say about how it ended."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drive import connect, receive
from recording import run
from tcptrace.errors import EXIT_INCOMPLETE, EXIT_OK
from tcptrace.lab.namespaces import SIDE_B, Namespace


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.splitlines()


def is_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command said one line, on stderr, with these parts in it."""
    assert len(lines(done)) == 1, done.stderr
    assert done.stderr.startswith("tcptrace: ")
    assert not done.stdout
    for part in parts:
        assert part in done.stderr


def complete(path: Path) -> dict[str, Any]:
    """`info --json` of a trace that ended well. What the kernel skipped elsewhere is no fault of ours."""
    done = run("info", str(path), "--json")
    assert done.returncode in (EXIT_OK, EXIT_INCOMPLETE), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["clean_end"] is True and not found["truncated"] and not found["damaged"], found
    assert all(cause == "total" or cause.startswith("recursion.") for cause in found["lost"]), found["lost"]
    return found


def ended_well(code: int, path: Path) -> bool:
    """Exit code 0, or 5 where the trace says that the kernel skipped something."""
    return code == (EXIT_INCOMPLETE if complete(path)["lost"]["total"] else EXIT_OK)


def connect_until(a: Namespace, listener: socket.socket, over: Callable[[], bool]) -> int:
    """Short connections from a until the condition holds. Returns how many."""
    made, deadline = 0, time.monotonic() + 20
    while not over():
        assert time.monotonic() < deadline, f"never over after {made} connections"
        with connect(a, SIDE_B.ipv4) as client:
            server = listener.accept()[0]
            server.close()
            assert receive(client, 1) == b""
        made += 1
    return made
