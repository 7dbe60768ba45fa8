"""Plays a scenario: between two namespaces of this host, or one of its parts against another machine."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcptrace.errors import EXIT_HOST, HostError, TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import Namespace
from tcptrace.lab.part import Setting
from tcptrace.lab.recording import recording
from tcptrace.lab.scenario import FIRST_PORT, Scenario, Truth
from tcptrace.lab.stage import Stage, stage
from tcptrace.lab.witness import Notes, Witness

START_SECONDS = 10.0
WAIT_SECONDS = 120.0
"""How long a part waits for the other machine's."""

Say = Callable[[str], object]


@dataclass(frozen=True)
class Played:
    """A scenario that was played on this host: its trace, and what is true."""

    trace: Path
    truth: Truth
    means: str
    """What lay between the parts: veth, netem or relay."""


def between_namespaces(
    chosen: Scenario, trace: Path, *, slack: float = 1.0, say: Say = sys.stderr.write
) -> Played:
    """Play both parts on this host and record them into `trace`, which is overwritten.

    slack: how much more time things may take than on a machine of its own.

    Raises:
        HostError: this host cannot: not root, a kernel without what the scenario needs.
        TcptraceError: the recording or a part failed.
    """
    if os.geteuid() != 0:
        raise HostError("the lab needs root, to make network namespaces and to record: run it with sudo")
    with tempfile.TemporaryDirectory(prefix="tcptrace-lab-") as directory, stage(chosen.topology) as where:
        spaces = ["--netns", where.a.name, "--netns", where.b.name]
        with recording(trace, [*_ports(chosen), *spaces], say):
            notes = _both_parts(chosen, where, f"unix:{directory}/control", slack)
        log = None
        if where.link:
            where.link.stop()
            log = where.link.log()
        witness = Witness(notes["client"], notes["server"], log, chosen.topology.delay_ns)
        return Played(trace, chosen.truth(witness), where.means)


def one_part(
    chosen: Scenario, role: str, peer: str, trace: Path, truth_file: Path | None, say: Say = sys.stderr.write
) -> None:
    """Play one part against the other machine's, and record this end.

    The server waits for a client; the client for a server at `peer`, and writes the truth as JSON.

    Raises:
        TcptraceError: the recording or a part failed, as does that of a scenario which why_not_apart() names.
    """
    setting = Setting(peer=peer, wait_s=WAIT_SECONDS)
    with namespaces.orderly_end(), recording(trace, _ports(chosen), say):
        child = subprocess.Popen(
            _words(chosen, role, setting), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            noted = _finish(child, role, setting)
        finally:
            namespaces.stop(child)
    if truth_file:
        notes = {part: Notes(part, values) for part, values in noted.items()}
        truth = chosen.truth(Witness(notes["client"], notes["server"], None, None))
        truth_file.write_text(json.dumps(truth, indent=1) + "\n")


def why_not_apart(chosen: Scenario) -> str:
    """Why a scenario plays only between namespaces of one host; empty when it does between machines."""
    if chosen.private:
        return "its packets must not leave this host"
    if chosen.topology.scripted:
        return "only the lab's own relay can lose or delay the packets that it is about"
    return ""


def _ports(chosen: Scenario) -> list[str]:
    return [word for n in range(chosen.ports) for word in ("--port", str(FIRST_PORT + n))]


def _words(chosen: Scenario, role: str, setting: Setting) -> list[str]:
    return [sys.executable, "-m", "tcptrace.lab.part", chosen.name, role, setting.as_json()]


def _both_parts(chosen: Scenario, where: Stage, control: str, slack: float) -> dict[str, Notes]:
    """Start the server's part, then the client's, and wait for both."""
    server_sees = Setting(control, where.client.ipv4, where.client.ipv6, slack)
    client_sees = Setting(control, where.server.ipv4, where.server.ipv6, slack)
    server = _start(chosen, "server", where.b, server_sees)
    assert server.stdout
    limit = START_SECONDS * max(1.0, slack)
    if not select.select([server.stdout], [], [], limit)[0] or server.stdout.readline() != "listening\n":
        server.kill()
        _finish(server, "server", server_sees)
        raise TcptraceError(f"the server's part did not start within {limit:g} s")
    client = _start(chosen, "client", where.a, client_sees)
    noted = _finish(client, "client", client_sees)
    _finish(server, "server", server_sees)
    return {role: Notes(role, values) for role, values in noted.items()}


def _start(chosen: Scenario, role: str, space: Namespace, setting: Setting) -> subprocess.Popen[str]:
    return space.popen(
        _words(chosen, role, setting),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is for us, and we end the parts in order
    )


def _finish(child: subprocess.Popen[str], role: str, setting: Setting) -> dict[str, Any]:
    """Wait for a part's end. Returns what it printed; raises with its last words when it failed."""
    try:
        output, errors = child.communicate(timeout=setting.life_s)
    except subprocess.TimeoutExpired:
        raise TcptraceError(f"the {role}'s part did not end within {setting.life_s} s") from None
    if child.returncode:
        lines = (errors or "").strip().splitlines()
        last = lines[-1] if lines else f"the {role}'s part failed with {child.returncode}"
        raise (HostError if child.returncode == EXIT_HOST else TcptraceError)(last)
    notes: dict[str, Any] = json.loads(output.splitlines()[-1])
    return notes
