"""`--provider` of the real commands: what is refused and how, and where a forced provider shows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ending import is_one_line
from recording import COMMAND, Recording, run
from tcptrace.acquire.choice import Choice
from tcptrace.acquire.kernel import KernelTypes
from tcptrace.acquire.providers import BUDGET, LIFECYCLE
from tcptrace.errors import EXIT_HOST, EXIT_OK, EXIT_USAGE
from tcptrace.lab.namespaces import Namespace

pytestmark = pytest.mark.usefixtures("can_record")

Record = Callable[..., Recording]


def refused(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`record` with options that it does not take."""
    words = [word for option in options for word in ("--provider", option)]
    return run("record", "-o", str(path), "-d", "1s", *words)


def impossible() -> tuple[str, str, str]:
    """A fact, a provider that this kernel has not, and why."""
    types = KernelTypes()
    try:
        hooks = Choice(LIFECYCLE + BUDGET, types).hooks()
    finally:
        types.close()
    for hook in hooks:
        for provider, reason in hook.providers:
            if reason:
                return hook.fact, provider.name, reason
    pytest.skip("this kernel has every provider")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("writes=none", ("no fact 'writes'", "write entered")),
        ("read=uprobe", ("no provider 'uprobe'", "tp_btf/tcp_rcv_space_adjust")),
        ("read", ("FACT=PROVIDER",)),
    ],
)
def test_what_is_unknown_is_wrong_usage(tmp_path: Path, option: str, words: tuple[str, ...]) -> None:
    for done in (refused(tmp_path / "x.tct", option), run("doctor", "--provider", option)):
        assert done.returncode == EXIT_USAGE
        is_one_line(done, *words)
    assert not (tmp_path / "x.tct").exists()


def test_a_fact_of_the_budget_is_none_of_the_lifecycles(tmp_path: Path) -> None:
    done = run("record", "-o", str(tmp_path / "x"), "--mode", "lifecycle", "--provider", "read=none")
    assert done.returncode == EXIT_USAGE
    is_one_line(done, "--mode lifecycle does not record")


def test_what_does_not_attach_here_ends_with_the_reason(tmp_path: Path) -> None:
    fact, provider, reason = impossible()
    done = refused(tmp_path / "x.tct", f"{fact}={provider}")
    assert done.returncode == EXIT_HOST
    assert done.stderr == f"tcptrace: --provider '{fact}={provider}': {reason}\n"
    assert not (tmp_path / "x.tct").exists()

    asked = run("doctor", "--json", "--provider", f"{fact}={provider}")
    assert asked.returncode == EXIT_HOST
    found = json.loads(asked.stdout)
    assert not found["ready"]
    assert any(reason in check["found"] for check in found["checks"] if check["ok"] is False)


def test_a_forced_provider_shows_in_trace_info_and_doctor(space: Namespace, record: Record) -> None:
    forced = {"left for the device": "tp_btf/net_dev_queue", "read returned": "none"}
    options = [word for fact, name in forced.items() for word in ("--provider", f"{fact}={name}")]
    recording = record("--netns", space.inode, *options)
    recording.finish()
    header = recording.info()["header"]
    assert header["options"]["providers"] == forced
    hooks = {hook["fact"]: hook for hook in header["hooks"]}
    queue, left_out = (hooks[fact] for fact in forced)
    assert (queue["provider"], queue["exact"]) == ("tp_btf/net_dev_queue", False)
    assert queue["reason"].startswith("estimated: ")
    assert (left_out["provider"], left_out["exact"]) == (None, False)
    text = run("info", str(recording.path)).stdout
    assert "estimated" in text and "left out on purpose" in text

    asked = subprocess.run([*COMMAND, "doctor", "--json", *options], capture_output=True, check=False)
    assert asked.returncode == EXIT_OK
    assert json.loads(asked.stdout)["hooks"] == header["hooks"]
