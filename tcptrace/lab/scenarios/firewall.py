"""A firewall that rejects with a reset: it looks like a closed port, but for one thing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

from tcptrace.errors import HostError
from tcptrace.lab import kernel_counters
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.part import Part, punctual, receive
from tcptrace.lab.rows import Rows, column, common
from tcptrace.lab.scenario import Scenario, Topology, Truth
from tcptrace.lab.sockets import linger_zero
from tcptrace.lab.tcpinfo import ESTABLISHED, tcp_info
from tcptrace.lab.witness import Witness

ROUNDS = 4
OPEN_S = 0.04
CLOSED, REJECTED, CUT = PORTS = (7001, 7002, 7003)
REFUSED = {CLOSED: "closed port", REJECTED: "rejected port"}


@contextlib.contextmanager
def rejecting(port: int) -> Iterator[None]:
    """While it lasts, the host's own firewall answers what comes for a port with a reset.

    Raises:
        HostError: there is no iptables, or this kernel does not have what the rule needs.
    """
    program = shutil.which("iptables", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostError("this scenario needs the command 'iptables': apt install iptables")
    rule = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset"]
    done = subprocess.run([program, "-w", "-A", *rule], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise HostError(f"this kernel has no firewall that rejects with a reset: {reason}")
    try:
        yield
    finally:
        subprocess.run([program, "-w", "-D", *rule], capture_output=True, check=False)


def server(part: Part) -> None:
    punctual()
    part.serve(REJECTED, lambda connection: None)
    with part.listen(CUT) as listener:
        part.ready()
        for port in REFUSED:
            resets = kernel_counters.read()["TcpOutRsts"]
            with rejecting(REJECTED):
                part.tell("set", port)
                part.hear("refused")
            part.note(f"resets_{port}", kernel_counters.read()["TcpOutRsts"] - resets)
        for _ in range(ROUNDS):
            part.tell("open")
            with listener.accept()[0] as one:
                opened_ns = time.monotonic_ns()
                one.sendall(receive(one, 1))
                time.sleep(OPEN_S)
                with rejecting(CUT):
                    part.tell("cut")
                    part.hear("reset")
                    part.note("still_established", tcp_info(one).state == ESTABLISHED)
                    linger_zero(one)
                    part.note("open_server_ns", time.monotonic_ns() - opened_ns)
                    one.close()
    part.until_done()


def client(part: Part) -> None:
    punctual()
    for port in REFUSED:
        part.hear("set")
        for _ in range(ROUNDS):
            begin = time.monotonic_ns()
            try:
                part.connect(port).close()
            except OSError as error:
                part.note(f"error_{port}", errno.errorcode.get(error.errno or 0, str(error)))
            part.note(f"connect_{port}_ns", time.monotonic_ns() - begin)
        part.tell("refused")
    for _ in range(ROUNDS):
        part.hear("open")
        with part.connect(CUT) as one:
            opened_ns = time.monotonic_ns()
            one.sendall(b"x")
            receive(one, 1)
            part.hear("cut")
            part.note("open_client_ns", time.monotonic_ns() - opened_ns)
            one.sendall(b"x")
            try:
                one.recv(1)
            except OSError as error:
                part.note(f"error_{CUT}", errno.errorcode.get(error.errno or 0, str(error)))
            part.tell("reset")


def truth(witness: Witness) -> Truth:
    """What the applications were told, their clocks, and how many resets the server's TCP counted by port:
    its firewall sends its own."""
    found: Truth = {name: witness.client[name] for name in (f"connect_{port}_ns" for port in REFUSED)} | {
        f"resets_{port}": witness.server.one(f"resets_{port}") for port in REFUSED
    }
    for port in PORTS:
        found[f"errors_{port}"] = ", ".join(sorted(set(witness.client[f"error_{port}"])))
    return found | {
        "open_client_ns": witness.client["open_client_ns"],
        "open_server_ns": witness.server["open_server_ns"],
        "still_established": sum(witness.server["still_established"]),
    }


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    told = {"ECONNREFUSED": "refused", "ECONNRESET": "reset_received"}
    for port, name in REFUSED.items():
        ends = rows.ends("active", port)
        yield same(f"{name}: rows of clients", ROUNDS, len(ends))
        yield same(f"{name}: rows of the server", 0, len(rows.ends("passive", port)))
        errors = truth[f"errors_{port}"]
        yield same(f"{name}: close_reason", told.get(errors, errors), common(ends, "close_reason"))
        yield same(f"{name}: initiator", "remote", common(ends, "initiator"))
        longer = zip(column(ends, "syn_sent_ns"), truth[f"connect_{port}_ns"], strict=False)
        within = sum(sent is not None and sent < took for sent, took in longer)
        yield same(f"{name}: times in SYN_SENT within the connect()", ROUNDS, within)
        strays = rows.stray_resets(port)
        if strays is not None:
            yield same(f"{name}: resets by the server's TCP", truth[f"resets_{port}"], strays)
    client, server = rows.ends("active", CUT), rows.ends("passive", CUT)
    name = "rejected while open"
    errors = truth[f"errors_{CUT}"]
    yield same(f"{name}: client's close_reason", told.get(errors, errors), common(client, "close_reason"))
    yield same(f"{name}: client's initiator", "remote", common(client, "initiator"))
    outlived = sum(
        None not in (ours["established_ns"], theirs["established_ns"])
        and ours["established_ns"] < theirs["established_ns"]
        for ours, theirs in zip(client, server, strict=False)
    )
    yield same(f"{name}: servers that did not notice", truth["still_established"], outlived)
    yield same(f"{name}: server's close_reason", "reset_sent", common(server, "close_reason"))
    for end, ends in (("client", client), ("server", server)):
        yield each(
            f"{name}: {end} lived",
            truth[f"open_{end}_ns"],
            column(ends, "established_ns"),
            relative=0.02,
            absolute_ns=1_500_000,
        )


SCENARIO = Scenario(
    name="firewall",
    chapter="resets",
    title="A firewall that rejects with a reset, before a connection and in the middle of one",
    teaches="To the client a firewall's reset and a closed port are one: refused, after a round trip. At the "
    "server they differ: its TCP answers for a closed port, which is an event (reset without a connection); "
    "for a rejected one it sees nothing. A rule that comes while a connection is open resets the client's "
    "end alone: the server's row lives on.",
    topology=Topology(),
    ports=len(PORTS),
    server=server,
    client=client,
    truth=truth,
    checks=checks,
    private=True,
)
