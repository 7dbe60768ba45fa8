"""Recorded handshake times against a packet capture, as `make accuracy` measures them."""

from __future__ import annotations

import shutil

import pytest

from conftest import require, why_no_recording
from experiment import RELAY, VARYING, VETH, Experiment, measure


@pytest.mark.parametrize("experiment", [VETH, RELAY, VARYING], ids=lambda experiment: experiment.name)
def test_handshakes_are_as_long_as_in_a_capture(experiment: Experiment) -> None:
    require(shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin") is not None, "no tcpdump")
    require(not why_no_recording(), why_no_recording())
    said: list[str] = []
    outcome = measure(experiment, say=said.append)
    assert not outcome.failures, "\n".join(said)
    for side in outcome.sides.values():
        assert len(side.differences) + side.missing == 500
