"""Kernel tests: real sockets in namespaces of their own, recorded by the real command.

What a host lacks skips a test with the reason; TCPTRACE_REQUIRE_KERNEL=1 turns each skip into a
failure, so that a run that claims to have tested the kernel has. See lacking.py for guests.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lacking import PERMITTED, is_unexpected, why_it_fails
from recording import Recording
from tcptrace.lab import namespaces
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import Namespace


def require(condition: bool, reason: str, *lacking: str) -> None:
    """Skip with a reason, or fail with it where the kernel must have it.

    Args:
        lacking: the capabilities (see lacking.py) that are missing when the condition does not hold.
    """
    if condition:
        return
    if failure := why_it_fails(reason, lacking):
        pytest.fail(failure, pytrace=False)
    pytest.skip(f"{PERMITTED}{', '.join(lacking)}: {reason}" if lacking else reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where it is said what may be missing, a skip for any other reason is a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = words.removeprefix("Skipped: ")
        if is_unexpected(reason):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} would skip: {why_it_fails(reason, ())}"
    return report


@functools.cache
def why_no_lab() -> str:
    """The reason for which no namespace can be made here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux: no network namespaces"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: no link between namespaces"
    return ""


@functools.cache
def why_no_recording() -> str:
    """The reason for which nothing can be recorded here, as `doctor` says it, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tcptrace", "doctor"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
    return f"tcptrace doctor: {lines[-1]}"


@pytest.fixture(autouse=True)
def _lab() -> None:
    require(not why_no_lab(), why_no_lab())


@pytest.fixture
def wired() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces joined by a veth pair: SIDE_A in the first, SIDE_B in the second."""
    with namespaces.pair() as (a, b):
        yield a, b


@pytest.fixture
def linked() -> Iterator[Callable[..., Link]]:
    """Makes a link with the options of :class:`Link` between two new namespaces, `.a` and `.b`."""
    with namespaces.pair(wired=False) as (a, b):
        links: list[Link] = []

        def make(**options: Any) -> Link:
            links.append(Link(a, b, **options).__enter__())
            return links[-1]

        try:
            yield make
        finally:
            for link in links:
                link.close()


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A quiet namespace, so that --netns leaves the host's own connections out."""
    with Namespace() as made:
        yield made


@pytest.fixture
def can_record() -> None:
    """Needs a host that can record."""
    require(not why_no_recording(), why_no_recording())


@pytest.fixture
def record(can_record: None, tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    """Starts `tcptrace record` with the given arguments, once it says that it is recording."""
    started: list[Recording] = []

    def start(*arguments: object, **options: Any) -> Recording:
        path = tmp_path / f"{len(started)}.tct"
        started.append(Recording(path, [str(argument) for argument in arguments], **options))
        return started[-1]

    try:
        yield start
    finally:
        for recording in started:
            recording.abandon()


@pytest.fixture
def sctp() -> None:
    """Needs SCTP in the kernel."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    except OSError as error:
        pytest.skip(f"no SCTP in this kernel: {error.strerror}")
