"""What the kernel under test may be without, and how much slower its machine may be.

Guests of `make matrix` set these; on a host neither is set, and whatever is missing skips.

TCPTRACE_MAY_LACK: capabilities, joined by commas, that may be missing; every other skip is a failure.
    They are fentry, kprobe, socket-storage, socket-cookie, compare-and-swap, netem, tun, and tp:NAME.
TCPTRACE_REQUIRE_KERNEL=1: none may be missing.
TCPTRACE_SLACK: multiplies the absolute parts of bounds (20 where a machine is emulated).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

MAY_LACK, REQUIRED, SLACK_FACTOR = "TCPTRACE_MAY_LACK", "TCPTRACE_REQUIRE_KERNEL", "TCPTRACE_SLACK"

PERMITTED = "may be missing here: "
"""How the reason of a permitted skip begins, by which it is told from every other."""

SLACK = float(os.environ.get(SLACK_FACTOR) or 1)
"""Factor for the absolute part of a bound, whatever its unit."""

PATIENCE = min(SLACK, 6.0)
"""Factor for limits after which a test gives up waiting: they are generous already."""


def may_lack(capability: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this kernel may be without it, as a guest's environment says."""
    return capability in (word.strip() for word in environment.get(MAY_LACK, "").split(","))


def why_it_fails(
    reason: str, lacking: Sequence[str], environment: Mapping[str, str] = os.environ
) -> str | None:
    """Why a test that wants to skip fails instead, or None when it may skip.

    Args:
        reason: what is missing, in words.
        lacking: the capabilities that are.
    """
    if MAY_LACK in environment:
        permitted = {word.strip() for word in environment[MAY_LACK].split(",")}
        if lacking and permitted.issuperset(lacking):
            return None
        unexpected = [word for word in lacking if word not in permitted]
        named = f" ({', '.join(unexpected)})" if unexpected else ""
        return f"not among {MAY_LACK}{named}: {reason}"
    if environment.get(REQUIRED) == "1":
        return f"required by {REQUIRED}=1: {reason}"
    return None


def is_unexpected(reason: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a skip that :func:`why_it_fails` was not asked about is one too many."""
    return MAY_LACK in environment and not reason.startswith(PERMITTED)
